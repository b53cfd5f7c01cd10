"""Windows: the faults of a history with their times, and who was struck when. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

from .history import Entry
from .schedule import Reach


@dataclass(frozen=True, slots=True)
class Window:
    """One fault as it was: from when it began to be made until everything was as it should be again."""

    number: int
    name: str
    nodes: tuple[str, ...]
    reach: Reach
    made: float
    healed: float = inf
    settled: float = inf

    def __str__(self) -> str:
        return f"fault {self.number} ({self.name} of {', '.join(self.nodes)})"

    @property
    def silences(self) -> bool:
        """Whether the others could not reach what ran there."""
        return self.reach is not Reach.CONTROL


def windows_of(history: Iterable[Entry]) -> list[Window]:
    """Give the faults of a history, in order."""
    found: dict[int, Window] = {}
    for entry in history:
        number = entry.get("number", -1)
        if entry["kind"] == "fault":
            reach = Reach(entry["reach"])
            found[number] = Window(number, entry["name"], tuple(entry["nodes"]), reach, entry["at"])
        elif entry["kind"] == "healed":
            found[number] = replace(found[number], healed=entry["at"])
        elif entry["kind"] == "settled":
            found[number] = replace(found[number], settled=entry["at"])
    return sorted(found.values(), key=lambda window: window.made)


def before(windows: Sequence[Window], moment: float) -> Window | None:
    """Give the last fault made before a moment."""
    found = [window for window in windows if window.made <= moment]
    return found[-1] if found else None


def silenced(windows: Iterable[Window], begin: float, end: float, *, after: float) -> set[str]:
    """Name the nodes that were silent at some time from ``begin`` to ``end``, or until ``after`` seconds before."""
    return {
        node
        for window in windows
        if window.silences and window.made <= end and begin <= window.healed + after
        for node in window.nodes
    }


def struck(windows: Iterable[Window], begin: float, end: float) -> set[str]:
    """Name the nodes that suffered from a silencing fault at some time, until all was as it should be again."""
    return {
        node
        for window in windows
        if window.silences and window.made <= end and begin <= window.settled
        for node in window.nodes
    }


def powerless(windows: Iterable[Window], begin: float, end: float) -> set[str]:
    """Name the nodes that were without power at some time."""
    return {
        node
        for window in windows
        if window.reach is Reach.POWER and window.made <= end and begin <= window.healed
        for node in window.nodes
    }


def missed(windows: Iterable[Window], begin: float, end: float, *, at_least: float, after: float) -> set[str]:
    """Name the nodes that were without power, or silent for long enough, or so ``after`` seconds before at most."""
    return {
        node
        for window in windows
        if window.silences and window.made <= end and begin <= window.healed + after
        if window.reach is Reach.POWER or min(end, window.healed) - window.made >= at_least
        for node in window.nodes
    }


def unnoticed(windows: Sequence[Window], seconds: float) -> list[tuple[float, float]]:
    """Give the spans in which not everybody knows yet that a node is silent: so many seconds from its silence on.

    Every fault that comes or goes while it lasts begins that time anew: there may have been nobody to notice. A node
    that is hard to hear is never silent.
    """
    spans = []
    for window in windows:
        if window.reach is Reach.LOSSY:
            spans.append((window.made, window.healed + seconds))
        elif window.silences:
            moments = [moment for other in windows for moment in (other.made, other.healed)]
            began = [moment for moment in moments if window.made <= moment < window.healed]
            spans += [(moment, moment + seconds) for moment in began]
    return spans


def returning(windows: Iterable[Window], begin: float, end: float) -> Window | None:
    """Give the fault after which a node that was silent was on its way back then, if any."""
    found = (w for w in windows if w.silences and w.healed <= end and begin <= w.settled)
    return next(found, None)
