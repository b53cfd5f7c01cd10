"""What the vocabulary has and this version does not act on: refused when it is applied, never ignored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from kat_platform.errors import NotSupportedYet
from kat_platform.model.meta import Document
from kat_platform.quadlet.parser import Quadlet
from kat_platform.quadlet.problem import Problem, path_text

FieldPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A field (``*`` stands for each item of a list), or one value of it, that is not built yet."""

    kind: str
    path: tuple[str, ...]
    what: str
    value: str | None = None


UNSUPPORTED: Final = (
    Unsupported("Workload", ("spec", "type"), "type Job", value="Job"),
    Unsupported("Workload", ("spec", "source", "git"), "building from source.git"),
    Unsupported("Workload", ("spec", "container", "env", "*", "secret"), "a variable from a Secret"),
    Unsupported("Workload", ("spec", "container", "resources", "gpu"), "resources.gpu"),
    Unsupported("Workload", ("spec", "volumes", "*", "secret"), "a volume from a Secret"),
    Unsupported("Workload", ("spec", "volumes", "*", "volume"), "a volume from a VolumeDefinition"),
    Unsupported("Workload", ("spec", "dependsOn", "*"), "dependsOn"),
    Unsupported("VirtualLoadBalancer", ("spec", "ingress", "*"), "ingress"),
    Unsupported("JobDefinition", ("kind",), "kind JobDefinition"),
    Unsupported("BuildDefinition", ("kind",), "kind BuildDefinition"),
    Unsupported("VolumeDefinition", ("kind",), "kind VolumeDefinition"),
    Unsupported("Secret", ("kind",), "kind Secret"),
    Unsupported("Namespace", ("spec", "quota"), "quota"),
    Unsupported("Namespace", ("spec", "isolation"), "isolation Private", value="Private"),
)
"""Shrinks as things are built; a line that goes takes its refusal with it."""


def unsupported(quadlet: Quadlet) -> list[Problem]:
    """Give a problem, at its place, for each use of what is not built yet."""
    return [problem for document in quadlet.documents for problem in _in_document(quadlet, document)]


def refuse_unsupported(quadlet: Quadlet) -> None:
    """Raise ``NotSupportedYet`` with all of :func:`unsupported`, one line each; with none, do nothing."""
    found = unsupported(quadlet)
    if found:
        raise NotSupportedYet("\n".join(map(str, found)), problems=[asdict(problem) for problem in found])


def _in_document(quadlet: Quadlet, document: Document) -> Iterator[Problem]:
    rules = [rule for rule in UNSUPPORTED if rule.kind == document.kind]
    data = document.to_wire() if rules else {}
    for rule in rules:
        for path in _matches(data, rule.path, rule.value):
            where = quadlet.locate(document.kind, document.metadata.name, path)
            yield Problem(*where, path_text(path), f"{rule.what} is not supported yet")


def _matches(data: Any, pattern: tuple[str, ...], value: str | None, at: FieldPath = ()) -> Iterator[FieldPath]:
    if not pattern:
        if value is None or data == value:
            yield at
        return
    head, *rest = pattern
    if head == "*" and isinstance(data, list):
        for index, entry in enumerate(data):
            yield from _matches(entry, tuple(rest), value, (*at, index))
    elif isinstance(data, dict) and head in data:
        yield from _matches(data[head], tuple(rest), value, (*at, head))
