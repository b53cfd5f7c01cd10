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

REVOKED_KEPT: Final = 24 * 3600.0
"""Seconds for which a revocation is kept beyond the certificate's end: clocks differ."""

BATCH: Final = 500


class Sweeper:
    """Forgets events that are older than a day, and revocations that mean nothing any more."""

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
        await self._forget_ended(leadership, now)
        return len(old)

    async def _forget_ended(self, leadership: Leadership, now: float) -> None:
        """Forget revocations of certificates that have ended by themselves: every node carries the list."""
        ended = [serial for serial, end in self._cache.state.revoked.items() if 0 < end < now - REVOKED_KEPT]
        if ended:
            gone = tuple(Delete(keys.REVOKED + serial) for serial in ended[:BATCH])
            await self._store.transaction((leadership.fence(),), gone)
