"""Sweep: removes what has outlived its use. Part of the leader's term; every removal is fenced."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from kat_platform.errors import KatError
from kat_platform.interfaces.store import Delete, Leadership, Store
from kat_platform.state import keys
from kat_platform.state.cache import StateCache
from kat_platform.state.events import expired

log = structlog.get_logger(__name__)

INTERVAL: Final = 600.0
"""Seconds between two sweeps."""

FIRST: Final = 60.0
"""Seconds after the election before the first: a new leader has more urgent things to do."""

BATCH: Final = 500


class Sweeper:
    """Forgets events that are older than a day."""

    def __init__(self, store: Store, cache: StateCache) -> None:
        self._store, self._cache = store, cache

    async def run(self, leadership: Leadership) -> None:
        """Sweep now and then until cancelled."""
        await asyncio.sleep(FIRST)
        while True:
            try:
                await self.sweep(leadership, now=time.time())
            except KatError as error:
                log.warning("sweep failed", error=str(error))
            await asyncio.sleep(INTERVAL)

    async def sweep(self, leadership: Leadership, *, now: float) -> int:
        """Remove every expired event; gives how many."""
        old = expired(self._cache.state.events, now)
        for start in range(0, len(old), BATCH):
            gone = tuple(Delete(keys.event(*place)) for place in old[start : start + BATCH])
            await self._store.transaction((leadership.fence(),), gone)
        return len(old)
