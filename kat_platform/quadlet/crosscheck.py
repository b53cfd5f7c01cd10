"""The rules that hold between the documents of one Quadlet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from kat_platform.model.load_balancer import VirtualLoadBalancer
from kat_platform.model.secret import Secret
from kat_platform.model.workload import Workload
from kat_platform.quadlet.problem import Problem
from kat_platform.quadlet.reader import Parsed
from kat_platform.quadlet.suggest import nearest

_AT_MOST_ONE: Final = ("Workload", "JobDefinition", "BuildDefinition")
_NEED_WORKLOAD: Final = ("VirtualLoadBalancer", "JobDefinition", "BuildDefinition")


def cross_check(parsed: Sequence[Parsed], files: Mapping[str, bytes], *, complete: bool) -> Iterator[Problem]:
    """Give every broken rule. Without ``complete`` some documents could not be read, and none is called missing."""
    yield from _repeated(parsed)
    workload = next((found for found in parsed if found.kind == "Workload"), None)
    if workload is None:
        if complete:
            yield from _homeless(parsed)
    else:
        for check in _WORKLOAD_CHECKS:
            yield from check(workload, parsed)
    yield from _secret_files(parsed, files)


def _repeated(parsed: Sequence[Parsed]) -> Iterator[Problem]:
    seen: dict[tuple[str, ...], Parsed] = {}
    for found in parsed:
        single = found.kind in _AT_MOST_ONE
        key = (found.kind,) if single else (found.kind, found.name)
        if key not in seen:
            seen[key] = found
            continue
        first = seen[key].root.location
        where = f"the first is in {first.file} line {first.line}"
        if single:
            yield found.problem(("kind",), f"a Quadlet has at most one {found.kind}; {where}")
        else:
            yield found.problem(("metadata", "name"), f"{found.kind} '{found.name}' is given twice; {where}")


def _homeless(parsed: Sequence[Parsed]) -> Iterator[Problem]:
    for found in parsed:
        if found.kind in _NEED_WORKLOAD:
            yield found.problem(("kind",), f"a {found.kind} belongs to a Workload, and this Quadlet has none")


def _namespaces(workload: Parsed, parsed: Sequence[Parsed]) -> Iterator[Problem]:
    for found in parsed:
        if found.document.namespaced and found.namespace != workload.namespace:
            text = f"this {found.kind} lies in namespace '{found.namespace}', its Workload in '{workload.namespace}'"
            yield found.problem(("metadata", "namespace"), text, workload.namespace)
        if found.kind == "Namespace" and found.name != workload.namespace:
            text = f"this is Namespace '{found.name}', and the Workload lies in '{workload.namespace}'"
            yield found.problem(("metadata", "name"), text, workload.namespace)


def _types(workload: Parsed, parsed: Sequence[Parsed]) -> Iterator[Problem]:
    document = workload.document
    assert isinstance(document, Workload)  # chosen by its kind
    for found in parsed:
        if found.kind == "JobDefinition" and document.spec.type != "Job":
            yield found.problem(("kind",), f"a JobDefinition needs a Workload of type Job, not {document.spec.type}")
        if found.kind == "BuildDefinition" and document.spec.source.git is None:
            yield found.problem(("kind",), "a BuildDefinition needs a Workload with source.git: this one has an image")


def _load_balancers(workload: Parsed, parsed: Sequence[Parsed]) -> Iterator[Problem]:
    ports: dict[object, str] = {}
    checked: str | None = None
    for found in parsed:
        document = found.document
        if not isinstance(document, VirtualLoadBalancer):
            continue
        for index, port in enumerate(document.spec.ports):
            keys: dict[str, object] = {
                "name": port.name,
                "port": (port.port, port.protocol),
                "nodePort": ("node", port.node_port, port.protocol) if port.node_port else None,
            }
            for field, key in keys.items():
                if key is not None and ports.setdefault(key, found.name) != found.name:
                    text = f"this {field} is taken by VirtualLoadBalancer '{ports[key]}' of the same workload"
                    yield found.problem(("spec", "ports", index, field), text)
        if document.spec.health_check is not None:
            if checked is not None:
                text = f"the workload's health check is given by VirtualLoadBalancer '{checked}' already"
                yield found.problem(("spec", "healthCheck"), text)
            checked = found.name


def _references(workload: Parsed, parsed: Sequence[Parsed]) -> Iterator[Problem]:
    """Check references into the Quadlet itself; a name that is not in it is looked up when it is applied."""
    document = workload.document
    assert isinstance(document, Workload)  # chosen by its kind
    keys = {
        found.name: {*found.document.spec.data, *found.document.spec.files}
        for found in parsed
        if isinstance(found.document, Secret)
    }
    for index, variable in enumerate(document.spec.container.env):
        reference = variable.secret
        if reference is not None and reference.name in keys and reference.key not in keys[reference.name]:
            path = ("spec", "container", "env", index, "secret", "key")
            text = f"Secret '{reference.name}' has no key '{reference.key}'"
            yield workload.problem(path, text, nearest(reference.key, keys[reference.name]))


def _secret_files(parsed: Sequence[Parsed], files: Mapping[str, bytes]) -> Iterator[Problem]:
    for found in parsed:
        if isinstance(found.document, Secret):
            for key, path in found.document.spec.files.items():
                if path not in files:
                    text = f"there is no file '{path}' in the Quadlet"
                    yield found.problem(("spec", "files", key), text, nearest(path, files))


_WORKLOAD_CHECKS: Final[tuple[Callable[[Parsed, Sequence[Parsed]], Iterator[Problem]], ...]] = (
    _namespaces,
    _types,
    _load_balancers,
    _references,
)
