"""Recording events: repeated ones are counted, many are written at once, and one noisy object cannot fill the store."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from kat_platform.errors import KatError
from kat_platform.hooks.types import EventRecord
from kat_platform.interfaces.store import Compare, Get, Put, Store
from kat_platform.model.event import Event
from kat_platform.observability.metrics import Metrics
from kat_platform.state import keys

log = structlog.get_logger(__name__)

KEPT_SECONDS: Final = 24 * 3600.0
"""How long an event is kept after it happened last."""
END_SECONDS: Final = 2.0
"""How long the end of a recorder waits for the store, which may have lost its quorum."""
FLUSH_SECONDS: Final = 0.2
"""How long an event waits for others to be written with."""
REPEAT_SECONDS: Final = 5.0
"""How often at most the count of one repeated event is written."""
BURST: Final = 50
"""How many different events one object may have at once ..."""
REFILL_SECONDS: Final = 2.0
"""... and how long it takes until it may have one more."""
PENDING_LIMIT: Final = 2000
BATCH: Final = 50
MEMORY: Final = 4096

Place = tuple[str, str]
"""Namespace and identity of an event."""


def expired(events: Mapping[Place, Event], now: float) -> tuple[Place, ...]:
    """Name the events that have been kept long enough, oldest first. Pure."""
    old = [(event.last_at, place) for place, event in events.items() if event.last_at < now - KEPT_SECONDS]
    return tuple(place for _, place in sorted(old))


def merge(old: Event | None, new: Event) -> Event:
    """Count a repetition: the newer text and time, the first time of old, the counts together. Pure."""
    if old is None:
        return new
    first = min(old.first_at, new.first_at)
    return new.model_copy(
        update={"count": old.count + new.count, "first_at": first, "last_at": max(old.last_at, new.last_at)}
    )


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class EventRecorder:
    """Takes events from every part of one process and writes them. :meth:`run` must be running, or call :meth:`flush`.

    Recording never fails and never waits for the store: an event that cannot be written now is kept (up to a limit) and
    tried again; telling what happens must not hinder what happens.
    """

    def __init__(
        self,
        store: Store,
        *,
        now: Callable[[], float] = time.time,
        announce: Callable[[EventRecord], None] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._store, self._now, self._announce, self._metrics = store, now, announce, metrics
        self._pending: OrderedDict[Place, Event] = OrderedDict()
        self._written: OrderedDict[Place, float] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, str, str], _Bucket] = OrderedDict()
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()

    async def record(self, event: Event) -> None:
        """Take an event; times of 0 become now. Returns at once."""
        self.note(event)

    def note(self, event: Event) -> None:
        """Take an event from code that cannot await; the same as :meth:`record`."""
        now = self._now()
        event = event.model_copy(update={"first_at": event.first_at or now, "last_at": event.last_at or now})
        place = (event.namespace, event.identity)
        known = place in self._pending or place in self._written
        if not known and not self._admitted((event.namespace, event.object_kind, event.object_name), now):
            if self._metrics is not None:
                self._metrics.count("kat_events_dropped_total")
            return
        self._pending[place] = merge(self._pending.get(place), event)
        if len(self._pending) > PENDING_LIMIT:
            self._pending.popitem(last=False)
        if self._metrics is not None:
            self._metrics.count("kat_events_recorded_total", event.type.value)
        if self._announce is not None:
            self._announce(_as_record(event))
        self._wake.set()

    def _admitted(self, owner: tuple[str, str, str], now: float) -> bool:
        bucket = self._buckets.setdefault(owner, _Bucket(BURST, now))
        self._buckets.move_to_end(owner)
        while len(self._buckets) > MEMORY:
            self._buckets.popitem(last=False)
        bucket.tokens = min(BURST, bucket.tokens + max(0.0, now - bucket.at) / REFILL_SECONDS)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    async def run(self) -> None:
        """Write what is recorded until cancelled; then once more."""
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(FLUSH_SECONDS)
                self._wake.clear()
                await self.flush(everything=False)
                if self._pending:
                    await asyncio.sleep(1.0)  # repetitions that wait for their turn, or a store that is away
                    self._wake.set()
        finally:
            try:
                async with asyncio.timeout(END_SECONDS):
                    await self.flush()
            except TimeoutError:  # a store without a quorum must not hold up an agent that is told to stop
                log.warning("events-lost", count=len(self._pending), reason="the store did not take them at the end")

    async def flush(self, *, everything: bool = True) -> None:
        """Write what is pending; without ``everything`` not the counts that were written a moment ago."""
        async with self._flushing:
            now = self._now()
            due = [p for p in self._pending if everything or now - self._written.get(p, 0.0) >= REPEAT_SECONDS]
            for start in range(0, len(due), BATCH):
                batch = {p: self._pending.pop(p) for p in due[start : start + BATCH] if p in self._pending}
                try:
                    await self._write(batch)
                except KatError as error:
                    log.warning("events-kept-back", count=len(batch), error=str(error))
                    for place, event in batch.items():
                        self._pending[place] = merge(event, self._pending[place]) if place in self._pending else event
                    return
                for place in batch:
                    self._written[place] = now
                    self._written.move_to_end(place)
            while len(self._written) > MEMORY:
                self._written.popitem(last=False)

    async def _write(self, batch: Mapping[Place, Event]) -> None:
        """Write a batch with the counts it had before; other writers of the same event are waited out."""
        names = {place: keys.event(*place) for place in batch}
        reads = tuple(Get(key) for key in names.values())
        found = (await self._store.transaction((), reads)).reads
        for _ in range(5):
            before = {key: entries[0] for key, entries in zip(names.values(), found, strict=True) if entries}
            compares, puts = [], []
            for place, event in batch.items():
                key = names[place]
                old = before.get(key)
                compares.append(Compare.unchanged(key, old.revision if old else 0))
                puts.append(Put(key, merge(_read(old.value) if old else None, event).to_json()))
            result = await self._store.transaction(tuple(compares), tuple(puts), reads)
            if result.succeeded:
                return
            found = result.reads
        log.warning("events-contended", count=len(batch))


def _read(value: bytes) -> Event | None:
    try:
        return Event.from_json(value)
    except ValueError:  # written by another version: what we know is written over it
        return None


def _as_record(event: Event) -> EventRecord:
    return EventRecord(
        type=event.type.value,
        reason=event.reason,
        kind=event.object_kind,
        name=event.object_name,
        message=event.message,
        namespace=event.namespace or None,
        count=event.count,
        first_seen=event.first_at,
        last_seen=event.last_at,
    )
