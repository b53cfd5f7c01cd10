"""Finding the best node again and again while instances of one request are placed.

There are two ways that give the same answers: plain Python with a heap, for the clusters most people have, and
vectors (``vectors.py``), for fleets where looking at every node in Python would take too long.
"""

from __future__ import annotations

import heapq
from typing import Protocol

from kat_sched_binpack.feasible import Request
from kat_sched_binpack.score import Scorer


class Ranking(Protocol):
    """The nodes for one request, best first: by score, then by name."""

    def best(self) -> int | None:
        """Give the best node that will do now; None when there is none."""

    def changed(self, i: int) -> None:
        """Take in that node ``i`` got an instance of this request."""

    def rebuild(self) -> None:
        """Work everything out again: answers for many nodes may differ now."""


class PlainRanking:
    """A heap of scores; an entry that was overtaken is dropped when it comes up."""

    def __init__(self, request: Request, scorer: Scorer) -> None:
        self._request = request
        self._scorer = scorer
        self._current: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []
        self.rebuild()

    def rebuild(self) -> None:
        """See :class:`Ranking`."""
        request, scorer = self._request, self._scorer
        self._current = {i: scorer.of(i) for i in range(len(request.static)) if request.fits(i)}
        self._heap = [(-score, i) for i, score in self._current.items()]
        heapq.heapify(self._heap)

    def best(self) -> int | None:
        """See :class:`Ranking`."""
        while self._heap:
            score, i = self._heap[0]
            if self._current.get(i) == -score:
                return i
            heapq.heappop(self._heap)
        return None

    def changed(self, i: int) -> None:
        """See :class:`Ranking`."""
        if self._request.fits(i):
            self._current[i] = self._scorer.of(i)
            heapq.heappush(self._heap, (-self._current[i], i))
        else:
            self._current.pop(i, None)
