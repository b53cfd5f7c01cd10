"""YAML as a tree that knows where each node stands, built from parser events within hard limits.

The events come from PyYAML (libyaml where it is there). Nodes are built here and not by a constructor, because here
no tag makes an object, a repeated key is an error, nesting and aliases have a budget, and every node keeps its place.

Plain scalars are read so that what YAML 1.1 writes (PyYAML, and the many tools on it) comes back the same: ``yes``,
``no``, ``on`` and ``off`` are booleans, and ``1e3`` or ``12345e7`` (a commit, say) are text, for want of a dot. What
would surprise people is refused (``0755`` would be 493) or text (``10:30`` would be 630).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from kat_platform.quadlet import limits
from kat_platform.quadlet.problem import Location, Problem

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PREFIX: Final = "tag:yaml.org,2002:"
_BOOLEANS: Final = {
    **{text: True for word in ("true", "yes", "on") for text in (word, word.capitalize(), word.upper())},
    **{text: False for word in ("false", "no", "off") for text in (word, word.capitalize(), word.upper())},
}
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_OCTAL: Final = re.compile(r"[-+]?0([0-7_]+|x[0-9a-fA-F_]+|b[01_]+)")
_FLOAT: Final = re.compile(r"(\.[0-9]+|[-+]?[0-9]+\.[0-9]*)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LONGEST_NUMBER: Final = 40

Scalar = str | int | float | bool | None


class Refused(Exception):
    """The text is not acceptable at all; carries the one problem that ends the reading of the file."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(slots=True)
class Node:
    """A mapping (``entries``), a list (``items``) or a scalar (``value``, and ``raw`` as it is written)."""

    location: Location
    kind: str
    value: Scalar = None
    raw: str = ""
    quoted: bool = False
    entries: dict[str, tuple[Node, Node]] = field(default_factory=dict)
    """Key → node of the key, node of the value."""
    items: list[Node] = field(default_factory=list)
    weight: int = 1
    """Nodes in it, aliases written out."""
    text: int = 0
    """Characters in it, aliases written out."""

    def to_data(self) -> Any:
        """Give plain Python data."""
        if self.kind == "mapping":
            return {key: value.to_data() for key, (_, value) in self.entries.items()}
        return [item.to_data() for item in self.items] if self.kind == "list" else self.value


@dataclass(slots=True)
class Budget:
    """What has been read so far of all documents that are read together."""

    nodes: int = 0
    text: int = 0


