"""One call of the scheduler, from a batch to a plan.

Instances that ask for the same are placed together: what is worked out for the first holds, but for the node it
went to, for the next. Instances whose required company was only placed later in the batch are tried once more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kat_platform.interfaces.scheduler import (
    Demand,
    PendingInstance,
    Placement,
    PlacementPlan,
    SchedulingSnapshot,
    Unplaceable,
)
from kat_sched_binpack import preempt
from kat_sched_binpack.config import BinpackConfig
from kat_sched_binpack.explain import refusal
from kat_sched_binpack.feasible import Request
from kat_sched_binpack.fleet import Fleet
from kat_sched_binpack.score import Scorer, sizes
from kat_sched_binpack.search import PlainRanking, Ranking
from kat_sched_binpack.targets import choose

if TYPE_CHECKING:
    from kat_sched_binpack.vectors import Vectors


@dataclass(slots=True)
class Group:
    """Pending instances that are alike in everything that decides where they go."""

    demand: Demand
    only: str | None
    avoid: frozenset[str]
    members: list[PendingInstance] = field(default_factory=list)


class Batch:
    """The work of one call."""

    def __init__(
        self, config: BinpackConfig, snapshot: SchedulingSnapshot, pending: tuple[PendingInstance, ...]
    ) -> None:
        self._config = config
        self._snapshot = snapshot
        self._pending = pending
        self._fleet = Fleet(snapshot)
        self._placed: dict[str, Placement] = {}
        self._refused: dict[str, Unplaceable] = {}
        self._residents: preempt.Residents | None = None
        self._vectors: Vectors | None = None

    def _make_vectors(self) -> Vectors | None:
        if len(self._fleet.nodes) < max(self._config.vector_nodes, 1):
            return None
        from kat_sched_binpack import vectors  # here, since NumPy costs 12 MiB: only for those who need it

        demands = {pending.demand.key: pending.demand for pending in self._pending}
        return vectors.Vectors(self._fleet, self._config) if vectors.exact(self._fleet, demands.values()) else None

    def plan(self) -> PlacementPlan:
        """Place everything that can be placed; the answers come in the order the instances were given in."""
        groups = self._groups()
        targets = choose(self._fleet, ((group.demand, len(group.members)) for group in groups if group.only is None))
        if len(targets) >= self._config.even_nodes:
            self._fleet.fill_evenly(targets)
        self._vectors = self._make_vectors()
        for group in groups:
            self._place(group)
        self._try_again([group for group in groups if group.demand.affinity.required])
        placed, refused = self._placed, self._refused
        return PlacementPlan(
            tuple(placed[p.id] for p in self._pending if p.id in placed),
            tuple(refused[p.id] for p in self._pending if p.id in refused),
        )

    def _groups(self) -> list[Group]:
        groups: dict[tuple[str, str | None, frozenset[str]], Group] = {}
        demands: dict[str, Demand] = {}
        counts: dict[str, int] = {}
        for pending in self._pending:
            demand = pending.demand
            key = (demand.key, pending.only_node, pending.avoid)
            group = groups.get(key)
            if group is None:
                group = groups[key] = Group(demand, pending.only_node, pending.avoid)
                demands.setdefault(demand.key, demand)
            group.members.append(pending)
            counts[demand.key] = counts.get(demand.key, 0) + 1
        nodes = self._fleet.nodes
        room = (sum(node.cpu_millicores for node in nodes), sum(node.memory_bytes for node in nodes))
        size = sizes(demands, counts, *room)
        return sorted(groups.values(), key=lambda group: (-group.demand.priority, -size[group.demand.key]))

    def _place(self, group: Group) -> None:
        request = Request(self._fleet, group.demand, group.only, group.avoid)
        if request.single is not None:
            self._place_single(request, group.members)
            return
        scorer = Scorer(self._config, request)
        ranking = self._rank(request, scorer)
        for number, pending in enumerate(group.members):
            i = ranking.best()
            if i is not None:
                score = scorer.of(i)
                stale = self._seat(request, pending, i, score)
                if number + 1 == len(group.members):
                    return
                if stale:
                    ranking.rebuild()
                else:
                    ranking.changed(i)
                continue
            if not self._make_room(request, scorer, pending):
                self._refuse(request, group.members[number:])
                return
            ranking = self._rank(request, scorer)

    def _place_single(self, request: Request, members: list[PendingInstance]) -> None:
        i = self._fleet.index.get(request.single or "")
        scorer = Scorer(self._config, request)
        for number, pending in enumerate(members):
            if i is not None and request.fits(i):
                self._seat(request, pending, i, scorer.of(i))
            elif not self._make_room(request, scorer, pending):
                self._refuse(request, members[number:])
                return

    def _rank(self, request: Request, scorer: Scorer) -> Ranking:
        if self._vectors is None:
            return PlainRanking(request, scorer)
        from kat_sched_binpack.vectors import VectorRanking  # see _make_vectors

        return VectorRanking(self._vectors, request, scorer)

    def _seat(
        self, request: Request, pending: PendingInstance, i: int, score: float, preempts: tuple[str, ...] = ()
    ) -> bool:
        self._fleet.add(pending.id, pending.demand, i)
        self._placed[pending.id] = Placement(pending.id, self._fleet.nodes[i].name, preempts, score)
        return request.placed_on(i)

    def _make_room(self, request: Request, scorer: Scorer, pending: PendingInstance) -> bool:
        if not self._config.preemption:
            return False
        if self._residents is None:
            self._residents = preempt.Residents(self._fleet, self._snapshot.placed)
        eviction = preempt.find(self._fleet, self._residents, request, self._config.preemption_candidates)
        if eviction is None:
            return False
        for victim in eviction.victims:
            self._fleet.remove(victim.id, victim.demand, eviction.node)
        self._residents.evict(eviction)
        request.reset()
        score = scorer.of(eviction.node)
        self._seat(request, pending, eviction.node, score, tuple(victim.id for victim in eviction.victims))
        return True

    def _refuse(self, request: Request, members: Iterable[PendingInstance]) -> None:
        reasons, summary = refusal(request)
        for pending in members:
            self._refused[pending.id] = Unplaceable(pending.id, reasons, summary)

    def _try_again(self, groups: list[Group]) -> None:
        """Give instances that need company another try for as long as that places any."""
        progress = True
        while progress:
            before = len(self._placed)
            for group in groups:
                left = [pending for pending in group.members if pending.id in self._refused]
                if left:
                    for pending in left:
                        del self._refused[pending.id]
                    self._place(Group(group.demand, group.only, group.avoid, left))
            progress = len(self._placed) > before
