"""Audit: who asked for which change, and what became of it. Logged at once, stored a moment later."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from kat_platform.errors import KatError
from kat_platform.interfaces.store import Delete, Operation, Put, Store
from kat_platform.model.base import Model
from kat_platform.observability.metrics import Metrics
from kat_platform.state import keys

log = structlog.get_logger(__name__)

KEPT_SECONDS: Final = 7 * 24 * 3600.0
KEPT_RECORDS: Final = 2000
END_SECONDS: Final = 2.0
"""How long the end waits for the store, which may have lost its quorum; the records are in the log as well."""
FLUSH_SECONDS: Final = 0.5
TRIM_SECONDS: Final = 600.0
_PENDING: Final = 5000
_BATCH: Final = 100


class AuditRecord(Model):
    """One change that was asked for. ``at`` in seconds since the epoch."""

    at: float
    request: str
    who: str
    method: str = ""
    remote: str = ""
    verb: str
    resource: str
    namespace: str = ""
    name: str = ""
    decision: str
    """``allowed``, ``denied`` or ``failed``."""
    status: int
    code: str = ""
    """Code of the error, where it is one."""
    reason: str = ""
    """What the caller was told of it."""


def audit_key(record: AuditRecord) -> str:
    """Give the key of a record: sorts by time."""
    return f"{keys.AUDIT}{int(record.at * 1000):014d}-{record.request}"


def expired(found: Iterable[str], now: float) -> tuple[str, ...]:
    """Name the keys of records that have been kept long enough, or are too many. Pure."""
    ordered = sorted(found)
    limit = f"{keys.AUDIT}{int(max(0.0, now - KEPT_SECONDS) * 1000):014d}"
    surplus = len(ordered) - KEPT_RECORDS
    return tuple(key for number, key in enumerate(ordered) if number < surplus or key < limit)


class AuditLog:
    """Takes records; :meth:`run` writes them. The log line does not wait for the store and is never lost to it."""

    def __init__(self, store: Store, *, now: Callable[[], float], metrics: Metrics) -> None:
        self._store, self._now, self._metrics = store, now, metrics
        self._pending: deque[AuditRecord] = deque(maxlen=_PENDING)
        self._wake = asyncio.Event()
        self._strangers: deque[float] = deque()

    def room_for_stranger(self, limit: int) -> bool:
        """Tell whether one more record about a stranger may be kept: at most ``limit`` in a minute; counts it."""
        now = self._now()
        while self._strangers and self._strangers[0] <= now - 60.0:
            self._strangers.popleft()
        if len(self._strangers) >= limit:
            return False
        self._strangers.append(now)
        return True

    def note(self, record: AuditRecord, *, keep: bool = True) -> None:
        """Take a record. Without ``keep`` it is only logged: strangers must not fill the store."""
        log.info("audit", **record.to_wire())
        self._metrics.count("kat_audit_records_total", record.decision)
        if keep:
            self._pending.append(record)
            self._wake.set()

    async def run(self) -> None:
        """Write records and drop old ones until cancelled; then write once more."""
        trimmed = self._now() - TRIM_SECONDS + 60
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(FLUSH_SECONDS)
                self._wake.clear()
                await self.flush()
                if self._now() - trimmed >= TRIM_SECONDS:
                    trimmed = self._now()
                    await self._trim()
        finally:
            try:
                async with asyncio.timeout(END_SECONDS):
                    await self.flush()
            except TimeoutError:  # they are in the log all the same; an agent that is told to stop has to end
                log.warning("audit-not-kept", reason="the store did not take the last records")

    async def flush(self) -> None:
        """Write what is pending; what cannot be written now stays pending."""
        while self._pending:
            batch = [self._pending.popleft() for _ in range(min(_BATCH, len(self._pending)))]
            try:
                await self._store.transaction((), tuple(Put(audit_key(r), r.to_json()) for r in batch))
            except KatError as error:
                log.warning("audit-kept-back", count=len(batch), error=str(error))
                self._pending.extendleft(reversed(batch))
                return

    async def _trim(self) -> None:
        try:
            page = await self._store.list(keys.AUDIT, keys_only=True)
            old = expired((entry.key for entry in page.entries), self._now())
            for start in range(0, len(old), _BATCH):
                removals: tuple[Operation, ...] = tuple(Delete(key) for key in old[start : start + _BATCH])
                await self._store.transaction((), removals)
        except KatError as error:
            log.warning("audit-not-trimmed", error=str(error))
