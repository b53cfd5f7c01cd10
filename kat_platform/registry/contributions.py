"""Makes what plugins contribute to scheduling safe to call: named after its plugin, and unable to raise."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from kat_platform.interfaces.scheduler import Contributions, Demand, SchedulableNode

Filter = Callable[[Demand, SchedulableNode], str | None]
Score = Callable[[Demand, SchedulableNode], float]

log = structlog.get_logger(__name__)


def merge(given: Iterable[tuple[str, Contributions]]) -> Contributions:
    """Join the contributions of ``(plugin, contributions)`` pairs, in order, each named ``PLUGIN/NAME``."""
    filters: list[tuple[str, Filter]] = []
    scores: list[tuple[str, float, Score]] = []
    for plugin, contributions in given:
        filters += [(f"{plugin}/{name}", _safe_filter(f"{plugin}/{name}", f)) for name, f in contributions.filters]
        scores += [(f"{plugin}/{name}", w, _safe_score(f"{plugin}/{name}", s)) for name, w, s in contributions.scores]
    return Contributions(tuple(filters), tuple(scores))


def _safe_filter(name: str, check: Filter) -> Filter:
    def guarded(demand: Demand, node: SchedulableNode) -> str | None:
        try:
            return check(demand, node)
        except Exception as error:  # a filter that cannot tell must not let anything pass
            return f"filter {name} failed with {type(error).__name__}"

    return guarded


def _safe_score(name: str, score: Score) -> Score:
    def guarded(demand: Demand, node: SchedulableNode) -> float:
        try:
            return score(demand, node)
        except Exception as error:  # a missing preference is no reason not to place
            log.debug("score failed", score=name, error=type(error).__name__)
            return 0.0

    return guarded
