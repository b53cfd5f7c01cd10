"""PluginFacts: what hook plugins know of this node, asked at the start and every five minutes, fit to be reported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog

from kat_platform.hooks.types import NodeFacts
from kat_platform.model.scalars import check_label_key, check_label_value

log = structlog.get_logger(__name__)

ASK_SECONDS: Final = 300.0
MOST_LABELS: Final = 64
"""Labels that plugins may give a node, all of them together; beyond it the last by name are left out."""
MOST_BYTES: Final = 64 * 1024
"""Size of one plugin's facts as JSON; larger ones are left out."""


class PluginFacts:
    """Keeps the newest answer. ``ask`` has a deadline of its own and never raises; ``changed`` is told of news."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[NodeFacts]],
        changed: Callable[[], None],
        *,
        every: float = ASK_SECONDS,
    ) -> None:
        self._ask, self._changed, self._every = ask, changed, every
        self._known = NodeFacts()
        self._asked = asyncio.Event()

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            found = fit(await self._ask())
            news = found != self._known
            self._known = found
            self._asked.set()
            if news:
                self._changed()
            await asyncio.sleep(self._every)

    async def current(self) -> NodeFacts:
        """Give the newest facts; waits for the first ones, because a node without its labels would lose instances."""
        await self._asked.wait()
        return self._known


def fit(given: NodeFacts) -> NodeFacts:
    """Leave out, and log, what cannot be a label, and facts that are no JSON or too many."""
    labels: dict[str, str] = {}
    for key, value in sorted(given.labels.items(), key=lambda pair: str(pair[0])):
        problem = _problem(key, value) if len(labels) < MOST_LABELS else f"there are more than {MOST_LABELS}"
        if problem:
            log.warning("label of a plugin left out", label=str(key)[:80], problem=problem)
        else:
            labels[key] = value
    return NodeFacts(labels, {plugin: facts for plugin, facts in given.facts.items() if _is_small_json(plugin, facts)})


def _problem(key: object, value: object) -> str:
    if not isinstance(key, str) or not isinstance(value, str):
        return "a label and its value are text"
    try:
        check_label_key(key)
        check_label_value(value)
    except ValueError as error:
        return str(error)
    return ""


def _is_small_json(plugin: str, facts: Mapping[str, Any]) -> bool:
    try:
        size = len(json.dumps(facts, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        log.warning("facts of a plugin left out", plugin=plugin, problem=str(error))
        return False
    if size > MOST_BYTES:
        log.warning("facts of a plugin left out", plugin=plugin, problem=f"{size} bytes, at most {MOST_BYTES}")
    return size <= MOST_BYTES
