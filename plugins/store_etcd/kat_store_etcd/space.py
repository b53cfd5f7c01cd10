"""Looking after the member: whether it answers, and making room when its database has reached its quota.

etcd answers a full quota with an alarm that stays, even after keys were removed: history has to be compacted, the
file defragmented, and the alarm taken back. An operator would do that by hand; here it happens by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from aetcd import rpc

from kat_platform.errors import Compacted, KatError
from kat_store_etcd.client import EtcdClient

log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
LOW_WATER = 0.9
"""The alarm is taken back when the database has come below this part of its quota."""
DEFRAGMENT_SECONDS = 120.0


class Caretaker:
    """Looks at the member every few seconds; ``trouble`` says what a person should know, empty when all is well."""

    def __init__(self, client: EtcdClient, quota_bytes: int, answered: Callable[[], None]) -> None:
        self.trouble = ""
        self.full = False
        self._client = client
        self._quota = quota_bytes
        self._answered = answered
        self._compacted = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        if self._task is None:
            self._task = asyncio.create_task(self._look_after(), name="etcd caretaker")

    async def stop(self) -> None:
        """Stop looking."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def look(self) -> None:
        """Look once; raises what etcd raises."""
        status = await self._client.read(
            "look at the member", "maintenancestub", "Status", rpc.StatusRequest(), timeout=2
        )
        self._answered()
        self.full = any("NOSPACE" in error for error in status.errors)
        others = [error for error in status.errors if "NOSPACE" not in error]
        self.trouble = "; ".join(others)
        if self.full:
            self.trouble = "the database has reached its quota: writes are refused until something is removed"
            await self._relieve(status)

    async def _look_after(self) -> None:
        while True:
            try:
                await self.look()
            except KatError as error:
                self.trouble = str(error)
            await asyncio.sleep(LOOK_SECONDS)

    async def _relieve(self, status: Any) -> None:
        """Compact and defragment, once for each change, and take this member's alarm back if that freed enough.

        How much a compaction freed is not known before the file is written anew: ``dbSizeInUse`` lags behind.
        """
        revision = status.header.revision
        if revision <= self._compacted:
            return
        log.warning("store-full", size=status.dbSize, quota=self._quota)
        try:
            request = rpc.CompactionRequest(revision=revision, physical=True)
            await self._client.write("compact", "kvstub", "Compact", request, timeout=DEFRAGMENT_SECONDS)
        except Compacted:
            pass
        await self._client.write(
            "defragment", "maintenancestub", "Defragment", rpc.DefragmentRequest(), timeout=DEFRAGMENT_SECONDS
        )
        status = await self._status()
        if status.dbSize > self._quota * LOW_WATER:
            self._compacted = revision  # nothing more to gain until something else is removed
            return
        request = rpc.AlarmRequest(
            action=rpc.AlarmRequest.DEACTIVATE, memberID=status.header.member_id, alarm=rpc.NOSPACE
        )
        await self._client.write("take the alarm back", "maintenancestub", "Alarm", request)
        self.full, self.trouble = False, ""
        log.info("store-has-room", size=status.dbSize, quota=self._quota)

    async def _status(self) -> Any:
        return await self._client.read("look at the member", "maintenancestub", "Status", rpc.StatusRequest())
