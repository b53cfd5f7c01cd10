"""Watches that outlive etcd's restarts: a stream each, taken up again where it broke off.

aetcd's own watcher gives up on a broken stream and forgets where it was. Here each watch keeps the next revision
it owes its consumer. Every stream asks for events from there on, so nothing is lost; events of older revisions are
dropped, so nothing is told twice; and only whole revisions are passed on, so there is no place in the middle of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import structlog
from aetcd import rpc
from grpc.aio import EOF, AioRpcError

from kat_platform.errors import Compacted, InvalidInput, KatError, StoreError
from kat_platform.interfaces.store import Change, WatchBatch
from kat_store_etcd.client import PAUSES, EtcdClient
from kat_store_etcd.faults import passing, translate
from kat_store_etcd.translate import change, span

log = structlog.get_logger(__name__)


class Cursor:
    """Turns etcd's responses into whole revisions, each once: pure, one for each watch.

    etcd splits a response that is too long into fragments, possibly within a revision: the newest revision of a
    fragment is held back until the next one shows that it is complete.
    """

    def __init__(self, revision: int) -> None:
        self.next = revision
        self._held: list[Change] = []

    def restart(self) -> None:
        """Forget what was held back: the new stream tells it again."""
        self._held.clear()

    def take(self, response: Any) -> WatchBatch | None:
        """Take a response; gives what is complete, or ``None``."""
        events = [change(event) for event in response.events if event.kv.mod_revision >= self.next]
        changes = self._held + events
        if not response.fragment:
            self._held = []
        else:
            newest = changes[-1].entry.revision if changes else 0
            self._held = [one for one in changes if one.entry.revision == newest]
            changes = changes[: len(changes) - len(self._held)]
        if changes:
            self.next = changes[-1].entry.revision + 1
            return WatchBatch(self.next - 1, tuple(changes))
        if not response.events and not response.created and not self._held:
            # a sign of progress: etcd has told everything up to the header's revision
            self.next = max(self.next, response.header.revision + 1)
            return WatchBatch(self.next - 1)
        return None


async def watch(
    client: EtcdClient, prefix: str, from_revision: int, progress: bool
) -> AsyncGenerator[WatchBatch, None]:
    """Give every change from a revision on, for ever; raises ``Compacted`` when that cannot be."""
    if from_revision < 1:
        raise InvalidInput(f"a watch begins at revision 1 or later, not {from_revision}")
    cursor = Cursor(from_revision)
    pause = PAUSES[0]
    what = f"watch {prefix}"
    while True:
        if client.closed:
            raise StoreError(f"{what}: the store was stopped")
        cursor.restart()
        stub, channel = client.watchstub, client.channel
        call = stub.Watch()
        try:
            with client.told_when_closed(what):
                await call.write(_create(prefix, cursor.next))
            async for batch in _stream(client, call, cursor):
                pause = PAUSES[0]
                if batch.changes or progress:
                    yield batch
        except asyncio.InvalidStateError:
            log.debug("watch-broken", prefix=prefix, next=cursor.next, error="the stream ended before its request")
        except AioRpcError as error:
            if not passing(error):
                raise translate(error, what) from error
            log.debug("watch-broken", prefix=prefix, next=cursor.next, error=error.details())
        except KatError as error:  # of the look whether the history is kept: etcd had just begun, and ended again
            if isinstance(error, Compacted) or not error.retryable or client.closed:
                raise
            log.debug("watch-broken", prefix=prefix, next=cursor.next, error=str(error))
        finally:
            call.cancel()
        client.turn(channel)
        await asyncio.sleep(pause)
        pause = min(pause * 2, PAUSES[1])


def _create(prefix: str, revision: int) -> Any:
    start, end = span(prefix)
    # progress is always asked for: a watch that hears nothing must still move on, or its place is compacted away
    create = rpc.WatchCreateRequest(
        key=start, range_end=end, start_revision=revision, progress_notify=True, fragment=True
    )
    return rpc.WatchRequest(create_request=create)


async def _stream(client: EtcdClient, call: Any, cursor: Cursor) -> AsyncGenerator[WatchBatch, None]:
    """Read one stream to its end, making sure that it begins where the cursor stands."""
    first = cursor.next
    unsure = False
    while True:
        with client.told_when_closed("watch"):
            response = await call.read()
        if response is EOF:
            return
        if response.compact_revision:
            raise _compacted(cursor.next, f"{response.compact_revision} is the oldest kept")
        if response.canceled:
            log.debug("watch-cancelled", reason=response.cancel_reason)
            return
        if response.created or unsure:
            await _ensure_kept(client, first)
            unsure = response.created and response.header.revision >= first
        batch = cursor.take(response)
        if batch is not None:
            yield batch


async def _ensure_kept(client: EtcdClient, revision: int) -> None:
    """Raise ``Compacted`` unless all history from ``revision`` on is there, and ``revision`` is at most the next one.

    etcd itself lets a watch begin exactly at a compacted revision, where it has dropped removals (before 3.4.36 and
    3.5.18), and lets one wait for a future revision, which after a restore is one that means something else.
    """
    if revision <= 1:
        return
    probe = rpc.RangeRequest(key=b"\0", revision=revision - 1, count_only=True)
    try:
        await client.read(f"look at revision {revision - 1}", "kvstub", "Range", probe)
    except InvalidInput as future:
        raise _compacted(revision, "the store has not reached it: it was restored from a backup") from future


def _compacted(revision: int, why: str) -> Compacted:
    return Compacted(f"cannot watch from revision {revision}: {why}", hint="list again and watch from there")
