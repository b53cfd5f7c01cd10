"""The leader's loop on a store in memory: fenced, patient with conflicts, and safe from a scheduler that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kat_platform.errors import LeadershipLost
from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.scheduler import PendingInstance, Placement, PlacementPlan, SchedulingSnapshot
from kat_platform.interfaces.store import Leadership
from kat_platform.leader.changes import CreateInstance
from kat_platform.leader.commit import commit
from kat_platform.leader.controller import Controller
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.instance import InstanceRecord
from kat_platform.model.meta import Metadata
from kat_platform.model.node import Capacity, NodeRecord, NodeReport
from kat_platform.model.revision import Revision, WorkloadRecord
from kat_platform.state import keys
from kat_platform.state.cache import StateCache
from kat_platform.state.events import EventRecorder
from kat_platform.testing.fakes.scheduler import FakeScheduler
from kat_platform.testing.fakes.store import MemoryStore
from kat_platform.testing.world import make_workload


class Lead:
    """A store in memory with one ready node, and a controller that leads on it."""

    def __init__(self, folder: Path, scheduler: FakeScheduler | None = None) -> None:
        self.store = MemoryStore(None, DriverContext("n1", folder, folder, "t"))
        self.scheduler = scheduler or FakeScheduler()
        self.cache = StateCache(self.store)
        self.recorder = EventRecorder(self.store)
        self.leadership: Leadership | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Lead]:
        """Lead until the block ends."""
        await self.store.start()
        room = Capacity(cpu_millicores=4000, memory_bytes=2**33, instances=100)
        configuration = ClusterConfiguration(metadata=Metadata(name="c"))
        await self.store.put(keys.CLUSTER, configuration.to_json())
        await self.store.put(keys.node("n1"), NodeRecord(name="n1").to_json())
        await self.store.put(keys.node_report("n1"), NodeReport(capacity=room, allocatable=room).to_json())
        await self.store.put(keys.alive("n1"), b"{}")
        self.leadership = await self.store.campaign(keys.ELECTION, "n1", ttl=5)
        controller = Controller(self.store, self.cache, self.scheduler, self.recorder)
        tasks = [
            asyncio.create_task(self.cache.run(), name="cache"),
            asyncio.create_task(self.recorder.run(), name="recorder"),
            asyncio.create_task(controller.lead(self.leadership), name="lead"),
        ]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.store.stop()

    async def apply(self, replicas: int) -> None:
        """Write what the API would."""
        document = make_workload(replicas=replicas)
        revision = Revision(
            namespace="default", workload="web", number=1, created_at=1.0, files_digest="", document=document
        )
        await self.store.put(keys.revision("default", "web", 1), revision.to_json())
        record = WorkloadRecord(name="web", namespace="default", revision=1, replicas=replicas)
        await self.store.put(keys.workload("default", "web"), record.to_json())

    async def placed(self) -> list[str | None]:
        """Nodes of the instances there are."""
        page = await self.store.list(keys.INSTANCES)
        return [InstanceRecord.from_json(entry.value).node for entry in page.entries]

    async def until(self, wanted: list[str | None]) -> None:
        """Wait until the instances are on these nodes."""
        async with asyncio.timeout(5):
            while await self.placed() != wanted:  # noqa: ASYNC110 - a test waits for a store
                await asyncio.sleep(0.01)

    async def until_unplaceable(self) -> None:
        """Wait until an instance says why no node takes it."""
        async with asyncio.timeout(5):
            while True:
                page = await self.store.list(keys.INSTANCES)
                if any(InstanceRecord.from_json(entry.value).unplaceable for entry in page.entries):
                    return
                await asyncio.sleep(0.01)

    async def events(self) -> list[str]:
        """Reasons of the events recorded so far."""
        await self.recorder.flush()
        state = await self.cache.synced()
        await self.cache.reached((await self.store.list(keys.EVENTS)).revision)
        return [event.reason for event in (self.cache.state or state).events.values()]


async def test_it_creates_and_places_what_is_wanted(tmp_path: Path) -> None:
    async with Lead(tmp_path).running() as lead:
        await lead.apply(3)
        await lead.until(["n1", "n1", "n1"])
        async with asyncio.timeout(5):
            while "Assigned" not in await lead.events():  # noqa: ASYNC110 - told a moment later
                await asyncio.sleep(0.01)


async def test_what_fits_nowhere_waits_with_its_reason_until_there_is_room(tmp_path: Path) -> None:
    async with Lead(tmp_path).running() as lead:
        await lead.store.delete(keys.alive("n1"))
        await lead.apply(1)
        await lead.until([None])
        await lead.until_unplaceable()
        await lead.store.put(keys.alive("n1"), b"{}")
        await lead.until(["n1"])


class Raises(FakeScheduler):
    """Breaks on every call."""

    def schedule(self, snapshot: SchedulingSnapshot, pending: tuple[PendingInstance, ...]) -> PlacementPlan:
        raise ZeroDivisionError("a stranger's bug")


class Overfills(FakeScheduler):
    """Puts everything on a node that does not exist."""

    def schedule(self, snapshot: SchedulingSnapshot, pending: tuple[PendingInstance, ...]) -> PlacementPlan:
        return PlacementPlan(tuple(Placement(each.id, "nowhere") for each in pending))


@pytest.mark.parametrize("scheduler", [Raises, Overfills])
async def test_a_scheduler_that_misbehaves_places_nothing_and_is_named(
    tmp_path: Path, scheduler: type[FakeScheduler]
) -> None:
    async with Lead(tmp_path, scheduler()).running() as lead:
        await lead.apply(2)
        await lead.until([None, None])
        await asyncio.sleep(0.1)
        assert await lead.placed() == [None, None]
        assert "PlanRefused" in await lead.events()


async def test_a_deposed_leader_writes_nothing(tmp_path: Path) -> None:
    async with Lead(tmp_path).running() as lead:
        assert lead.leadership is not None
        state = await lead.cache.synced()
        await lead.store.resign(lead.leadership)
        record = InstanceRecord(id="web-1", namespace="default", workload="web", revision=1)
        with pytest.raises(LeadershipLost):
            await commit(lead.store, lead.leadership, state, [CreateInstance(record)], now=1.0)
        assert await lead.placed() == []
