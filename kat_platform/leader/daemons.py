"""Daemons: one instance of a DaemonService on each node that will have it. Pure.

An update goes from node to node: at most ``maxUnavailable`` nodes (at least one) are without a ready instance
at a time, and the old instance of a node is gone before the new one is made, because both may want the same
ports or files.

A drain leaves them where they are, unless it is told to take daemons too: they belong to their node. On a cordoned
node, or one with a ``NoSchedule`` taint, what runs goes on unchanged and no update waits for it; a ``NoExecute`` taint
that is not tolerated, or a changed ``nodeSelector``, stops them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kat_platform.interfaces.scheduler import TaintEffect
from kat_platform.leader.moving import tolerations_of, untolerated
from kat_platform.leader.placement import labels_of, node_ready, taints_of
from kat_platform.leader.rollout import Fact
from kat_platform.model.instance import InstanceRecord
from kat_platform.model.revision import Revision, Rollout, RolloutState
from kat_platform.model.workload import WorkloadSpec
from kat_platform.state.cluster import ClusterState


@dataclass(frozen=True, slots=True)
class DaemonDecision:
    """Where to make an instance, which to stop, and how the rollout stands."""

    create_on: tuple[str, ...]
    stop: tuple[tuple[str, str], ...]
    rollout: Rollout
    wake_at: float | None = None


def bind(record: InstanceRecord, node: str) -> InstanceRecord:
    """Mark an instance as meant for one node only."""
    return record.model_copy(update={"only_node": node})


def node_of(record: InstanceRecord) -> str:
    """Give the node an instance of a daemon is meant for."""
    return record.only_node or record.node or ""


class Place(StrEnum):
    """What a node is to a daemon. A node that is not for it at all has no place."""

    OPEN = "open"
    """An instance may be started there now."""
    CLOSED = "closed"
    """It should have one and cannot start one now: the node is not ready."""
    FROZEN = "frozen"
    """What runs there stays as it is, and nothing new is started: the node is cordoned, or has a NoSchedule taint."""


def places(state: ClusterState, target: Revision, given_up: frozenset[str]) -> dict[str, Place]:
    """Give each node the workload may run on; nodes in ``given_up`` are lost, and nobody waits for them."""
    spec = target.document.spec
    tolerations = tolerations_of(spec)
    found = {}
    for name, node in sorted(state.nodes.items()):
        report = state.reports.get(name)
        labels, taints = labels_of(node, report), taints_of(node, report)
        if any(labels.get(key) != value for key, value in spec.node_selector.items()):
            continue
        if name in given_up or untolerated(taints, tolerations, TaintEffect.NO_EXECUTE) is not None:
            continue
        if node.draining and node.drain_daemons:
            continue
        if node.cordoned or node.draining or untolerated(taints, tolerations, TaintEffect.NO_SCHEDULE) is not None:
            found[name] = Place.FROZEN
        else:
            found[name] = Place.OPEN if node_ready(state, name)[0] else Place.CLOSED
    return found


def decide(
    spec: WorkloadSpec,
    where: Mapping[str, Place],
    facts: Sequence[tuple[str, Fact]],
    leaving: frozenset[str],
    rollout: Rollout,
    *,
    held: bool,
    now: float,
) -> DaemonDecision:
    """Decide the next step of a DaemonService over the nodes in ``where`` (see :func:`places`)."""
    stop: list[tuple[str, str]] = []
    by_node: dict[str, list[Fact]] = {}
    for node, fact in facts:
        if node not in where:
            stop.append((fact.id, fact.must_move or f"node {node} is no longer chosen for it"))
        else:
            by_node.setdefault(node, []).append(fact)
    kept: dict[str, Fact] = {}
    for node, several in by_node.items():
        several.sort(key=lambda f: (not f.current, not f.ready, f.created_at, f.id))
        kept[node] = several[0]
        stop.extend((fact.id, "one on each node is enough") for fact in several[1:])
    # A frozen node counts where it has what it should: no update can be carried out there, and none waits for it.
    nodes = [n for n, place in where.items() if place is not Place.FROZEN or (n in kept and kept[n].current)]
    frozen = {n: fact for n, fact in kept.items() if where[n] is Place.FROZEN}
    kept = {n: fact for n, fact in kept.items() if n in nodes}
    ready = {node for node, fact in kept.items() if fact.ready}
    updated = sum(1 for fact in kept.values() if fact.current)
    rollout = _advance(rollout, len(nodes), updated, kept, now)
    done = updated == len(nodes) and len(ready) == len(nodes)
    deadline = rollout.progress_at + spec.update_strategy.rolling.progress_deadline_seconds
    if done and rollout.state is not RolloutState.COMPLETE:
        figures = {"state": RolloutState.COMPLETE, "message": "", "stable_revision": rollout.revision}
        rollout = rollout.model_copy(update=figures)
    elif not done and rollout.state is RolloutState.PROGRESSING and not held and now >= deadline:
        troubles = sorted({f.trouble for f in kept.values() if f.trouble})
        message = f"no progress for {now - rollout.progress_at:.0f} s, paused: {'; '.join(troubles[:3]) or 'not ready'}"
        rollout = rollout.model_copy(update={"state": RolloutState.PAUSED, "message": message})
    moving = rollout.state is not RolloutState.PAUSED and not held
    if moving:
        stop.extend(_replace(spec, nodes, {n: f for n, f in kept.items() if n not in frozen}, ready))
    create = tuple(n for n, place in where.items() if place is Place.OPEN and n not in kept and n not in leaving)
    waiting = rollout.state is RolloutState.PROGRESSING and not held and not done
    return DaemonDecision(create, tuple(stop), rollout, deadline if waiting else None)


def _replace(spec: WorkloadSpec, nodes: Sequence[str], kept: dict[str, Fact], ready: set[str]) -> list[tuple[str, str]]:
    old = [(node, fact) for node, fact in kept.items() if not fact.current]
    why = "replaced by a new revision"
    if spec.update_strategy.type == "Simultaneous":
        return [(fact.id, why) for _, fact in old]
    most = max(1, spec.update_strategy.rolling.max_unavailable.resolve(len(nodes), round_up=False))
    missing = len(nodes) - len(ready)
    stops = [(fact.id, why) for node, fact in old if node not in ready][:most]
    room = max(0, most - missing)
    return stops + [(fact.id, why) for node, fact in old if node in ready][:room]


def _advance(rollout: Rollout, wanted: int, updated: int, kept: dict[str, Fact], now: float) -> Rollout:
    ready = sum(1 for fact in kept.values() if fact.ready and fact.current)
    available = sum(1 for fact in kept.values() if fact.ready)
    figures = {"wanted": wanted, "updated": updated, "ready": ready, "available": available}
    if all(getattr(rollout, key) == value for key, value in figures.items()):
        return rollout
    nearer = updated > rollout.updated or ready > rollout.ready or wanted != rollout.wanted
    return rollout.model_copy(update={**figures, "progress_at": now if nearer else rollout.progress_at})
