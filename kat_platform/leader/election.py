"""Election: exactly one control-plane node leads at a time, and what it does ends when its term does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from kat_platform.errors import KatError
from kat_platform.interfaces.store import Change, Leadership, Store
from kat_platform.state import keys
from kat_platform.state.cache import StateCache
from kat_platform.state.cluster import ClusterState

log = structlog.get_logger(__name__)

RETRY: Final = 0.5
"""Seconds before standing again after an election that failed, and before asking again who leads."""


async def follow_leader(store: Store, cache: StateCache, tell: Callable[[str | None], None]) -> None:
    """Tell who leads, now and whenever the election's keys change, until cancelled."""
    changed = asyncio.Event()
    changed.set()

    def look(_state: ClusterState, changes: tuple[Change, ...]) -> None:
        if any(change.entry.key.startswith(keys.ELECTION) for change in changes):
            changed.set()

    stop = cache.subscribe(look)
    try:
        while True:
            await changed.wait()
            changed.clear()
            try:
                leadership = await store.leader(keys.ELECTION)
            except KatError as error:  # the store is away: nobody can tell, until it is back
                log.info("leader not known", error=str(error))
                tell(None)
                changed.set()
                await asyncio.sleep(RETRY)
            else:
                tell(None if leadership is None else leadership.candidate)
    finally:
        stop()


class Election:
    """Stands for election again and again, and runs ``term`` for as long as each leadership lasts."""

    def __init__(
        self,
        store: Store,
        candidate: str,
        term: Callable[[Leadership], Awaitable[None]],
        *,
        ttl: int,
        on_change: Callable[[bool], None] = lambda _leads: None,
    ) -> None:
        self._store, self._candidate, self._term, self._ttl = store, candidate, term, ttl
        self._on_change = on_change
        self.leadership: Leadership | None = None

    async def run(self) -> None:
        """Stand until cancelled; a leadership held then is given up, so that another takes over at once."""
        while True:
            try:
                leadership = await self._store.campaign(keys.ELECTION, self._candidate, ttl=self._ttl)
            except KatError as error:
                log.warning("campaign failed", error=str(error))
                await asyncio.sleep(RETRY)
                continue
            await self._serve(leadership)

    async def _serve(self, leadership: Leadership) -> None:
        log.info("leading", candidate=self._candidate, revision=leadership.revision)
        self.leadership = leadership
        self._on_change(True)
        term = asyncio.create_task(self._run_term(leadership), name="leader term")
        lost = asyncio.create_task(self._store.leadership_lost(leadership), name="leadership watch")
        try:
            await asyncio.wait((term, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.leadership = None
            self._on_change(False)
            for task in (term, lost):
                task.cancel()
            await asyncio.gather(term, lost, return_exceptions=True)
            await self._resign(leadership)
        if not term.cancelled() and (error := term.exception()) is not None and not isinstance(error, KatError):
            raise error  # a bug in a controller: take the agent down loudly
        log.warning("no longer leading", candidate=self._candidate)

    async def _run_term(self, leadership: Leadership) -> None:
        try:
            await self._term(leadership)
        except* KatError as errors:  # of the store, for one: another node may do better, or this one in its next term
            log.warning("the term ended early", reasons=[str(error) for error in errors.exceptions])

    async def _resign(self, leadership: Leadership) -> None:
        try:
            async with asyncio.timeout(2.0):
                await self._store.resign(leadership)
        except (KatError, TimeoutError) as error:
            log.info("could not resign; the lease will run out", error=str(error))
