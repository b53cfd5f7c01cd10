"""Moving: whether an instance may stay where it is. Pure.

A node that is being drained, or has a ``NoExecute`` taint that an instance does not tolerate, is to be left by it: the
rollout then treats it as it treats an outdated one. A ``nodeSelector`` that no longer matches moves nothing, as in
Kubernetes: labels are looked at when an instance is placed. An instance whose data lies on its node cannot move.
"""

from __future__ import annotations

from collections.abc import Iterable

from kat_platform.interfaces.scheduler import Taint, TaintEffect, Toleration
from kat_platform.leader.placement import storage_volumes, taints_of
from kat_platform.model.instance import InstanceRecord
from kat_platform.model.workload import WorkloadSpec
from kat_platform.state.cluster import ClusterState


def tolerations_of(spec: WorkloadSpec) -> tuple[Toleration, ...]:
    """Give a workload's tolerations as they are compared with taints."""
    return tuple(
        Toleration(t.key or "", t.operator, t.value or "", TaintEffect(t.effect) if t.effect else None)
        for t in spec.tolerations
    )


def untolerated(taints: Iterable[Taint], tolerations: tuple[Toleration, ...], effect: TaintEffect) -> Taint | None:
    """Give the first of a node's taints with that effect that none of the tolerations covers."""
    meant = (taint for taint in taints if taint.effect is effect)
    return next((taint for taint in meant if not any(each.tolerates(taint) for each in tolerations)), None)


def taint_text(taint: Taint) -> str:
    """Write a taint as people do: ``key=value:Effect``."""
    return f"{taint.key}{'=' if taint.value else ''}{taint.value}:{taint.effect.value}"


def reason_to_leave(state: ClusterState, record: InstanceRecord) -> str:
    """Say why an instance is to leave its node, whether it can or not; empty when it may stay."""
    node = state.nodes.get(record.node or "")
    if node is None:
        return ""
    if node.draining:
        return f"node {node.name} is being drained"
    if not any(taint.effect == TaintEffect.NO_EXECUTE.value for taint in node.taints):
        return ""  # asked of every instance in every pass; what a node reports of itself only keeps new ones away
    own = state.revisions.get((record.namespace, record.workload, record.revision))
    tolerations = () if own is None else tolerations_of(own.document.spec)
    taint = untolerated(taints_of(node, None), tolerations, TaintEffect.NO_EXECUTE)
    return "" if taint is None else f"node {node.name} has taint {taint_text(taint)}"


def pinned_by(state: ClusterState, record: InstanceRecord) -> str:
    """Name the volume that holds an instance on the node it is on; empty when none does."""
    own = state.revisions.get((record.namespace, record.workload, record.revision))
    if own is None:
        return ""
    place = record.namespace, record.workload
    return next((v for v in storage_volumes(own) if state.pins.get((*place, v)) == record.node), "")


def must_move(state: ClusterState, record: InstanceRecord) -> str:
    """Say why an instance is to be replaced elsewhere; empty when it may stay, or cannot move."""
    reason = reason_to_leave(state, record)
    return "" if not reason or pinned_by(state, record) else reason
