"""Conformance of a store: leases."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from kat_platform.errors import NotFound
from kat_platform.interfaces.store import ChangeType, Compare, Put, Store
from kat_platform.testing.conformance.kit import CheckFailed, Kit, require
from kat_platform.testing.conformance.store_keys import ROOT
from kat_platform.testing.conformance.store_watches import gather

LEASES: Kit[Store] = Kit("store: leases")
GRACE = 4.0
"""Seconds after a lease's end within which its keys must be gone."""


@LEASES.check("keys of a lease vanish when it is not renewed: not before its time, and soon after")
async def expires(store: Store) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    lease = await store.lease(1)
    require(lease.ttl >= 1, f"a lease of 1 s was granted {lease.ttl} s")
    start = await store.put(ROOT + "a", b"", lease=lease.id)
    await store.put(ROOT + "stays", b"")
    async with aclosing(store.watch(ROOT, from_revision=start)) as batches:
        changes = await gather(batches, 3, seconds=lease.ttl + GRACE)
    ended = [change.entry.key for change in changes if change.type is ChangeType.DELETE]
    require(ended == [ROOT + "a"], f"a lease of {lease.ttl} s ended; the watch told the removal of {ended}")
    require(loop.time() - began >= lease.ttl, "a lease ended before its time")
    require(await store.get(ROOT + "stays") is not None, "a key without a lease vanished")


@LEASES.check("a lease that is renewed lives on; renewing writes nothing")
async def is_kept_alive(store: Store) -> None:
    loop = asyncio.get_running_loop()
    lease = await store.lease(1)
    revision = await store.put(ROOT + "k", b"", lease=lease.id)
    until = loop.time() + lease.ttl + 1.5
    while loop.time() < until:
        renewed = await store.keep_alive(lease.id)
        require(renewed.id == lease.id and renewed.ttl >= 1, f"keep_alive() gave {renewed}")
        await asyncio.sleep(0.3)
    require(await store.get(ROOT + "k") is not None, "a lease ended although it was renewed")
    require((await store.list(ROOT)).revision == revision, "renewing a lease raised the revision")


@LEASES.check("revoke() removes the lease's keys at once, as one revision; twice is no error")
async def revokes(store: Store) -> None:
    lease = await store.lease(60)
    await store.transaction((), tuple(Put(f"{ROOT}{n}", b"", lease=lease.id) for n in range(5)))
    before = (await store.list(ROOT)).revision
    await store.revoke(lease.id)
    page = await store.list(ROOT)
    require(page.entries == (), "revoke() left keys of the lease")
    require(page.revision == before + 1, f"revoke() took {page.revision - before} revisions")
    await store.revoke(lease.id)


@LEASES.check("renewing, or writing under, a lease that has ended is NotFound")
async def ended_is_not_found(store: Store) -> None:
    lease = await store.lease(60)
    await store.revoke(lease.id)
    try:
        await store.keep_alive(lease.id)
    except NotFound:
        pass
    else:
        raise CheckFailed("keep_alive() of an ended lease must raise NotFound")
    try:
        await store.put(ROOT + "a", b"", lease=lease.id)
    except NotFound:
        return
    raise CheckFailed("put() under an ended lease must raise NotFound")


@LEASES.check("a key tells its lease; written without one it is free of it")
async def binds_and_frees(store: Store) -> None:
    lease = await store.lease(60)
    await store.put(ROOT + "bound", b"", lease=lease.id)
    await store.put(ROOT + "freed", b"", lease=lease.id)
    entry = await store.get(ROOT + "bound")
    require(entry is not None and entry.lease == lease.id, "an entry does not tell its lease")
    require((await store.transaction((Compare.absent(ROOT + "x"),), (Put(ROOT + "freed", b""),))).succeeded, "no put")
    await store.revoke(lease.id)
    require(await store.get(ROOT + "bound") is None, "a bound key outlived its lease")
    require(await store.get(ROOT + "freed") is not None, "a key freed of its lease ended with it")