class _Builder:
    """Turns the events of one file into documents; collects problems that do not end the reading."""

    def __init__(self, file: str, problems: list[Problem], budget: Budget) -> None:
        self.budget = budget
        self.file = file
        self.problems = problems
        self.anchors: dict[str, Node | None] = {}
        self.stack: list[tuple[Node, Node | None, str | None]] = []
        self.pending: Node | None = None
        self.root: Node | None = None

    def place(self, event: Any) -> Location:
        mark = event.start_mark
        return Location(self.file, mark.line + 1, mark.column + 1)

    def refuse(self, where: Location, message: str) -> Refused:
        return Refused(Problem(*where, "", message))

    def note(self, where: Location, message: str, suggestion: str | None = None) -> None:
        if len(self.problems) <= limits.MAX_PROBLEMS:
            self.problems.append(Problem(*where, "", message, suggestion))

    def scalar(self, event: Any) -> None:
        plain = not event.style
        node = Node(self.place(event), "scalar", raw=event.value, quoted=not plain, text=len(event.value))
        self._count(1, node.text, node.location)
        if "\0" in event.value or any("\ud800" <= character <= "\udfff" for character in event.value):
            raise self.refuse(node.location, "the text contains a NUL or half a character")
        node.value = self._resolve(node, event.tag, plain=plain)
        self._add(node, event.anchor)

    def _resolve(self, node: Node, tag: str | None, *, plain: bool) -> Scalar:
        known = {f"{_PREFIX}{name}" for name in ("str", "int", "float", "bool", "null")}
        if tag is not None and tag not in (*known, "!"):
            raise self.refuse(node.location, f"the tag {_shown(tag)} is not accepted: a document holds plain data only")
        raw = node.raw
        if tag in (f"{_PREFIX}str", "!") or (tag is None and not plain):
            return raw
        if raw in _NULLS:
            return None
        if raw in _BOOLEANS:
            return _BOOLEANS[raw]
        if len(raw) <= _LONGEST_NUMBER:
            if _INTEGER.fullmatch(raw):
                return int(raw)
            if _OCTAL.fullmatch(raw):
                # The value is not shown: it may be that of a Secret.
                self.note(node.location, "an octal, binary or hexadecimal number: write it in decimal, or in quotes")
                return raw
            if _FLOAT.fullmatch(raw):
                return float(raw.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return raw

    def start(self, event: Any, kind: str) -> None:
        where = self.place(event)
        if event.tag not in (None, "!", f"{_PREFIX}map", f"{_PREFIX}seq"):
            raise self.refuse(where, f"the tag {_shown(event.tag)} is not accepted: a document holds plain data only")
        if len(self.stack) >= limits.MAX_NESTING:
            raise self.refuse(where, f"mappings and lists are nested deeper than {limits.MAX_NESTING} levels")
        if self.stack and self.stack[-1][0].kind == "mapping" and self.pending is None:
            raise self.refuse(where, f"a {kind} cannot be a key: write a name")
        self._count(1, 0, where)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        self.stack.append((Node(where, kind), self.pending, event.anchor))
        self.pending = None

    def end(self) -> None:
        node, self.pending, anchor = self.stack.pop()
        self._add(node, anchor)

    def alias(self, event: Any) -> None:
        where = self.place(event)
        if event.anchor not in self.anchors:
            raise self.refuse(where, f"the alias *{event.anchor} has no anchor &{event.anchor} before it")
        node = self.anchors[event.anchor]
        if node is None:
            raise self.refuse(where, f"the alias *{event.anchor} stands within its own anchor")
        self._count(node.weight, node.text, where)
        self._add(node, None)

    def _count(self, nodes: int, text: int, where: Location) -> None:
        self.budget.nodes += nodes
        self.budget.text += text
        if self.budget.nodes > limits.MAX_NODES:
            raise self.refuse(where, f"there are more than {limits.MAX_NODES} nodes, with all aliases written out")
        if self.budget.text > limits.MAX_EXPANDED_TEXT:
            limit = limits.MAX_EXPANDED_TEXT
            raise self.refuse(where, f"there are more than {limit} characters, with all aliases written out")

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1][0]
        if parent.kind == "list":
            parent.items.append(node)
        elif self.pending is None:
            if node.kind != "scalar":
                raise self.refuse(node.location, f"a {node.kind} cannot be a key: write a name")
            self.pending = node
        else:
            self._entry(parent, self.pending, node)
            self.pending = None
        parent.weight += node.weight
        parent.text += node.text

    def _entry(self, parent: Node, key: Node, value: Node) -> None:
        if key.raw == "<<" and not key.quoted:
            self.note(key.location, "merge keys (<<) are not supported: write the fields out")
        elif not isinstance(key.value, str):
            what = "empty" if key.value is None else f"read as {_kind_of(key.value)}"
            self.note(
                key.location, f"the key {key.raw or '(none)'} is {what}, not text: write it in quotes", f'"{key.raw}"'
            )
        elif key.value in parent.entries:
            first = parent.entries[key.value][0].location
            self.note(key.location, f"the key '{_shown(key.value)}' is given twice; first in line {first.line}")
        else:
            parent.entries[key.value] = (key, value)


def _kind_of(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "a number" if isinstance(value, int | float) else "text"


def _shown(text: str) -> str:
    return text[:80].removeprefix(_PREFIX) if len(text) <= 80 else f"{text[:80]}..."


def read_documents(text: str, file: str, problems: list[Problem], budget: Budget | None = None) -> Iterator[Node]:
    """Give each document of a text that is not empty; raises :class:`Refused` when the text cannot be read on.

    Problems that leave the rest readable, such as a repeated key, are added to ``problems``. Files that are read
    together share a ``budget``.
    """
    builder = _Builder(file, problems, budget or Budget())
    count = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.ScalarEvent):
                builder.scalar(event)
            elif isinstance(event, yaml.MappingStartEvent):
                builder.start(event, "mapping")
            elif isinstance(event, yaml.SequenceStartEvent):
                builder.start(event, "list")
            elif isinstance(event, yaml.CollectionEndEvent):
                builder.end()
            elif isinstance(event, yaml.AliasEvent):
                builder.alias(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                builder.anchors.clear()
            elif isinstance(event, yaml.DocumentEndEvent) and builder.root is not None:
                count += 1
                if count > limits.MAX_DOCUMENTS:
                    raise builder.refuse(builder.root.location, f"more than {limits.MAX_DOCUMENTS} documents in a file")
                if not (builder.root.kind == "scalar" and builder.root.value is None):
                    yield builder.root
                builder.root = None
    except yaml.YAMLError as error:
        raise Refused(_syntax_problem(error, text, file)) from None


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    if isinstance(error, yaml.reader.ReaderError) and (bad := yaml.reader.Reader.NON_PRINTABLE.search(text)):
        line, column = text.count("\n", 0, bad.start()) + 1, bad.start() - text.rfind("\n", 0, bad.start())
    parts = [part for part in (getattr(error, "problem", None), getattr(error, "context", None)) if part]
    message = f"the YAML is malformed: {', '.join(parts) or 'it contains a character that YAML does not allow'}"
    lines = text.split("\n")
    if line <= len(lines) and "\t" in lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())]:
        message = "a tab is used for indentation: YAML allows only spaces there"
        column = lines[line - 1].index("\t") + 1
    return Problem(file, line, column, "", message)
