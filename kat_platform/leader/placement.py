"""Placement: from the state of the cluster to what a scheduler may see. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import kat_platform
from kat_platform.interfaces.scheduler import (
    Affinity,
    AffinityTerm,
    Contributions,
    Demand,
    PendingInstance,
    PlacedInstance,
    SchedulableNode,
    SchedulingSnapshot,
    Spread,
    Taint,
    TaintEffect,
    Toleration,
)
from kat_platform.leader.template import template_digest
from kat_platform.model import placement as wire
from kat_platform.model.instance import Desired, InstanceRecord
from kat_platform.model.node import NodeRecord, NodeReport
from kat_platform.model.revision import Revision
from kat_platform.model.version import too_far
from kat_platform.state.cluster import ClusterState

HOSTNAME_LABEL: Final = "kat.dws.rip/node"
"""A label every node has: its own name."""

PRESSURE_TAINTS: Final = {"DiskPressure": Taint("kat.dws.rip/disk-pressure", "", TaintEffect.NO_SCHEDULE)}
"""What a node has for as long as it reports such a condition: what is started there would only fail.

``NoSchedule`` all of them: what runs there is not driven away.
"""


def labels_of(record: NodeRecord, report: NodeReport | None) -> dict[str, str]:
    """Give a node's labels: facts of the host, under what the operator wrote, under its own name."""
    facts = dict(report.facts) if report is not None else {}
    return {**facts, **record.labels, HOSTNAME_LABEL: record.name}


def taints_of(record: NodeRecord, report: NodeReport | None) -> tuple[Taint, ...]:
    """Give a node's taints: those that the operator wrote, and those for what the node reports of itself."""
    reported = report.conditions if report is not None else ()
    return (
        *(Taint(t.key, t.value, TaintEffect(t.effect)) for t in record.taints),
        *(PRESSURE_TAINTS[each.type] for each in reported if each.status and each.type in PRESSURE_TAINTS),
    )


def storage_volumes(revision: Revision) -> tuple[str, ...]:
    """Name the volumes of a workload that lie on one node and pin it there."""
    return tuple(v.name for v in revision.document.spec.volumes if v.simple_cluster_storage is not None)


def demand_of(revision: Revision, pins: Mapping[tuple[str, str, str], str] | None = None) -> Demand:
    """Give what every instance of a revision asks of its node; ``pins`` tells where its volumes lie already."""
    spec, name, ns = revision.document.spec, revision.workload, revision.namespace
    cpu, memory = spec.container.resources.demand
    pinned = next(((v, pins[ns, name, v]) for v in storage_volumes(revision) if pins and (ns, name, v) in pins), None)
    return Demand(
        key=f"{ns}/{name}/{template_digest(revision)[:16]}/{pinned[1] if pinned else ''}",
        namespace=ns,
        workload=name,
        labels={"kat.dws.rip/workload": name, **revision.document.metadata.labels},
        cpu_millicores=cpu,
        memory_bytes=memory,
        node_selector=dict(spec.node_selector),
        tolerations=tuple(
            Toleration(t.key or "", t.operator, t.value or "", TaintEffect(t.effect) if t.effect else None)
            for t in spec.tolerations
        ),
        affinity=_affinity(spec.affinity),
        anti_affinity=_affinity(spec.anti_affinity),
        spread=None if spec.spread is None else Spread(spec.spread.topology_key, spec.spread.max_skew),
        priority=spec.priority,
        pinned_to=pinned[1] if pinned else None,
        pinned_reason=f"its volume '{pinned[0]}' lies on node {pinned[1]}" if pinned else "",
        image=spec.source.image or "",
    )


def _affinity(affinity: wire.Affinity) -> Affinity:
    return Affinity(
        tuple(AffinityTerm(dict(t.labels), t.topology_key) for t in affinity.required),
        tuple(AffinityTerm(dict(t.labels), t.topology_key, t.weight) for t in affinity.preferred),
    )


def schedulable(state: ClusterState, record: NodeRecord) -> SchedulableNode:
    """Give a node as a scheduler sees it."""
    report = state.reports.get(record.name)
    ready, why = node_ready(state, record.name)
    return SchedulableNode(
        name=record.name,
        cpu_millicores=report.allocatable.cpu_millicores if report else 0,
        memory_bytes=report.allocatable.memory_bytes if report else 0,
        max_instances=report.allocatable.instances if report else 0,
        ready=ready,
        not_ready_reason=why,
        cordoned=record.cordoned or record.draining,
        labels=labels_of(record, report),
        taints=taints_of(record, report),
        images=frozenset(report.images) if report else frozenset(),
    )


def node_ready(state: ClusterState, name: str) -> tuple[bool, str]:
    """Tell whether a node can take instances, and if not why."""
    if name not in state.alive:
        return False, "it gives no sign of life"
    report = state.reports.get(name)
    if report is None:
        return False, "it has not reported yet"
    if why := too_far(kat_platform.__version__, report.versions.get("agent", "")):
        return False, why
    for condition in report.conditions:
        if condition.type == "Ready" and not condition.status:
            return False, condition.message or condition.reason or "it reports that it is not ready"
    return True, ""


def scheduling_snapshot(
    state: ClusterState,
    contributions: Contributions = Contributions(),  # noqa: B008 - immutable
    *,
    without: frozenset[str] = frozenset(),
) -> SchedulingSnapshot:
    """Give the scheduler's view. Stopping instances still count where they are; those in ``without`` do not."""
    demands: dict[tuple[str, str, int], Demand] = {}
    placed = []
    for record in state.instances.values():
        if record.node is None or record.key in without:
            continue
        demand = _demand_for(state, demands, record)
        if demand is not None and not _over(state, record):
            placed.append(PlacedInstance(record.key, demand, record.node, movable=not record.only_node))
    nodes = tuple(schedulable(state, node) for _, node in sorted(state.nodes.items()))
    return SchedulingSnapshot(state.revision, nodes, tuple(placed), contributions)


def pending_instances(
    state: ClusterState, records: Iterable[InstanceRecord], only_node: Mapping[str, str]
) -> tuple[PendingInstance, ...]:
    """Give the records without a node as the scheduler's queue, oldest first; ``only_node`` binds daemons by key."""
    demands: dict[tuple[str, str, int], Demand] = {}
    queue = []
    for record in sorted(records, key=lambda r: (r.created_at, r.key)):
        demand = _demand_for(state, demands, record)
        if demand is not None:
            queue.append(PendingInstance(record.key, demand, only_node.get(record.key)))
    return tuple(queue)


def _demand_for(
    state: ClusterState, demands: dict[tuple[str, str, int], Demand], record: InstanceRecord
) -> Demand | None:
    identity = (record.namespace, record.workload, record.revision)
    demand = demands.get(identity)
    if demand is None:
        revision = state.revisions.get(identity)
        if revision is None:
            return None
        demand = demands[identity] = demand_of(revision, state.pins)
    return demand


def _over(state: ClusterState, record: InstanceRecord) -> bool:
    """Whether the container is known to be gone for good, so that its room is free."""
    status = state.statuses.get((record.namespace, record.id))
    return status is not None and status.phase.terminal and record.desired is Desired.STOP
