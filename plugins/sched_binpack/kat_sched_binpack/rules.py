"""The rules between instances, each as one question about a place: may one more instance go there?

A rule also tells, after an instance of its own demand was placed, whether the answer for *other* nodes may have
changed (:meth:`Rule.stale_after`): then what was worked out for them has to be worked out again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from kat_platform.interfaces.scheduler import Demand
from kat_sched_binpack.relations import Tally


class Rule(Protocol):
    """One rule between instances, for one demand."""

    tally: Tally

    def allows(self, place: int) -> bool:
        """Tell whether one more instance may go to ``place``."""

    def allowed(self) -> tuple[bool, list[int]]:
        """Give the answer for most places, and the places with the other answer, for all that have an open node."""

    def stale_after(self, place: int) -> bool:
        """Take in that an instance went to ``place``; tell whether answers for other nodes may differ now."""

    def reset(self) -> None:
        """Forget what was derived from the counts: instances were taken away."""


@dataclass(slots=True)
class Near:
    """Required affinity: where such an instance is; the first of a group that wants its own kind may go anywhere."""

    tally: Tally
    wants_itself: bool

    def allows(self, place: int) -> bool:
        """See :class:`Rule`."""
        if self.tally.total == 0:
            return self.wants_itself and place != self.tally.nowhere
        return place in self.tally.counts

    def allowed(self) -> tuple[bool, list[int]]:
        """See :class:`Rule`."""
        if self.tally.total == 0:
            return self.wants_itself, [self.tally.nowhere] if self.wants_itself else []
        return False, list(self.tally.counts)

    def stale_after(self, place: int) -> bool:
        """See :class:`Rule`."""
        return self.wants_itself and self.tally.total == 1

    def reset(self) -> None:
        """See :class:`Rule`."""


@dataclass(slots=True)
class Apart:
    """Required anti-affinity, from either side: not where such an instance is."""

    tally: Tally

    def allows(self, place: int) -> bool:
        """See :class:`Rule`."""
        return place not in self.tally.counts

    def allowed(self) -> tuple[bool, list[int]]:
        """See :class:`Rule`."""
        return True, list(self.tally.counts)

    def stale_after(self, place: int) -> bool:
        """See :class:`Rule`."""
        return self.tally.wide and self.tally.counts.get(place) == 1

    def reset(self) -> None:
        """See :class:`Rule`."""


@dataclass(slots=True)
class Even:
    """Spread: at most ``max_skew`` more than the emptiest place that is open to the demand."""

    tally: Tally
    max_skew: int
    eligible: frozenset[int]
    """Places with at least one node that would take the demand if only static things counted."""
    floor: int = 0
    at_floor: int = field(default=0)

    def __post_init__(self) -> None:
        self.reset()

    def allows(self, place: int) -> bool:
        """See :class:`Rule`."""
        return place in self.eligible and self.tally.counts.get(place, 0) + 1 - self.floor <= self.max_skew

    def allowed(self) -> tuple[bool, list[int]]:
        """See :class:`Rule`."""
        empty = 1 - self.floor <= self.max_skew
        return empty, [place for place in (*self.tally.counts, self.tally.nowhere) if self.allows(place) != empty]

    def stale_after(self, place: int) -> bool:
        """See :class:`Rule`."""
        if self.tally.counts.get(place, 0) - 1 == self.floor:
            self.at_floor -= 1
            if not self.at_floor:
                self.reset()
                return True
        return self.tally.wide and not self.allows(place)

    def reset(self) -> None:
        """See :class:`Rule`."""
        counts = [count for place, count in self.tally.counts.items() if place in self.eligible]
        empty = len(self.eligible) - len(counts)
        self.floor = 0 if empty else min(counts, default=0)
        self.at_floor = empty or counts.count(self.floor)


@dataclass(slots=True)
class Wish:
    """A preferred term: counts ``weight`` (negative to keep away) where such an instance is."""

    tally: Tally
    weight: float

    def value(self, place: int) -> float:
        """Give what the term is worth at ``place``."""
        return self.weight if place in self.tally.counts else 0.0

    def stale_after(self, demand: Demand, place: int) -> bool:
        """Tell whether the wish's value for other nodes changed by an instance of ``demand`` at ``place``."""
        return self.tally.wide and self.tally.counts.get(place) == 1 and self.tally.subject.covers(demand)
