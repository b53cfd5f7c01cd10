"""Liveness: which nodes are ready, which are lost, and whether so many are that it is rather we who are cut off. Pure.

A node whose lease ran out is not ready at once. Its instances are given up (declared lost, and replaced elsewhere) in
the same moment, unless **more than half** of the nodes are dead at once: then it is more likely a network that is cut,
behind which everything still runs, and moving it all would crush the nodes that are left. Then nothing more is given
up for :data:`SLOW` seconds, and after that one node in every :data:`SLOW` seconds, so that even a cluster that really
lost most of its machines comes back by itself. "At once" is within :data:`WINDOW` seconds. Once it holds back, every
dead node counts until no more than half are dead; then those that are left have :data:`RETURN` seconds to return.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kat_platform.leader.changes import SetStanding
from kat_platform.leader.placement import node_ready
from kat_platform.model.node import NodeStanding
from kat_platform.state.cluster import ClusterState

WINDOW: Final = 300.0
"""Seconds within which losses count as one event."""

SLOW: Final = 300.0
"""Seconds between two nodes given up while more than half are dead."""

RETURN: Final = 10.0
"""Seconds the others have to come back once no more than half are dead: not all behind a cut are heard at once."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How every node stands now, what of that is news, and when to look again."""

    standings: Mapping[str, NodeStanding]
    changes: tuple[SetStanding, ...] = ()
    wake_at: float | None = None

    @property
    def given_up(self) -> frozenset[str]:
        """The nodes whose instances are lost."""
        return frozenset(name for name, standing in self.standings.items() if standing.given_up_at is not None)


def judge(state: ClusterState, *, now: float, judge_loss: bool) -> Judgement:
    """Judge every node. Without ``judge_loss`` a node without a sign of life stays as it was judged before."""
    standings: dict[str, NodeStanding] = {}
    for name in sorted(state.nodes):
        standing = _standing(state, name, now, judge_loss)
        if standing is not None:
            standings[name] = standing
    wake_at = _give_up(state, standings, now) if judge_loss else None
    changes = [SetStanding(n, s) for n, s in standings.items() if s != state.standings.get(n)]
    changes += [SetStanding(name, None) for name in sorted(state.standings.keys() - state.nodes.keys())]
    return Judgement(standings, tuple(changes), wake_at)


def _standing(state: ClusterState, name: str, now: float, judge_loss: bool) -> NodeStanding | None:
    before, alive = state.standings.get(name), name in state.alive
    if not alive and not judge_loss:
        return before
    if before is None and name not in state.reports:
        return None  # it has joined, and its agent has not come up yet
    ready, why = node_ready(state, name)
    if before is not None and (before.alive, before.ready) == (alive, ready):
        return before
    return NodeStanding(alive=alive, ready=ready, reason=why, since=now)


def _give_up(state: ClusterState, standings: dict[str, NodeStanding], now: float) -> float | None:
    """Decide about the dead nodes in ``standings``; gives the time at which the next may be given up."""
    dead = {name: standing for name, standing in standings.items() if not standing.alive}
    waiting = [name for name, standing in dead.items() if standing.given_up_at is None]
    if not waiting:
        return None
    crowd = _too_many(state, standings, dead, now)
    chosen, next_at = set(waiting), None
    if crowd:
        oldest = min(waiting, key=lambda name: (dead[name].since, name))
        last = max((s.given_up_at for s in dead.values() if s.given_up_at is not None), default=dead[oldest].since)
        next_at = max(last, dead[oldest].since) + SLOW
        chosen = {oldest} if now >= next_at else set()
    due = {name: None if crowd else dead[name].due_at or now + RETURN for name in waiting}
    if not crowd:
        chosen = {name for name, at in due.items() if not dead[name].held or (at is not None and now >= at)}
    for name in waiting:
        kept = {"held": True, "due_at": due[name]}
        update = {"given_up_at": now, "held": False, "due_at": None} if name in chosen else kept
        standings[name] = dead[name].model_copy(update=update)
    if len(waiting) == len(chosen):
        return None
    if crowd:
        return now + SLOW if chosen else next_at
    return min(at for name, at in due.items() if name not in chosen and at is not None)


def _too_many(
    state: ClusterState, standings: Mapping[str, NodeStanding], dead: Mapping[str, NodeStanding], now: float
) -> bool:
    holding = any(name in dead and standing.held for name, standing in state.standings.items())
    recent = [s for s in dead.values() if holding or s.given_up_at is None or s.given_up_at > now - WINDOW]
    return len(recent) > len(standings) - len(dead)
