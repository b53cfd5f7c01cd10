"""Conformance of a store: watches and history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from kat_platform.errors import Compacted
from kat_platform.interfaces.store import Change, ChangeType, Delete, Put, Store, WatchBatch
from kat_platform.testing.conformance.kit import CheckFailed, Kit, require
from kat_platform.testing.conformance.store_keys import ROOT

WATCHES: Kit[Store] = Kit("store: watches")
QUIET = 0.3
"""Seconds without a change after which a watch counts as having nothing more to say."""

PATIENCE = 10.0
"""Seconds within which a change must be told; generous, for stores on busy machines."""


async def gather(
    batches: AsyncGenerator[WatchBatch, None], count: int, *, seconds: float | None = None
) -> list[Change]:
    """Collect at least ``count`` changes, and whatever comes within a moment after them."""
    found: list[Change] = []
    last = 0
    seconds = PATIENCE if seconds is None else seconds
    limit = seconds if count > 0 else QUIET
    while True:
        try:
            batch = await asyncio.wait_for(anext(batches), limit)
        except TimeoutError:
            break
        except StopAsyncIteration:
            raise CheckFailed("the watch ended by itself") from None
        revisions = [change.entry.revision for change in batch.changes]
        require(revisions == sorted(revisions), f"a batch is out of order: {revisions}")
        require(not revisions or revisions[-1] <= batch.revision, "a batch has changes newer than its revision")
        require(not revisions or revisions[0] > last, "a revision was repeated, came late, or came in two batches")
        last = max(last, batch.revision)
        found += batch.changes
        limit = QUIET if len(found) >= count else seconds
    return found


def told(changes: list[Change]) -> list[tuple[str, str, bytes]]:
    """Reduce changes to what can be compared."""
    return [(change.type.value, change.entry.key.removeprefix(ROOT), change.entry.value) for change in changes]


@WATCHES.check("a watch gives everything from its revision on: the past first, then what comes")
async def resumes_from_the_past(store: Store) -> None:
    revisions = [await store.put(f"{ROOT}{n}", b"%d" % n) for n in range(5)]
    async with aclosing(store.watch(ROOT, from_revision=revisions[2])) as batches:
        past = await gather(batches, 3)
        require(told(past) == [("put", str(n), b"%d" % n) for n in (2, 3, 4)], f"the past came as {told(past)}")
    async with aclosing(store.watch(ROOT, from_revision=revisions[4] + 1)) as batches:
        waiting = asyncio.create_task(gather(batches, 1))
        await asyncio.sleep(0.05)
        await store.put(ROOT + "live", b"!")
        live = await waiting
        require(told(live) == [("put", "live", b"!")], f"what came afterwards was told as {told(live)}")


@WATCHES.check("each change once and in order, with many writers", timeout=60.0)
async def exactly_once(store: Store) -> None:
    start = (await store.list(ROOT)).revision + 1

    async def write(writer: int) -> None:
        for number in range(60):
            await store.put(f"{ROOT}w{writer}", b"%d" % number)
            await asyncio.sleep(0)

    async with aclosing(store.watch(ROOT, from_revision=start)) as batches:
        watching = asyncio.create_task(gather(batches, 300))
        await asyncio.gather(*(write(writer) for writer in range(5)))
        changes = await watching
    for writer in range(5):
        values = [int(change.entry.value) for change in changes if change.entry.key == f"{ROOT}w{writer}"]
        require(values == list(range(60)), f"writer {writer} wrote 0 to 59, the watch told {values}")


@WATCHES.check("list, then watch from the page's revision + 1: no gap and no repetition under load", timeout=60.0)
async def list_then_watch(store: Store) -> None:
    async def write() -> None:
        for number in range(200):
            await store.put(f"{ROOT}n", b"%d" % number)
            await asyncio.sleep(0.001)

    writer = asyncio.create_task(write())
    await asyncio.sleep(0.02)
    page = await store.list(ROOT)
    async with aclosing(store.watch(ROOT, from_revision=page.revision + 1)) as batches:
        seen = int(page.entries[0].value) if page.entries else -1
        changes = await gather(batches, 199 - seen)
    await writer
    values = [int(change.entry.value) for change in changes]
    require(
        values == list(range(seen + 1, 200)), f"the list ended at {seen}, the watch told {values[:3]} to {values[-3:]}"
    )


@WATCHES.check("a transaction's changes come in one batch")
async def revisions_stay_whole(store: Store) -> None:
    start = (await store.list(ROOT)).revision + 1
    await store.transaction((), tuple(Put(f"{ROOT}t/{n:03}", b"x" * 2000) for n in range(120)))
    await store.transaction((), (Delete(ROOT + "t/", prefix=True), Put(ROOT + "u", b"")))
    async with aclosing(store.watch(ROOT, from_revision=start)) as batches:
        changes = await gather(batches, 241)
    require(len(changes) == 241, f"two transactions changed 241 keys, the watch told {len(changes)}")


@WATCHES.check("a watch tells nothing of other prefixes")
async def keeps_to_its_prefix(store: Store) -> None:
    start = await store.put(ROOT + "in/a", b"")
    await store.put(ROOT + "in", b"")
    await store.put(ROOT + "io", b"")
    await store.transaction((), (Put(ROOT + "in/b", b""), Put(ROOT + "out", b"")))
    async with aclosing(store.watch(ROOT + "in/", from_revision=start)) as batches:
        changes = await gather(batches, 2)
    require([change.entry.key for change in changes] == [ROOT + "in/a", ROOT + "in/b"], f"told: {told(changes)}")


@WATCHES.check("a removal has an empty value and the revision of the removal")
async def tells_removals(store: Store) -> None:
    start = await store.put(ROOT + "a", b"was")
    await store.put(ROOT + "b", b"was")
    await store.delete(ROOT, prefix=True)
    now = (await store.list(ROOT)).revision
    async with aclosing(store.watch(ROOT, from_revision=start)) as batches:
        changes = (await gather(batches, 4))[2:]
    require([change.type for change in changes] == [ChangeType.DELETE] * 2, f"told: {told(changes)}")
    require(all(change.entry.value == b"" for change in changes), "a removal carries a value")
    require({change.entry.revision for change in changes} == {now}, "a removal carries another revision than its own")


@WATCHES.check("a change that carries what was there before carries the truth")
async def previous_is_true(store: Store) -> None:
    first = await store.put(ROOT + "p", b"1")
    await store.put(ROOT + "p", b"2")
    async with aclosing(store.watch(ROOT, from_revision=first)) as batches:
        changes = await gather(batches, 2)
    previous = changes[1].previous
    require(previous is None or previous.value == b"1", f"previous is {previous}, the key held b'1'")


@WATCHES.check("watches do not disturb each other; one that is closed ends alone")
async def are_independent(store: Store) -> None:
    start = await store.put(ROOT + "x", b"0")
    async with aclosing(store.watch(ROOT, from_revision=start)) as kept:
        async with aclosing(store.watch(ROOT, from_revision=start)) as closed:
            require(len(await gather(closed, 1)) == 1, "the first watch missed a change")
        require(len(await gather(kept, 1)) == 1, "a watch missed a change after another one was closed")


@WATCHES.check("after closing a watch a new one goes on where it ended")
async def goes_on_after_close(store: Store) -> None:
    start = await store.put(ROOT + "y", b"0")
    async with aclosing(store.watch(ROOT, from_revision=start)) as batches:
        batch = await anext(batches)
    await store.put(ROOT + "y", b"1")
    async with aclosing(store.watch(ROOT, from_revision=batch.revision + 1)) as batches:
        changes = await gather(batches, 1)
    require(told(changes) == [("put", "y", b"1")], f"told: {told(changes)}")


@WATCHES.check("history before a compaction is Compacted; from its revision on everything is kept")
async def compacts(store: Store) -> None:
    revisions = [await store.put(ROOT + "z", b"%d" % number) for number in range(6)]
    await store.compact(revisions[3])
    await store.compact(revisions[3])
    require((await store.list(ROOT)).entries[0].value == b"5", "compaction lost a current value")
    async with aclosing(store.watch(ROOT, from_revision=revisions[3])) as batches:
        values = [change.entry.value for change in await gather(batches, 3)]
        require(values == [b"3", b"4", b"5"], f"from the compaction's revision on the watch told {values}")
    try:
        async with aclosing(store.watch(ROOT, from_revision=revisions[1])) as batches:
            await asyncio.wait_for(anext(batches), PATIENCE)
    except Compacted:
        return
    raise CheckFailed("a watch from a compacted revision must raise Compacted")


@WATCHES.check("a removal at the compaction's revision is still told")
async def keeps_removals(store: Store) -> None:
    await store.put(ROOT + "z", b"")
    await store.delete(ROOT + "z")
    removed = (await store.list(ROOT)).revision
    await store.put(ROOT + "other", b"")
    await store.compact(removed)
    async with aclosing(store.watch(ROOT, from_revision=removed)) as batches:
        changes = await gather(batches, 2)
    require(told(changes) == [("delete", "z", b""), ("put", "other", b"")], f"told: {told(changes)}")


@WATCHES.check("a revision that the store has not reached, as after a restore, is Compacted")
async def refuses_the_future(store: Store) -> None:
    revision = await store.put(ROOT + "now", b"")
    try:
        async with aclosing(store.watch(ROOT, from_revision=revision + 1000)) as batches:
            await asyncio.wait_for(anext(batches), PATIENCE)
    except Compacted:
        return
    except TimeoutError:
        raise CheckFailed("a watch from a revision far in the future waits silently; it must raise Compacted") from None
    raise CheckFailed("a watch from a revision far in the future gave something")
