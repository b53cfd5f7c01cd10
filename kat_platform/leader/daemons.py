"""Daemons: one instance of a DaemonService on each node that will have it. Pure.

An update goes from node to node: at most ``maxUnavailable`` nodes (at least one) are without a ready instance
at a time, and the old instance of a node is gone before the new one is made, because both may want the same
ports or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kat_platform.interfaces.scheduler import Taint, TaintEffect, Toleration
from kat_platform.leader.placement import labels_of, node_ready
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


def eligible(state: ClusterState, target: Revision) -> dict[str, bool]:
    """Give each node the workload may run on, and whether a new instance may be started there now."""
    spec = target.document.spec
    tolerations = [
        Toleration(t.key or "", t.operator, t.value or "", TaintEffect(t.effect) if t.effect else None)
        for t in spec.tolerations
    ]
    found = {}
    for name, node in sorted(state.nodes.items()):
        labels = labels_of(node, state.reports.get(name))
        if any(labels.get(key) != value for key, value in spec.node_selector.items()):
            continue
        taints = [Taint(t.key, t.value, TaintEffect(t.effect)) for t in node.taints]
        hard = [t for t in taints if t.effect is not TaintEffect.PREFER_NO_SCHEDULE]
        if any(not any(tol.tolerates(taint) for tol in tolerations) for taint in hard):
            continue
        found[name] = node_ready(state, name)[0] and not node.cordoned
    return found


def decide(
    spec: WorkloadSpec,
    nodes: dict[str, bool],
    facts: Sequence[tuple[str, Fact]],
    leaving: frozenset[str],
    rollout: Rollout,
    *,
    held: bool,
    now: float,
) -> DaemonDecision:
    """Decide the next step of a DaemonService over ``nodes`` (see :func:`eligible`)."""
    stop: list[tuple[str, str]] = []
    by_node: dict[str, list[Fact]] = {}
    for node, fact in facts:
        if node not in nodes:
            stop.append((fact.id, f"node {node} is no longer chosen for it"))
        else:
            by_node.setdefault(node, []).append(fact)
    kept: dict[str, Fact] = {}
    for node, several in by_node.items():
        several.sort(key=lambda f: (not f.current, not f.ready, f.created_at, f.id))
        kept[node] = several[0]
        stop.extend((fact.id, "one on each node is enough") for fact in several[1:])
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
        stop.extend(_replace(spec, nodes, kept, ready))
    create = tuple(n for n, open_ in nodes.items() if open_ and n not in kept and n not in leaving)
    waiting = rollout.state is RolloutState.PROGRESSING and not held and not done
    return DaemonDecision(create, tuple(stop), rollout, deadline if waiting else None)


def _replace(
    spec: WorkloadSpec, nodes: dict[str, bool], kept: dict[str, Fact], ready: set[str]
) -> list[tuple[str, str]]:
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
