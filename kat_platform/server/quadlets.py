"""Quadlets: from what a caller sent to checked documents, and back from what admission made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from kat_platform.errors import InvalidInput, NotSupportedYet, TooLarge
from kat_platform.hooks.types import Document
from kat_platform.model.documents import KINDS
from kat_platform.model.load_balancer import VirtualLoadBalancer
from kat_platform.model.namespace import Namespace
from kat_platform.model.workload import Workload
from kat_platform.quadlet.archive import unpack
from kat_platform.quadlet.parser import Quadlet, document_files, parse_quadlet
from kat_platform.quadlet.problem import Problem
from kat_platform.quadlet.support import refuse_unsupported, unsupported
from kat_platform.server.problems import from_validation

STORED_TEXT_LIMIT: Final = 512 * 1024
"""Bytes of all ``.kat`` files together: they are kept with the revision, in one value of the store."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What one apply asks for: at most one workload with its load balancer, and namespaces."""

    workload: Workload | None
    load_balancer: VirtualLoadBalancer | None
    namespaces: tuple[Namespace, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """The ``.kat`` files as they were sent."""
    files_digest: str = ""
    quadlet: Quadlet | None = field(default=None, repr=False, compare=False)

    def documents(self) -> tuple[Document, ...]:
        """Give the documents in their wire form, the Workload first: what admission sees."""
        found = [d for d in (self.workload, self.load_balancer, *self.namespaces) if d is not None]
        return tuple(document.to_wire() for document in found)

    def problem(self, kind: str, name: str, path: tuple[str | int, ...], message: str) -> dict[str, Any]:
        """Describe something wrong at a field, with its place in the files."""
        where = self.quadlet.locate(kind, name, path) if self.quadlet is not None else ("", 1, 1)
        return asdict(Problem(*where, ".".join(str(part) for part in path), message))


def read_submission(archive: bytes) -> Submission:
    """Read an archive; raises ``InvalidInput`` and its like with every problem's place. Takes a while: use a thread."""
    files = unpack(archive)
    if document_files(files) == ["cluster.kat"]:
        hint = "PUT it to /v1alpha1/configuration"
        raise InvalidInput("cluster.kat configures the cluster and is no Quadlet", hint=hint)
    quadlet = parse_quadlet(files)
    refuse_unsupported(quadlet)
    if len(quadlet.load_balancers) > 1:
        second = quadlet.load_balancers[1]
        where = quadlet.locate(second.kind, second.metadata.name, ("kind",))
        problem = Problem(*where, "kind", "more than one VirtualLoadBalancer of a workload is not supported yet")
        raise NotSupportedYet(str(problem), problems=[asdict(problem)])
    texts = {name: files[name].decode("utf-8", "replace") for name in document_files(files)}
    size = sum(len(files[name]) for name in texts)
    if size > STORED_TEXT_LIMIT:
        raise TooLarge(f"the .kat files have {size} bytes together: at most {STORED_TEXT_LIMIT} are kept")
    return Submission(
        quadlet.workload,
        quadlet.load_balancers[0] if quadlet.load_balancers else None,
        quadlet.namespaces,
        texts,
        quadlet.files_digest,
        quadlet,
    )


def check_documents(documents: Iterable[Document]) -> Submission:
    """Read documents as a plugin's admission gave them; raises ``InvalidInput`` unless they are as good as a file's."""
    workload: Workload | None = None
    balancer: VirtualLoadBalancer | None = None
    namespaces: list[Namespace] = []
    for document in _models(documents):
        if isinstance(document, Workload):
            workload = document
        elif isinstance(document, VirtualLoadBalancer):
            balancer = document
        elif isinstance(document, Namespace):
            namespaces.append(document)
        else:
            raise InvalidInput(f"a {type(document).__name__} has no place here")
    problems = unsupported(Quadlet(workload, (balancer,) if balancer else (), namespaces=tuple(namespaces)))
    if problems:
        raise NotSupportedYet("; ".join(problem.message for problem in problems))
    return Submission(workload, balancer, tuple(namespaces))


def _models(documents: Iterable[Document]) -> Iterator[Any]:
    for document in documents:
        kind = KINDS.get(str(document.get("kind")))
        if kind is None:
            raise InvalidInput(f"there is no kind '{document.get('kind')}'")
        try:
            yield kind.model_validate(dict(document))
        except ValidationError as error:
            raise from_validation(error, f"the {document.get('kind')}") from None
