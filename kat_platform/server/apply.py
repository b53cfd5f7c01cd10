"""Apply, the deciding part: what would change, what stands in the way, and which writes it takes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from kat_platform.errors import Conflict, InvalidInput
from kat_platform.model.base import Model
from kat_platform.model.load_balancer import VirtualLoadBalancer
from kat_platform.model.meta import DEFAULT_NAMESPACE
from kat_platform.model.namespace import Namespace
from kat_platform.model.revision import Revision, WorkloadRecord
from kat_platform.server.quadlets import Submission
from kat_platform.state.cluster import ClusterState

HISTORY: Final = 10
"""Revisions of a workload that are kept."""

_ABSENT: Final = object()


class PlanEntry(Model):
    """One thing an apply would create, change or remove: an object (empty ``path``) or one field of it."""

    action: Literal["create", "change", "remove", "none"]
    kind: str
    name: str
    namespace: str = ""
    path: str = ""
    before: Any = None
    after: Any = None


@dataclass(frozen=True, slots=True)
class Current:
    """What there is of the workload now."""

    record: WorkloadRecord | None = None
    target: Revision | None = None
    numbers: tuple[int, ...] = ()
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    namespace_versions: Mapping[str, int] = field(default_factory=dict)
    """Revisions of their keys in the store."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an apply comes to: the plan, and the records to write (``None``: as they are)."""

    plan: tuple[PlanEntry, ...]
    record: WorkloadRecord | None = None
    revision: Revision | None = None
    namespaces: tuple[Namespace, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether there is anything to write."""
        return self.record is not None or bool(self.namespaces)


def decide(submission: Submission, current: Current, *, now: float, caller: str) -> Outcome:
    """Work out what an apply changes. The same content as the target revision's makes no new revision."""
    plan: list[PlanEntry] = []
    namespaces = _namespaces(submission, current, plan)
    if submission.workload is None:
        return Outcome(tuple(plan), namespaces=namespaces)
    workload, balancer = submission.workload, submission.load_balancer
    ns, name = workload.metadata.namespace, workload.metadata.name
    record, target = current.record, current.target
    replicas = workload.spec.replicas if workload.spec.type == "Service" else None
    if record is None or target is None:
        plan.append(PlanEntry(action="create", kind="Workload", name=name, namespace=ns))
        if balancer is not None:
            plan.append(_object("create", balancer, ns))
    else:
        plan += _workload_changes(submission, record, target)
    same = target is not None and target.document == workload and target.load_balancer == balancer
    if record is not None and same and record.replicas == replicas:
        return Outcome(tuple(plan), namespaces=namespaces)
    number = max((*current.numbers, record.revision if record else 0), default=0) + 1
    revision = None
    if not same or record is None:
        revision = Revision(
            namespace=ns,
            workload=name,
            number=number,
            created_at=now,
            files_digest=submission.files_digest,
            document=workload,
            load_balancer=balancer,
            files=dict(submission.files),
            created_by=caller,
        )
    base = record or WorkloadRecord(name=name, namespace=ns, revision=number, created_at=now)
    after = base.model_copy(
        update={
            "revision": revision.number if revision is not None else base.revision,
            "replicas": replicas,
            "labels": workload.metadata.labels,
            "annotations": workload.metadata.annotations,
        }
    )
    return Outcome(tuple(plan), after, revision, namespaces)


def _namespaces(submission: Submission, current: Current, plan: list[PlanEntry]) -> tuple[Namespace, ...]:
    """Add what happens to namespaces to the plan; gives those to write."""
    write: list[Namespace] = []
    for document in submission.namespaces:
        old = current.namespaces.get(document.metadata.name)
        if old is None:
            plan.append(_object("create", document, ""))
        elif old != document:
            plan += field_changes("Namespace", "", document.metadata.name, old.to_wire(), document.to_wire())
        else:
            plan.append(_object("none", document, ""))
            continue
        write.append(document)
    return tuple(write)


def _workload_changes(submission: Submission, record: WorkloadRecord, target: Revision) -> list[PlanEntry]:
    assert submission.workload is not None  # the caller has looked
    ns, name = record.namespace, record.name
    before = target.document.to_wire()
    if record.replicas is not None:
        before["spec"]["replicas"] = record.replicas  # as scaled
    found = field_changes("Workload", ns, name, before, submission.workload.to_wire())
    old, new = target.load_balancer, submission.load_balancer
    if old is not None and (new is None or new.metadata.name != old.metadata.name):
        found.append(_object("remove", old, ns))
    if new is not None and (old is None or new.metadata.name != old.metadata.name):
        found.append(_object("create", new, ns))
    elif new is not None and old is not None:
        found += field_changes("VirtualLoadBalancer", ns, new.metadata.name, old.to_wire(), new.to_wire())
    return found or [PlanEntry(action="none", kind="Workload", name=name, namespace=ns)]


def _object(
    action: Literal["create", "remove", "none"], document: VirtualLoadBalancer | Namespace, ns: str
) -> PlanEntry:
    return PlanEntry(action=action, kind=document.kind, name=document.metadata.name, namespace=ns)


def field_changes(
    kind: str, ns: str, name: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[PlanEntry]:
    """List the fields that differ between two documents in their wire form, by path."""
    return [
        PlanEntry(
            action="create" if old is _ABSENT else "remove" if new is _ABSENT else "change",
            kind=kind,
            name=name,
            namespace=ns,
            path=path,
            before=None if old is _ABSENT else old,
            after=None if new is _ABSENT else new,
        )
        for path, old, new in _differences(before, after, "")
    ]


def _differences(before: Any, after: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{path}.{key}" if path else str(key)
            yield from _differences(before.get(key, _ABSENT), after.get(key, _ABSENT), inner)
    elif isinstance(before, list) and isinstance(after, list) and before and after:
        for number in range(max(len(before), len(after))):
            old = before[number] if number < len(before) else _ABSENT
            new = after[number] if number < len(after) else _ABSENT
            yield from _differences(old, new, f"{path}[{number}]")
    elif type(before) is not type(after) or before != after:
        yield path, before, after


def trimmed(numbers: Iterable[int], target: int, in_use: Iterable[int]) -> tuple[int, ...]:
    """Name the revisions to drop: all but the newest :data:`HISTORY`, the target, and those instances are made of."""
    keep = {*sorted(numbers)[-HISTORY:], target, *in_use}
    return tuple(number for number in sorted(numbers) if number not in keep)


def check_against_state(state: ClusterState, submission: Submission) -> None:
    """Check a submission against what else there is; raises on what cannot be.

    Raises ``InvalidInput`` for a namespace that does not exist and ``Conflict`` for a port that is taken.
    """
    workload = submission.workload
    if workload is None:
        return
    ns, name = workload.metadata.namespace, workload.metadata.name
    own = {document.metadata.name for document in submission.namespaces}
    if ns != DEFAULT_NAMESPACE and ns not in state.namespaces and ns not in own:
        text = f"there is no namespace '{ns}'"
        hint = "add a namespace.kat to the Quadlet, or apply one before"
        problem = submission.problem("Workload", name, ("metadata", "namespace"), f"{text}: {hint}")
        raise InvalidInput(text, hint=hint, problems=[problem])
    clashes = list(port_clashes(state, submission, ns, name))
    if clashes:
        raise Conflict("; ".join(problem["message"] for problem in clashes), problems=clashes)


def port_clashes(state: ClusterState, submission: Submission, ns: str, name: str) -> Iterator[dict[str, Any]]:
    """Give a problem for each ``nodePort`` that another workload or KAT itself has."""
    balancer = submission.load_balancer
    wanted = [
        (index, port.node_port, port.protocol)
        for index, port in enumerate(balancer.spec.ports if balancer else ())
        if port.node_port is not None
    ]
    if not wanted or balancer is None:
        return
    taken = _system_ports(state)
    for (other_ns, other), record in state.workloads.items():
        target = state.revisions.get((other_ns, other, record.revision))
        if (other_ns, other) != (ns, name) and target is not None and target.load_balancer is not None:
            for port in target.load_balancer.spec.ports:
                if port.node_port is not None:
                    taken[port.node_port, port.protocol] = f"workload '{other_ns}/{other}'"
    for index, number, protocol in wanted:
        owner = taken.get((number, protocol))
        if owner is not None:
            path = ("spec", "ports", index, "nodePort")
            text = f"nodePort {number}/{protocol} is taken by {owner}: choose another"
            yield submission.problem("VirtualLoadBalancer", balancer.metadata.name, path, text)


def _system_ports(state: ClusterState) -> dict[tuple[int, str], str]:
    if state.configuration is None:
        return {}
    spec = state.configuration.spec
    fields = type(spec).model_fields.items()
    ports = {info.alias or name: getattr(spec, name) for name, info in fields if name.endswith("_port")}
    return {(port, protocol): f"KAT itself ({name})" for name, port in ports.items() for protocol in ("TCP", "UDP")}
