"""Narrate: the events that tell a person what the leader decided and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kat_platform.leader.changes import (
    AllocateVip,
    CreateInstance,
    LeaderChange,
    PinVolume,
    RemoveWorkload,
    RollBack,
    SetRollout,
    SetStanding,
    SetTrust,
    UpdateInstance,
)
from kat_platform.model.event import Event, EventType
from kat_platform.model.instance import Desired, InstanceRecord
from kat_platform.model.node import NodeStanding
from kat_platform.model.revision import RolloutState
from kat_platform.model.trust import RotationPhase
from kat_platform.state.cluster import ClusterState


def events_for(state: ClusterState, changes: Sequence[LeaderChange], *, now: float) -> list[Event]:
    """Give the events that these changes, decided on ``state``, are worth."""
    events: list[Event] = []
    for change in changes:
        match change:
            case CreateInstance(record) | UpdateInstance(record):
                events.extend(_instance(state, record, now))
            case SetRollout():
                events.extend(_rollout(state, change, now))
            case RollBack(namespace, workload, to_revision, failed):
                text = f"revision {failed} made no progress: back to the content of revision {to_revision}"
                events.append(_event("RolledBack", "Workload", workload, namespace, text, now, EventType.WARNING))
            case AllocateVip(namespace, workload, address):
                text = f"virtual IP {address}"
                events.append(_event("VirtualIpAllocated", "Workload", workload, namespace, text, now))
            case PinVolume(namespace, workload, volume, node):
                text = f"volume {volume} lies on node {node} from now on, and the workload stays there"
                events.append(_event("VolumePinned", "Workload", workload, namespace, text, now))
            case RemoveWorkload(namespace, workload):
                events.append(_event("Deleted", "Workload", workload, namespace, "nothing of it is left", now))
            case SetStanding(node, standing) if standing is not None:
                events.extend(_node(state, node, standing, now))
            case SetTrust(record) if state.trust is not None and record.phase is not state.trust.phase:
                reason, text = _TRUST[record.phase]
                events.append(_event(reason, "Cluster", "ca", "", text.format(ca=record.newest[:16]), now))
            case _:
                pass
    return events + _holding(state, [c for c in changes if isinstance(c, SetStanding)], now)


_TRUST: Final = {
    RotationPhase.SIGNING: ("CaSigning", "every node trusts the new CA {ca}: it signs from now on, and nodes renew"),
    RotationPhase.FINISHING: ("CaFinishing", "every node has a certificate of CA {ca}: the former one is dropped"),
    RotationPhase.SETTLED: ("CaChanged", "{ca} is the only CA that any node trusts"),
}


def plan_refused(scheduler: str, faults: Sequence[str], *, now: float) -> Event:
    """Give the event that blames a scheduler for a plan that breaks a rule."""
    text = f"the plan of scheduler '{scheduler}' breaks a rule, nothing of it was done: {'; '.join(faults[:3])}"
    return _event("PlanRefused", "Cluster", scheduler, "", text, now, EventType.WARNING)


def _event(
    reason: str, kind: str, name: str, namespace: str, message: str, now: float, type_: EventType = EventType.NORMAL
) -> Event:
    return Event(
        type=type_,
        reason=reason,
        object_kind=kind,
        object_name=name,
        namespace=namespace,
        message=message,
        source="leader",
        first_at=now,
        last_at=now,
    )


def _instance(state: ClusterState, record: InstanceRecord, now: float) -> list[Event]:
    before = state.instances.get((record.namespace, record.id))
    name, ns = record.id, record.namespace
    if record.desired is Desired.STOP and (before is None or before.desired is Desired.RUN):
        reason = "Preempted" if record.stop_reason.startswith("preempted") else "Stopping"
        return [_event(reason, "Instance", name, ns, record.stop_reason, now)]
    if record.lost_at is not None and (before is None or before.lost_at is None):
        text = f"node {record.node} gives no sign of life"
        return [_event("Lost", "Instance", name, ns, text, now, EventType.WARNING)]
    if record.node is not None and (before is None or before.node is None):
        return [_event("Assigned", "Instance", name, ns, f"to node {record.node}", now)]
    if record.unplaceable and (before is None or before.unplaceable != record.unplaceable):
        return [_event("Unplaceable", "Instance", name, ns, record.unplaceable, now, EventType.WARNING)]
    return []


def _rollout(state: ClusterState, change: SetRollout, now: float) -> list[Event]:
    before = state.rollouts.get((change.namespace, change.workload))
    rollout = change.rollout
    fresh = before is None or (before.revision, before.generation) != (rollout.revision, rollout.generation)
    if not fresh and before is not None and before.state is rollout.state:
        return []
    what = f"revision {rollout.revision}" + (f", restart {rollout.generation}" if rollout.generation else "")
    texts = {
        RolloutState.PROGRESSING: ("RolloutStarted", f"{what}: {rollout.wanted} instances", EventType.NORMAL),
        RolloutState.COMPLETE: ("RolloutComplete", f"{what}: {rollout.ready} ready", EventType.NORMAL),
        RolloutState.PAUSED: ("RolloutPaused", f"{what}: {rollout.message}", EventType.WARNING),
        RolloutState.ROLLED_BACK: ("RolloutFailed", f"{what}: {rollout.message}", EventType.WARNING),
    }
    reason, text, type_ = texts[rollout.state]
    return [_event(reason, "Workload", change.workload, change.namespace, text, now, type_)]


def _node(state: ClusterState, name: str, standing: NodeStanding, now: float) -> list[Event]:
    before = state.standings.get(name)
    events: list[Event] = []
    if standing.ready and (before is None or not before.ready):
        events.append(_event("NodeReady", "Node", name, "", "it takes and runs instances", now))
    elif not standing.ready and (before is None or (before.alive, before.ready) != (standing.alive, standing.ready)):
        events.append(_event("NodeNotReady", "Node", name, "", standing.reason, now, EventType.WARNING))
    if standing.given_up_at is not None and (before is None or before.given_up_at is None):
        count = sum(1 for r in state.instances.values() if r.node == name and r.lost_at is None)
        if count:
            text = f"{count} instances are lost with it, and replaced on other nodes"
            events.append(_event("NodeLost", "Node", name, "", text, now, EventType.WARNING))
    return events


def _holding(state: ClusterState, changes: Sequence[SetStanding], now: float) -> list[Event]:
    """Tell once when the leader begins to hold back, and once when it ends."""
    after = {**state.standings, **{change.node: change.standing for change in changes}}
    held = [name for name, standing in sorted(after.items()) if standing is not None and standing.held]
    was = any(standing.held for standing in state.standings.values())
    if held and not was:
        dead = sum(1 for standing in after.values() if standing is not None and not standing.alive)
        text = (
            f"{dead} of {len(after)} nodes give no sign of life: that is more like a cut network than like lost nodes. "
            f"Instances on {', '.join(held[:10])} are not replaced for now, and later one node at a time; "
            "'katcall node remove NODE --force' gives one up at once"
        )
        return [_event("LossHeld", "Cluster", "cluster", "", text, now, EventType.WARNING)]
    if was and not held:
        return [_event("LossReleased", "Cluster", "cluster", "", "no node is held back any more", now)]
    return []
