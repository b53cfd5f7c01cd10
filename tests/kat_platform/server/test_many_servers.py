"""Several API servers over one store: nobody is told old news as new, and a node that changes servers stays alive."""

from __future__ import annotations

import asyncio

import pytest

from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.meta import Metadata
from kat_platform.model.node import NodeRole
from kat_platform.server import api
from kat_platform.server.node_leases import NodeLeases
from kat_platform.state import keys
from kat_platform.testing.control_plane import ControlPlane
from kat_platform.testing.fakes.clock import FakeClock
from kat_platform.testing.fakes.store import MemoryStore

from .conftest import auth


class Sleepy(MemoryStore):
    """A store whose watch can be held back, as that of a server that is cut off or was asleep."""

    def __init__(self) -> None:
        super().__init__()
        self.awake = asyncio.Event()
        self.awake.set()

    async def watch(self, prefix, *, from_revision, progress=False):
        async for batch in super().watch(prefix, from_revision=from_revision, progress=progress):
            await self.awake.wait()
            yield batch


@pytest.fixture
async def plane(tmp_path):
    plane = ControlPlane(tmp_path, auth(tmp_path), store=Sleepy())
    await plane.start()
    yield plane
    await plane.stop()


async def test_a_view_waits_until_the_server_knows_everything(plane, caller_of):
    plane.store.awake.clear()
    await plane.add_node("n2", NodeRole.WORKER, "10.100.2.0/23")
    async with caller_of(plane.node_tls("n1", NodeRole.CONTROL_PLANE)) as node:
        asyncio.get_running_loop().call_later(0.5, plane.store.awake.set)
        async with node.lines("/nodes/n1/view") as read:
            seen = set()
            while "node/n2" not in seen:
                line = await read()
                assert "synced" not in line, "the first pass was of an old state"
                seen.add(line.get("key"))


async def test_a_server_without_the_store_gives_no_view(plane, caller_of):
    async with caller_of(plane.node_tls("n1", NodeRole.CONTROL_PLANE)) as node:
        plane.store.down = True
        assert (await node.get("/nodes/n1/view", status=503))["code"] == "cut-off"
        plane.store.down = False


async def test_consistent_reads_see_what_another_server_wrote(plane, admin):
    plane.store.awake.clear()
    await plane.add_node("n2", NodeRole.WORKER, "10.100.2.0/23")
    names = [item["name"] for item in (await admin.get("/nodes"))["items"]]
    assert names == ["n1"], "the test's server was meant to be behind"
    asyncio.get_running_loop().call_later(0.3, plane.store.awake.set)
    names = [item["name"] for item in (await admin.get("/nodes?consistent=true"))["items"]]
    assert names == ["n1", "n2"]


async def test_a_server_that_is_alone_says_so_sooner_the_second_time_until_it_is_not(plane, admin, monkeypatch):
    monkeypatch.setattr(api, "FRESH_SECONDS", 0.6)
    monkeypatch.setattr(api, "ALONE_SECONDS", 0.2)
    clock = asyncio.get_running_loop().time

    async def refused_after():
        began = clock()
        assert (await admin.get("/nodes?consistent=true", status=503))["code"] == "cut-off"
        return clock() - began

    await admin.get("/nodes?consistent=true")
    plane.store.awake.clear()
    await plane.add_node("n2", NodeRole.WORKER, "10.100.2.0/23")
    assert await refused_after() >= 0.6
    assert 0.2 <= await refused_after() < 0.6
    plane.store.awake.set()
    async with asyncio.timeout(5):
        while len((await admin.get("/nodes"))["items"]) < 2:  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.01)
    await admin.get("/nodes?consistent=true")
    plane.store.awake.clear()
    await plane.add_node("n3", NodeRole.WORKER, "10.100.4.0/23")
    assert await refused_after() >= 0.6, "it was not alone meanwhile"
    plane.store.awake.set()


async def test_a_server_without_the_store_refuses_whatever_must_be_consistent_before_it_does_anything(plane, admin):
    plane.store.down = True
    refused = await admin.post("/join-tokens?consistent=true", {}, status=503)
    assert (refused["code"], "node 'n1' has no store" in refused["detail"]) == ("cut-off", True)
    await admin.get("/nodes")
    plane.store.down = False
    assert (await admin.get("/join-tokens?consistent=true"))["items"] == []


async def test_a_node_that_goes_to_another_server_and_comes_back_is_never_seen_dead():
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    configuration = ClusterConfiguration(metadata=Metadata(name="cluster"))
    servers = [NodeLeases(store, lambda: configuration) for _ in range(2)]

    async def beat(server: int) -> None:
        entry = await store.get(keys.alive("w1"))
        await servers[server].beat("w1", seen=entry.revision if entry else 0, at=store.state.revision)

    for server in (0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0):
        await beat(server)
        await clock.advance(2.0)
        store.state.expire()
        assert await store.get(keys.alive("w1")) is not None


async def test_heartbeats_to_one_server_write_once():
    store = MemoryStore()
    leases = NodeLeases(store, lambda: None)
    for _ in range(5):
        entry = await store.get(keys.alive("w1"))
        await leases.beat("w1", seen=entry.revision if entry else 0, at=store.state.revision)
    entry = await store.get(keys.alive("w1"))
    assert entry is not None
    assert entry.version == 1
