"""Members come, get a vote and go; snapshots become clusters: on real etcds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from kat_store_etcd.driver import EtcdStore

from kat_platform.errors import Conflict, DriverError, InvalidInput, Unavailable

from .conftest import MakeStore, peer_url

pytestmark = pytest.mark.real
ROOT = "/kat/v1/kt/"


async def insist(change: Callable[[str], Awaitable[None]], member: str) -> None:
    """Try again while the cluster is not ready for it: a learner is behind, a member has joined within 5 s."""
    for _ in range(100):
        try:
            return await change(member)
        except Unavailable:
            await asyncio.sleep(0.1)
    raise AssertionError("the cluster never got ready")


@pytest.mark.slow
async def test_a_member_is_added_promoted_and_removed(store: EtcdStore, make_store: MakeStore) -> None:
    await store.put(ROOT + "a", b"1")
    url = peer_url()
    learner = await store.add_member("kt-b", url)
    assert learner.learner
    assert (await store.add_member("kt-b", url)).id == learner.id
    status = await store.store_status()
    second = make_store("kt-b")
    await second.join("kt-b", url, status.members)
    await second.start()
    await insist(store.promote_member, learner.id)
    await store.promote_member(learner.id)
    entry = await second.get(ROOT + "a")
    assert entry is not None
    assert entry.value == b"1"
    await second.put(ROOT + "b", b"2")
    assert (await store.get(ROOT + "b")) is not None
    members = (await second.store_status()).members
    assert sorted((member.name, member.learner) for member in members) == [("kt-a", False), ("kt-b", False)]
    await asyncio.gather(store.stop(), second.stop())  # as when every node is switched off
    await asyncio.gather(store.start(), second.start())
    assert (await store.get(ROOT + "b")) is not None
    leader = await store.campaign(ROOT + "leader", "kt-a", ttl=5)
    rival = asyncio.create_task(second.campaign(ROOT + "leader", "kt-b", ttl=5))
    await asyncio.sleep(0.3)
    assert not rival.done()
    await store.resign(leader)
    await second.resign(await asyncio.wait_for(rival, 5))
    await insist(store.remove_member, learner.id)
    await store.remove_member(learner.id)
    await store.put(ROOT + "c", b"3")
    with pytest.raises(Conflict, match="last member"):
        await store.remove_member((await store.store_status()).members[0].id)


async def test_a_node_joins_only_what_it_was_announced_to(store: EtcdStore, make_store: MakeStore) -> None:
    other = make_store("kt-b")
    with pytest.raises(InvalidInput, match="announced"):
        await other.join("kt-b", peer_url(), (await store.store_status()).members)


async def test_a_snapshot_becomes_a_new_cluster(store: EtcdStore, make_store: MakeStore) -> None:
    for number in range(300):
        await store.put(f"{ROOT}{number:03}", b"%d" % number * 50)
    before = await store.list(ROOT)
    parts = [part async for part in store.snapshot()]

    async def stream() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    scratch = make_store("kt-s")
    await scratch.restore(stream(), "kt-s", peer_url())
    await scratch.start()
    after = await scratch.list(ROOT)
    assert after.entries == before.entries
    await scratch.put(ROOT + "new", b"")
    with pytest.raises(Conflict):
        await scratch.restore(stream(), "kt-s", peer_url())


async def test_a_damaged_snapshot_is_refused_and_leaves_nothing(store: EtcdStore, make_store: MakeStore) -> None:
    await store.put(ROOT + "a", b"1")
    whole = bytearray(b"".join([part async for part in store.snapshot()]))
    whole[len(whole) // 2] ^= 0xFF

    async def damaged() -> AsyncIterator[bytes]:
        yield bytes(whole)

    async def empty() -> AsyncIterator[bytes]:
        for part in ():
            yield part

    scratch = make_store("kt-s")
    for source, kind in ((damaged(), DriverError), (empty(), InvalidInput)):
        with pytest.raises(kind):
            await scratch.restore(source, "kt-s", peer_url())
        assert not scratch._folder.has_data
        assert [path.name for path in scratch._folder.root.iterdir()] == ["etcd"]
