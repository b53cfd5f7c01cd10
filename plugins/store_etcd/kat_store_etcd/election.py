"""Elections: candidates stand in line by the revision that created their key; each watches the one before it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import structlog
from aetcd import rpc

from kat_platform.errors import Compacted, Conflict, KatError, NotFound
from kat_platform.interfaces.store import ChangeType, Leadership
from kat_store_etcd.client import EtcdClient
from kat_store_etcd.leases import KeptLease, grant, now
from kat_store_etcd.raft import LeaderWatch
from kat_store_etcd.translate import span
from kat_store_etcd.watch import watch

log = structlog.get_logger(__name__)

RETRY_SECONDS = 0.2
REQUEST_SECONDS = 1.0
"""A request on its way to an etcd leader that has just died is lost, and etcd itself would wait 7 s for its end."""


class Elections:
    """The campaigns and leaderships of one process."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._etcd = LeaderWatch(client)
        self._held: dict[tuple[str, int], tuple[KeptLease, asyncio.Task[None]]] = {}

    async def campaign(self, election: str, candidate: str, ttl: int) -> Leadership:
        """Wait until this candidate leads, through restarts of etcd and losses of the lease."""
        watching = asyncio.create_task(self._etcd.run(), name="etcd's leader")
        try:
            while True:
                try:
                    leadership = await self._stand(election, candidate, ttl)
                except KatError as error:
                    if not error.retryable or self._client.closed:
                        raise
                    log.debug("campaign-retry", election=election, error=str(error))
                    leadership = None
                    await asyncio.sleep(RETRY_SECONDS)
                if leadership is not None:
                    return leadership
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _stand(self, election: str, candidate: str, ttl: int) -> Leadership | None:
        """Stand in line with one lease; ``None`` when it was lost meanwhile."""
        asked = now()
        lease = KeptLease(self._client, await grant(self._client, ttl, REQUEST_SECONDS), asked)
        key = f"{election}/{lease.id:016x}"
        won = False
        try:
            created = await self._enter(key, candidate, lease.id)
            won = await self._until_first(election, key, created, candidate, lease)
        except NotFound:
            return None  # the lease ended before the key was written
        finally:
            if not won:
                await asyncio.shield(lease.drop())
        if not won:
            return None
        leadership = Leadership(election, key, created, candidate, lease.id)
        guard = asyncio.create_task(self._guard(leadership, lease), name=f"leadership {election}")
        self._held[key, created] = lease, guard
        return leadership

    async def _enter(self, key: str, candidate: str, lease: int) -> int:
        """Write the candidate's key, whose creation revision is its place in line and later its fence.

        Only this process writes this key, so it can be written again after an attempt whose end is not known.
        """
        absent = rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.CREATE, key=key.encode(), create_revision=0)
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key.encode(), value=candidate.encode(), lease=lease))
        get = rpc.RequestOp(request_range=rpc.RangeRequest(key=key.encode()))
        request = rpc.TxnRequest(compare=[absent], success=[put], failure=[get])
        response = await self._client.read(f"stand as {candidate}", "kvstub", "Txn", request, REQUEST_SECONDS)
        if response.succeeded:
            return int(response.header.revision)
        return int(response.responses[0].response_range.kvs[0].create_revision)

    async def _until_first(self, election: str, key: str, created: int, candidate: str, lease: KeptLease) -> bool:
        """Wait until nobody is before us. False when the lease is lost; ``Conflict`` when our key was removed."""
        while not lease.lost.is_set():
            try:
                revision, queue = await self._queue(election)
            except KatError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(RETRY_SECONDS)  # the lease decides how long this is tried
                continue
            if not any(kv.create_revision == created for kv in queue):
                if any(kv.value == candidate.encode() and kv.create_revision > created for kv in queue):
                    raise Conflict(f"the candidacy of {candidate} for {election} was begun anew elsewhere")
                return False  # the lease has ended, or we were taken for gone: back to the end of the line
            before = [kv for kv in queue if kv.create_revision < created]
            former = [kv for kv in before if kv.value == candidate.encode() or self._was_deposed(kv)]
            if former:
                await self._remove(former)  # ours of an earlier life, or of a node that was voted out: not waited for
            elif before:
                await self._wait_for_changes((before[-1].key.decode(), key), revision + 1, lease)
            elif await self._hold(lease):
                return True
        return False

    async def _hold(self, lease: KeptLease) -> bool:
        try:
            return await lease.hold()
        except KatError as error:
            if not error.retryable:
                raise
            await asyncio.sleep(RETRY_SECONDS)  # we are first, but etcd must say that our lease lives
            return False

    def _was_deposed(self, kv: Any) -> bool:
        """Tell whether a candidate stood before its node's member lost the lead of etcd: see ``raft``."""
        deposed = self._etcd.deposed
        return deposed is not None and kv.value == deposed.name.encode() and kv.create_revision <= deposed.revision

    async def _queue(self, election: str) -> tuple[int, list[Any]]:
        start, end = span(f"{election}/")
        request = rpc.RangeRequest(
            key=start, range_end=end, sort_target=rpc.RangeRequest.CREATE, sort_order=rpc.RangeRequest.ASCEND
        )
        response = await self._client.read(
            f"look at the candidates of {election}", "kvstub", "Range", request, REQUEST_SECONDS
        )
        return response.header.revision, list(response.kvs)

    async def _remove(self, former: list[Any]) -> None:
        for kv in former:
            same = rpc.Compare(
                result=rpc.Compare.EQUAL, target=rpc.Compare.CREATE, key=kv.key, create_revision=kv.create_revision
            )
            drop = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=kv.key))
            request = rpc.TxnRequest(compare=[same], success=[drop])
            await self._client.read("take a former candidacy away", "kvstub", "Txn", request, REQUEST_SECONDS)

    async def _wait_for_changes(self, keys: tuple[str, ...], revision: int, lease: KeptLease) -> None:
        """Return when one of the keys was removed, the lease is lost or the lead of etcd has changed."""
        tasks = [asyncio.create_task(self._removed(key, revision), name=f"watch {key}") for key in keys]
        tasks.append(asyncio.create_task(_wait(lease.lost), name="watch our lease"))
        tasks.append(asyncio.create_task(self._etcd.changed(), name="watch etcd's leader"))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _removed(self, key: str, revision: int) -> None:
        """Return when a key is removed (or its history cannot be followed any more: then look again)."""
        try:
            async with aclosing(watch(self._client, key, revision, progress=False)) as batches:
                async for batch in batches:
                    for change in batch.changes:
                        if change.entry.key == key and change.type is ChangeType.DELETE:
                            return
        except Compacted:
            return

    async def _guard(self, leadership: Leadership, lease: KeptLease) -> None:
        """Keep a leadership until its lease is lost or its key removed, then count it as lost."""
        try:
            while lease.held:
                await self._wait_for_changes((leadership.key,), leadership.revision + 1, lease)
                if lease.held and not await self._still_there(leadership):
                    break
        finally:
            self._held.pop((leadership.key, leadership.revision), None)
            await lease.drop()

    async def _still_there(self, leadership: Leadership) -> bool:
        request = rpc.RangeRequest(key=leadership.key.encode())
        try:
            found = await self._client.read("look at our leadership", "kvstub", "Range", request)
        except KatError:
            await asyncio.sleep(RETRY_SECONDS)
            return True  # not known: the lease decides
        there = any(kv.create_revision == leadership.revision for kv in found.kvs)
        if there:
            await asyncio.sleep(RETRY_SECONDS)
        return there

    async def lost(self, leadership: Leadership) -> None:
        """Return when the leadership has ended, or was never held by this process."""
        held = self._held.get((leadership.key, leadership.revision))
        if held is not None:
            lease, guard = held
            lost = asyncio.create_task(_wait(lease.lost), name="wait for the loss")
            try:
                await asyncio.wait({lost, guard}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                lost.cancel()

    async def resign(self, leadership: Leadership) -> None:
        """Give the leadership up: here at once, in etcd at once if it answers, else when the lease runs out."""
        held = self._held.pop((leadership.key, leadership.revision), None)
        if held is not None:
            lease, guard = held
            guard.cancel()
            await asyncio.gather(guard, return_exceptions=True)
            await lease.drop()

    async def leader(self, election: str) -> Leadership | None:
        """Tell who is first in line."""
        _, queue = await self._queue(election)
        if not queue:
            return None
        first = queue[0]
        return Leadership(election, first.key.decode(), first.create_revision, first.value.decode(), first.lease)

    async def close(self) -> None:
        """Resign from everything."""
        for lease, guard in list(self._held.values()):
            guard.cancel()
            await asyncio.gather(guard, return_exceptions=True)
            await lease.drop()
        self._held.clear()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
