"""Backup: the leader makes one each interval, if anything has changed. Part of its term, and never in its way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from kat_platform.backup.folder import seconds_until_due
from kat_platform.backup.keeper import BackupKeeper
from kat_platform.errors import KatError
from kat_platform.model.cluster import ClusterConfigurationSpec
from kat_platform.model.event import Event, EventType
from kat_platform.observability.metrics import Metrics
from kat_platform.state.cache import StateCache
from kat_platform.state.events import EventRecorder

log = structlog.get_logger(__name__)

FIRST_MOST: Final = 300.0
"""Seconds after the election before the first look, at most: a new leader has more urgent things to do, and a cluster
that has just been made is still being filled."""
LOOK: Final = 20.0
"""Seconds after which the interval is read anew, from memory: it may have been changed meanwhile."""


class BackupTask:
    """Makes backups for one term of office, of the node that leads and into its folder."""

    def __init__(
        self,
        keeper: BackupKeeper,
        cache: StateCache,
        recorder: EventRecorder,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keeper, self._cache, self._recorder, self._metrics = keeper, cache, recorder, metrics
        self._clock = clock
        self._good_at: float | None = None
        self._failed_at: float | None = None

    async def run(self) -> None:
        """Make backups until cancelled; no failure ends it."""
        await asyncio.sleep(min(FIRST_MOST, self._interval() / 6))
        while True:
            await self.look()
            await asyncio.sleep(min(LOOK, max(1.0, self._wait())))

    def _interval(self) -> float:
        configuration = self._cache.state.configuration
        spec = configuration.spec if configuration is not None else ClusterConfigurationSpec()
        return spec.backup_interval_minutes * 60.0

    def _wait(self) -> float:
        return seconds_until_due(
            now=self._clock(), good_at=self._good_at, failed_at=self._failed_at, interval=self._interval()
        )

    async def look(self) -> None:
        """Make a backup if one is due."""
        try:
            if self._good_at is None and self._failed_at is None:
                newest = (await self._keeper.list())[-1:]
                self._good_at = newest[0].header.created_at if newest else None
            if self._wait() > 0:
                return
            made = await self._keeper.take_if_changed()
        except Exception as error:  # whatever it is, the leader goes on; a person is told, and it is tried again
            self._failed(error)
            return
        self._good_at, self._failed_at = self._clock(), None
        self._metrics.gauge("kat_backup_good_seconds", self._good_at)
        if made is not None:
            node = made.node
            text = f"{made.name}: {made.size} bytes, on node {node}"
            self._note("BackupTaken", text, EventType.NORMAL)

    def _failed(self, error: Exception) -> None:
        self._failed_at = self._clock()
        self._metrics.count("kat_backup_failures_total")
        if isinstance(error, KatError):
            log.warning("backup failed", error=str(error))
            text = f"{error.message}" + (f" — {error.hint}" if error.hint else "")
        else:
            log.exception("backup failed")
            text = f"{type(error).__name__}: {error}"
        self._note("BackupFailed", f"no backup was made: {text}", EventType.WARNING)

    def _note(self, reason: str, message: str, type_: EventType) -> None:
        event = Event(
            type=type_, reason=reason, object_kind="Cluster", object_name="cluster", message=message, source="leader"
        )
        self._recorder.note(event)
