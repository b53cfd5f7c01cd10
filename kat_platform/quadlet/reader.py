"""Reads one ``.kat`` file: bytes → YAML → documents, each error with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from pydantic import ValidationError

from kat_platform.model.base import API_VERSION
from kat_platform.model.documents import KINDS
from kat_platform.model.meta import Document
from kat_platform.model.secret import Secret
from kat_platform.quadlet import limits
from kat_platform.quadlet.locate import find, place
from kat_platform.quadlet.problem import Problem, path_text
from kat_platform.quadlet.suggest import nearest
from kat_platform.quadlet.translate import Translator
from kat_platform.quadlet.tree import Budget, Node, Refused, read_documents


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document and the tree it was read from."""

    document: Document
    root: Node

    @property
    def kind(self) -> str:
        """The document's kind."""
        return self.document.kind

    @property
    def name(self) -> str:
        """The document's name."""
        return self.document.metadata.name

    @property
    def namespace(self) -> str:
        """The document's namespace."""
        return self.document.metadata.namespace

    def problem(self, path: tuple[str | int, ...], message: str, suggestion: str | None = None) -> Problem:
        """Make a problem that stands at a field of this document."""
        return Problem(*place(self.root, path), path_text(path), message, suggestion)

    def warning(self, path: tuple[str | int, ...], message: str) -> Problem:
        """Make a warning that stands at a field of this document."""
        return Problem(*place(self.root, path), path_text(path), message, severity="warning")


def read_file(
    content: bytes,
    file: str,
    problems: list[Problem],
    kinds: Mapping[str, type[Document]] = KINDS,
    budget: Budget | None = None,
) -> list[Parsed]:
    """Give the documents of a file; what is wrong is added to ``problems``, and the rest is read all the same.

    Past ``MAX_PROBLEMS`` the rest is left unread. Files that are read together share a ``budget``.
    """
    text = _decode(content, file, problems)
    if text is None:
        return []
    found: list[Parsed] = []
    roots = 0
    try:
        for root in read_documents(text, file, problems, budget):
            roots += 1
            if len(problems) > limits.MAX_PROBLEMS:
                return found
            document = _read_document(root, problems, kinds)
            if document is not None:
                found.append(Parsed(document, root))
    except Refused as refusal:
        problems.append(refusal.problem)
        return found
    if roots == 0:
        problems.append(
            Problem(file, 1, 1, "", "the file is empty: write a document with apiVersion, kind and metadata")
        )
    return found


def _decode(content: bytes, file: str, problems: list[Problem]) -> str | None:
    def refuse(message: str, line: int = 1, column: int = 1) -> None:
        problems.append(Problem(file, line, column, "", message))

    if len(content) > limits.MAX_DOCUMENT_BYTES:
        refuse(f"the file has {len(content)} bytes: at most {limits.MAX_DOCUMENT_BYTES} are accepted")
        return None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        refuse("the file is UTF-16: save it as UTF-8")
        return None
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        refuse("the file is not UTF-8", before.count(b"\n") + 1, column)
        return None
    # Lines are told apart as people and editors count them: CRLF is one end of line.
    return text.replace("\r\n", "\n")


def _read_document(root: Node, problems: list[Problem], kinds: Mapping[str, type[Document]]) -> Document | None:
    if root.kind != "mapping":
        problems.append(Problem(*root.location, "", f"a document is a mapping, and this is a {root.kind}"))
        return None
    before = len(problems)
    _check_version(root, problems)
    model = _model(root, problems, kinds)
    if model is None:
        return None
    data = {**root.to_data(), "apiVersion": API_VERSION}
    try:
        document = model.model_validate_json(json.dumps(data), by_alias=True, by_name=False)
    except ValidationError as error:
        found = Translator(root, model, secret=model is Secret).problems(error)
        problems.extend(islice(found, limits.MAX_PROBLEMS + 1))
        return None
    return document if len(problems) == before else None


def _check_version(root: Node, problems: list[Problem]) -> None:
    node = find(root, ("apiVersion",))
    if node is None:
        problems.extend(_misspelt(root, "apiVersion"))
        message, line = "the key 'apiVersion' is missing", f"apiVersion: {API_VERSION}"
        problems.append(Problem(*root.location, "apiVersion", message, line))
    elif node.value != API_VERSION:
        what = f"is '{node.raw[:80]}'" if node.kind == "scalar" else f"is a {node.kind}"
        problems.append(
            Problem(*node.location, "apiVersion", f"'apiVersion' {what}, which this version does not know", API_VERSION)
        )


def _model(root: Node, problems: list[Problem], kinds: Mapping[str, type[Document]]) -> type[Document] | None:
    node = find(root, ("kind",))
    if node is None:
        problems.extend(_misspelt(root, "kind"))
        problems.append(Problem(*root.location, "kind", f"the key 'kind' is missing: one of {', '.join(kinds)}"))
        return None
    if isinstance(node.value, str) and node.value in kinds:
        return kinds[node.value]
    what = f"'{node.raw[:80]}'" if node.kind == "scalar" else f"a {node.kind}"
    if isinstance(node.value, str) and node.value in KINDS:
        reason = (
            "a ClusterConfiguration stands apart from Quadlets, in cluster.kat"
            if node.value == "ClusterConfiguration"
            else f"kind {what} does not belong in this file, which holds {' or '.join(kinds)}"
        )
        problems.append(Problem(*node.location, "kind", reason))
        return None
    suggestion = nearest(node.raw, kinds)
    message = f"'kind' is {what}, and must be one of {', '.join(kinds)}"
    problems.append(Problem(*node.location, "kind", message, suggestion))
    return None


def _misspelt(root: Node, wanted: str) -> list[Problem]:
    known = ("apiVersion", "kind", "metadata", "spec")
    near = [key for key in root.entries if key not in known and nearest(key, known) == wanted]
    return [
        Problem(*root.entries[key][0].location, key, f"unknown key '{key[:80]}' in a document", wanted)
        for key in near[:1]
    ]
