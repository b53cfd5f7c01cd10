"""Conformance of a store: reading, writing, listing and removing keys."""

from __future__ import annotations

import asyncio

from kat_platform.errors import InvalidInput, TooLarge
from kat_platform.interfaces.driver import Capability, Health
from kat_platform.interfaces.store import Put, Store
from kat_platform.testing.conformance.kit import Kit, require

KEYS: Kit[Store] = Kit("store: keys")
ROOT = "/kat/v1/kt-kit/"
"""Every key a kit writes lies under this prefix."""


@KEYS.check("a driver says that it is a store, and that it is well once started")
async def says_what_it_is(store: Store) -> None:
    require(store.info.capability is Capability.STORE, f"info.capability is {store.info.capability}, not store")
    require((await store.status()).health is not Health.FAILED, "status() says FAILED after start()")
    status = await store.store_status()
    require(status.available, "store_status() says that the store is not available")


@KEYS.check("what was put is read back, with the revision that put() gave")
async def put_then_get(store: Store) -> None:
    for value in (b"", b"{}", bytes(range(256)), b"x" * 100_000):
        revision = await store.put(ROOT + "a", value)
        entry = await store.get(ROOT + "a")
        require(entry is not None and entry.value == value, f"a value of {len(value)} bytes came back changed")
        require(entry is not None and entry.revision == revision, "the entry's revision is not the one put() gave")


@KEYS.check("a key that does not exist is None")
async def get_missing(store: Store) -> None:
    require(await store.get(ROOT + "none") is None, "a key nobody wrote was found")


@KEYS.check("every write raises the store's revision; created and version tell a key's history")
async def revisions_rise(store: Store) -> None:
    numbers = [await store.put(f"{ROOT}{index % 2}", b"v") for index in range(6)]
    require(numbers == sorted(set(numbers)), f"revisions do not rise with each put: {numbers}")
    entry = await store.get(ROOT + "0")
    require(entry is not None and entry.created == numbers[0], "created is not the revision of the first write")
    require(entry is not None and entry.version == 3, "version does not count the writes")
    await store.delete(ROOT + "0")
    again = await store.put(ROOT + "0", b"v")
    entry = await store.get(ROOT + "0")
    require(entry is not None and entry.created == again and entry.version == 1, "a key made anew keeps its old life")


@KEYS.check("delete() tells how many keys it removed; removing nothing is no error and no write")
async def delete_counts(store: Store) -> None:
    for key in ("d/1", "d/2", "d/3", "e"):
        await store.put(ROOT + key, b"")
    require(await store.delete(ROOT + "d/1") == 1, "removing one key did not give 1")
    require(await store.get(ROOT + "d/1") is None, "a removed key is still there")
    require(await store.delete(ROOT + "d/", prefix=True) == 2, "removing a prefix of two keys did not give 2")
    before = (await store.list(ROOT)).revision
    require(await store.delete(ROOT + "d/1") == 0, "removing a key that is gone did not give 0")
    after = await store.list(ROOT)
    require(after.revision == before, "removing nothing raised the revision")
    require([entry.key for entry in after.entries] == [ROOT + "e"], "delete() left something, or took too much")


@KEYS.check("delete() without prefix removes that key only")
async def delete_is_exact(store: Store) -> None:
    await store.put(ROOT + "x", b"")
    await store.put(ROOT + "xy", b"")
    await store.delete(ROOT + "x")
    require(await store.get(ROOT + "xy") is not None, "delete() took a key that only begins like its own")


@KEYS.check("list() gives the keys of the prefix and no others, sorted by their bytes")
async def list_is_sorted(store: Store) -> None:
    names = ["b", "a/2", "a/10", "a", "ä", "Z", "a/é"]
    for name in names:
        await store.put(ROOT + "in/" + name, name.encode())
    await store.put(ROOT + "in", b"outside")
    await store.put(ROOT + "io", b"outside")
    page = await store.list(ROOT + "in/")
    wanted = sorted((ROOT + "in/" + name for name in names), key=str.encode)
    require([entry.key for entry in page.entries] == wanted, "list() is not sorted, incomplete, or goes too far")
    bare = await store.list(ROOT + "in/", keys_only=True)
    require([entry.key for entry in bare.entries] == wanted, "keys_only changes which keys are found")
    require(not any(entry.value for entry in bare.entries), "keys_only gives values")
    require((await store.list(ROOT + "nothing/")).entries == (), "an empty prefix has entries")


@KEYS.check("a long list is of one revision, while others write", timeout=60.0)
async def list_at_one_revision(store: Store) -> None:
    step = 128
    for start in range(0, 3_000, step):
        await store.transaction((), tuple(Put(f"{ROOT}many/{n:05}", b"x" * 400) for n in range(start, start + step)))
    keys = (f"{ROOT}many/00000", f"{ROOT}many/01500", f"{ROOT}many/99999")
    stop = asyncio.Event()

    async def write() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            await store.transaction((), tuple(Put(key, b"%d" % count) for key in keys))
            await asyncio.sleep(0)

    writer = asyncio.create_task(write())
    try:
        for _ in range(8):
            await asyncio.sleep(0.01)
            page = await store.list(ROOT + "many/")
            values = {entry.value for entry in page.entries if entry.key in keys and len(entry.value) != 400}
            require(len(values) <= 1, f"list() mixes revisions: {values}")
            newest = max(entry.revision for entry in page.entries)
            require(newest <= page.revision, "an entry is newer than the page")
            require(len(page.entries) >= 3_000, f"list() gave {len(page.entries)} of more than 3000 keys")
    finally:
        stop.set()
        await writer


@KEYS.check("a write that returned is seen by every read that begins afterwards")
async def reads_own_writes(store: Store) -> None:
    for number in range(50):
        await store.put(ROOT + "now", b"%d" % number)
        entry, page = await asyncio.gather(store.get(ROOT + "now"), store.list(ROOT))
        require(entry is not None and entry.value == b"%d" % number, "get() gave an older value than was written")
        require(page.entries[0].value == b"%d" % number, "list() gave an older value than was written")


@KEYS.check("an empty key is InvalidInput, a value over 1 MiB TooLarge; nothing is written")
async def refuses_bad_input(store: Store) -> None:
    before = (await store.list(ROOT)).revision
    for key, value, wanted in (("", b"", InvalidInput), (ROOT + "big", b"x" * (1024 * 1024 + 1), TooLarge)):
        try:
            await store.put(key, value)
        except wanted:
            continue
        require(False, f"a put that must be {wanted.__name__} was accepted")
    require((await store.list(ROOT)).revision == before, "a refused write raised the revision")
    await store.put(ROOT + "fits", b"x" * (1024 * 1024))


@KEYS.check("snapshot() streams the state; store_status() knows the revision")
async def snapshot_has_content(store: Store) -> None:
    revision = await store.put(ROOT + "s", b"v")
    size = sum([len(part) async for part in store.snapshot()])
    require(size > 0, "the snapshot is empty")
    status = await store.store_status()
    require(status.revision == revision, f"store_status() says revision {status.revision}, not {revision}")


@KEYS.check("stop() may come twice")
async def stops_twice(store: Store) -> None:
    await store.stop()
    await store.stop()
