"""Drain: what is still on a node that is to be emptied, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from kat_platform.leader.moving import pinned_by
from kat_platform.model.drain import Departure, DrainItem, DrainProgress
from kat_platform.model.instance import Desired, InstanceRecord, is_ready
from kat_platform.model.revision import Revision
from kat_platform.state.cluster import ClusterState


def progress(state: ClusterState, node: str, *, daemons: bool | None = None) -> DrainProgress:
    """Tell what is left on a node. ``daemons``: whether those count, by default what the node's drain was asked."""
    record = state.nodes[node]
    take = record.drain_daemons if daemons is None else daemons
    found = [_item(state, r, take) for _, r in sorted(state.instances.items()) if _counts(state, r, node)]
    left = [item for item in found if item.state is not Departure.STAYING]
    return DrainProgress(
        node=node,
        draining=record.draining,
        alive=node in state.alive,
        done=not left,
        left=len(left),
        pinned=sum(1 for item in left if item.state is Departure.PINNED),
        instances=tuple(found),
    )


def _counts(state: ClusterState, record: InstanceRecord, node: str) -> bool:
    if record.node != node or record.lost_at is not None:
        return False
    status = state.statuses.get((record.namespace, record.id))
    return not (record.desired is Desired.STOP and status is not None and status.phase.terminal)


def _item(state: ClusterState, record: InstanceRecord, take_daemons: bool) -> DrainItem:
    departure, reason = _departure(state, record, take_daemons)
    return DrainItem(
        namespace=record.namespace,
        workload=record.workload,
        instance=record.id,
        state=departure,
        reason=reason,
    )


def _departure(state: ClusterState, record: InstanceRecord, take_daemons: bool) -> tuple[Departure, str]:
    if record.desired is Desired.STOP:
        return Departure.STOPPING, record.stop_reason
    target = state.target(record.namespace, record.workload)
    if record.only_node:
        if take_daemons:
            return Departure.MOVING, "it is a daemon's and is stopped without a replacement"
        return Departure.STAYING, "it is a daemon's: it stays with the node"
    volume = pinned_by(state, record)
    if volume:
        return Departure.PINNED, f"its volume {volume} lies on this node"
    return _awaits(state, record, target)


def _awaits(state: ClusterState, record: InstanceRecord, target: Revision | None) -> tuple[Departure, str]:
    """Say what keeps a movable instance: a successor without a node, one that is not ready, or its turn."""
    others = [r for r in state.instances_of(record.namespace, record.workload) if _is_successor(r, record)]
    for other in others:
        if other.node is None and other.unplaceable:
            return Departure.BLOCKED, f"its replacement {other.id} finds no node: {other.unplaceable}"
    unready = [r for r in others if not is_ready(r, state.statuses.get((r.namespace, r.id)))]
    if unready:
        return Departure.MOVING, f"waits until {_names(unready)} is ready{_trouble(state, unready[0])}"
    kind = target.document.spec.update_strategy.type if target is not None else "Rolling"
    rules = "one at a time" if kind == "Simultaneous" else "maxSurge and maxUnavailable allow no more at once"
    return Departure.MOVING, f"waits its turn: {rules}"


def _is_successor(other: InstanceRecord, record: InstanceRecord) -> bool:
    return other.desired is Desired.RUN and other.lost_at is None and other.node != record.node


def _names(records: Iterable[InstanceRecord]) -> str:
    names = [record.id for record in records]
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


def _trouble(state: ClusterState, record: InstanceRecord) -> str:
    status = state.statuses.get((record.namespace, record.id))
    text = "" if status is None else status.message or status.reason
    return f": {text}" if text else ""
