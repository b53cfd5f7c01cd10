"""Who leads etcd itself: noticed when it changes, because the former leader is then gone, cut off or far too slow.

etcd gives every lease a full new life when its own leader changes, so that nobody loses one to an election. For whoever
waits for a leadership that the former leader's node held, this makes the loss of that node three times as long. That
node's member was voted out by the others: its leadership need not run out, it can be taken away. Fences see to it that
this is safe even when the node is well.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import structlog
from aetcd import rpc

from kat_platform.errors import KatError
from kat_store_etcd.client import EtcdClient

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.2
"""Seconds between two looks at the own member, which costs it next to nothing: it answers from memory."""
PATIENCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Deposed:
    """A member that does not lead etcd any more; ``revision`` is the store's when that was noticed."""

    name: str
    revision: int


class LeaderWatch:
    """Remembers who led etcd before the present leader. ``run`` it for as long as somebody wants to know."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._leader, self._name = 0, ""
        self._deposed: Deposed | None = None
        self._changed = asyncio.Event()

    @property
    def deposed(self) -> Deposed | None:
        """The last member that lost the lead; ``None`` while that has not happened."""
        return self._deposed

    async def changed(self) -> None:
        """Return when the lead changes next."""
        await self._changed.wait()

    async def run(self) -> None:
        """Look until cancelled. What changed before is not counted: it says nothing of how that node is now."""
        self._leader, self._deposed = 0, None
        while True:
            with suppress(KatError):  # etcd is away for a moment: who led before stays known
                await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once; raises what etcd raises."""
        request = rpc.StatusRequest()
        status = await self._client.read(
            "look at etcd's leader", "maintenancestub", "Status", request, PATIENCE_SECONDS
        )
        if not status.leader or status.leader == self._leader:
            return
        names = await self._names()
        if self._leader:
            self._deposed = Deposed(self._name, status.header.revision)
            log.info("etcd-leader-changed", former=self._name, leader=names.get(status.leader, ""))
            self._changed.set()
            self._changed = asyncio.Event()
        self._leader, self._name = status.leader, names.get(status.leader, "")

    async def _names(self) -> dict[int, str]:
        request = rpc.MemberListRequest()
        response = await self._client.read("list the members", "clusterstub", "MemberList", request, PATIENCE_SECONDS)
        return {one.ID: one.name for one in response.members}
