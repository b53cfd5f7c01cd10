"""The search over large fleets, with NumPy; imported only when a fleet is large, since NumPy alone takes 12 MiB.

Figures are float64 and exact: :func:`exact` says whether all amounts are below 2**53.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kat_platform.interfaces.scheduler import Demand
from kat_sched_binpack.config import BinpackConfig
from kat_sched_binpack.feasible import Request
from kat_sched_binpack.fleet import Fleet
from kat_sched_binpack.relations import Tally
from kat_sched_binpack.score import AVOIDED, Scorer, contribution, crowding, held_back

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]

_EXACT = 2**53


def exact(fleet: Fleet, demands: Iterable[Demand]) -> bool:
    """Tell whether every amount is small enough to be exact as a float64 (below 8 PiB)."""
    amounts = [max((abs(v) for v in row), default=0) for row in (fleet.free_cpu, fleet.free_memory)]
    amounts += [max((max(n.cpu_millicores, n.memory_bytes) for n in fleet.nodes), default=0)]
    amounts += [max(demand.cpu_millicores, demand.memory_bytes) for demand in demands]
    return max(amounts) < _EXACT


class Vectors:
    """The fleet's rows as vectors, kept true by :attr:`Fleet.on_change`, and scratch space."""

    def __init__(self, fleet: Fleet, config: BinpackConfig) -> None:
        self.fleet = fleet
        size = len(fleet.nodes)
        self.free_cpu: Floats = np.array(fleet.free_cpu, dtype=np.float64)
        self.free_memory: Floats = np.array(fleet.free_memory, dtype=np.float64)
        self.cpu_unit: Floats = np.array(fleet.cpu_unit, dtype=np.float64)
        self.memory_unit: Floats = np.array(fleet.memory_unit, dtype=np.float64)
        self.cpu_load: Floats = np.array(fleet.cpu_load, dtype=np.float64)
        self.memory_load: Floats = np.array(fleet.memory_load, dtype=np.float64)
        self.has_slot: Marks = np.array(fleet.free_slots, dtype=np.int64) > 0
        self.levelling = bool(fleet.even)
        self.sign: Floats = np.ones(size, dtype=np.float64)
        self.sign[list(fleet.even)] = -1.0
        self.offset: Floats = np.zeros(size, dtype=np.float64)
        self.offset[list(fleet.even)] = 200.0 * config.packing
        self.offset[list(fleet.reserve)] = -held_back(config)
        self.scores: Floats = np.empty(size, dtype=np.float64)
        self.scratch: Floats = np.empty(size, dtype=np.float64)
        self.fit: Marks = np.empty(size, dtype=np.bool_)
        self.mark: Marks = np.empty(size, dtype=np.bool_)
        self._places: dict[str, NDArray[np.int64]] = {}
        fleet.on_change = self.refresh

    def refresh(self, i: int) -> None:
        """Copy row ``i`` from the fleet."""
        fleet = self.fleet
        self.free_cpu[i] = fleet.free_cpu[i]
        self.free_memory[i] = fleet.free_memory[i]
        self.cpu_load[i] = fleet.cpu_load[i]
        self.memory_load[i] = fleet.memory_load[i]
        self.has_slot[i] = fleet.free_slots[i] > 0
        if i not in fleet.even and i not in fleet.reserve:
            self.offset[i] = 0.0

    def by_node(self, by_place: NDArray[Any], tally: Tally) -> NDArray[Any]:
        """Turn an answer for each place of a tally into an answer for each node."""
        key = tally.subject.key
        if not key:
            return by_place[:-1]  # every node is a place of its own
        if key not in self._places:
            self._places[key] = np.array(tally.place_of, dtype=np.int64)
        return by_place[self._places[key]]


class VectorRanking:
    """All scores in one vector; a node that will not do has minus infinity."""

    def __init__(self, vectors: Vectors, request: Request, scorer: Scorer) -> None:
        self._vectors = vectors
        self._request = request
        self._scorer = scorer
        self._scores = vectors.scores
        self._refused: set[int] = set()
        self.rebuild()

    def rebuild(self) -> None:
        """See :class:`kat_sched_binpack.search.Ranking`."""
        self._score()
        self._feasible()
        np.logical_not(self._vectors.fit, out=self._vectors.fit)
        self._scores[self._vectors.fit] = -np.inf

    def _score(self) -> None:
        vectors, request, scorer, scores = self._vectors, self._request, self._scorer, self._scores
        np.multiply(vectors.cpu_unit, request.cpu, out=scores)
        np.add(scores, vectors.cpu_load, out=scores)
        np.multiply(vectors.memory_unit, request.memory, out=vectors.scratch)
        np.add(vectors.scratch, vectors.memory_load, out=vectors.scratch)
        np.maximum(scores, vectors.scratch, out=scores)
        if scorer.config.packing != 1.0:
            np.multiply(scores, scorer.config.packing, out=scores)
        if vectors.levelling:
            np.multiply(scores, vectors.sign, out=scores)
            np.add(scores, vectors.offset, out=scores)
        if scorer.image_nodes:
            scores[scorer.image_nodes] += scorer.config.image * 100.0
        for i, off in scorer.unwelcome.items():
            scores[i] -= off
        for wish in request.wishes:
            worth = np.zeros(wish.tally.nowhere + 1)
            worth[list(wish.tally.counts)] = wish.weight * scorer.config.preferred
            scores += vectors.by_node(worth, wish.tally)
        for _, weight, ask in vectors.fleet.contributions.scores:
            for i, node in enumerate(vectors.fleet.nodes):
                scores[i] += contribution(weight, ask(request.demand, node))
        for i, mates in scorer.mates.items():
            scores[i] -= crowding(scorer.config, mates)
        for i in scorer.avoided:
            scores[i] -= AVOIDED

    def _feasible(self) -> None:
        vectors, request = self._vectors, self._request
        fit, mark = vectors.fit, vectors.mark
        np.logical_and(vectors.has_slot, np.frombuffer(request.static, dtype=np.bool_), out=fit)
        if request.cpu:
            np.logical_and(fit, np.greater_equal(vectors.free_cpu, request.cpu, out=mark), out=fit)
        if request.memory:
            np.logical_and(fit, np.greater_equal(vectors.free_memory, request.memory, out=mark), out=fit)
        for rule in request.rules:
            usual, others = rule.allowed()
            allowed = np.full(rule.tally.nowhere + 1, usual)
            allowed[others] = not usual
            np.logical_and(fit, vectors.by_node(allowed, rule.tally), out=fit)
        if self._refused:
            fit[list(self._refused)] = False

    def best(self) -> int | None:
        """See :class:`kat_sched_binpack.search.Ranking`."""
        while True:
            i = int(self._scores.argmax())
            if self._scores[i] == -np.inf:
                return None
            if not self._request.picky or self._request.suits(i):
                return i
            self._refused.add(i)  # what is asked only of the best never gets better while instances are only added
            self._scores[i] = -np.inf

    def changed(self, i: int) -> None:
        """See :class:`kat_sched_binpack.search.Ranking`."""
        self._scores[i] = self._scorer.of(i) if self._request.fits(i) else -np.inf
