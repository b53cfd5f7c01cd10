"""Placing: instances onto thousands of nodes, from the queue to every assignment committed in a real store."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import Row, row
from kat_platform.interfaces.driver import Capability, DriverContext
from kat_platform.interfaces.store import HasMembers, Put, Store
from kat_platform.leader.controller import Controller
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.instance import InstanceRecord
from kat_platform.model.meta import Metadata
from kat_platform.model.node import Capacity, NodeRecord, NodeReport
from kat_platform.model.revision import Revision, WorkloadRecord
from kat_platform.registry.catalog import Catalog
from kat_platform.registry.drivers import examine
from kat_platform.state import keys
from kat_platform.state.cache import StateCache
from kat_platform.state.events import EventRecorder
from kat_platform.testing.conformance.store import free_port
from kat_platform.testing.world import make_workload
from tests.cluster.site import python_path

NODES, INSTANCES, WORKLOADS = 5000, 10_000, 100


def _driver(capability: Capability, name: str, folder: Path) -> object:
    site = folder.parent / "site"
    if str(site) not in sys.path:  # a bare checkout announces its plugins like an installation
        sys.path += python_path(site).split(os.pathsep)
    examined = examine(capability, name, {}, Catalog.read())
    assert examined.usable is not None, examined.faults
    folder.mkdir()
    context = DriverContext("bench", folder, folder, "ktb")
    return examined.usable.driver_class(examined.usable.config, context)


async def _fill(store: Store) -> None:
    room = Capacity(cpu_millicores=16_000, memory_bytes=64 * 2**30, instances=250)
    report = NodeReport(capacity=room, allocatable=room).to_json()
    puts = [Put(keys.CLUSTER, ClusterConfiguration(metadata=Metadata(name="bench")).to_json())]
    for number in range(NODES):
        name = f"n{number}"
        # With a subnet already, so that giving out subnets is no part of what is measured.
        record = NodeRecord.model_validate({"name": name, "subnet": f"10.{number // 256}.{number % 256}.0/24"})
        puts += [Put(keys.node(name), record.to_json()), Put(keys.node_report(name), report)]
        puts.append(Put(keys.alive(name), b"{}"))
    for start in range(0, len(puts), 1000):
        await store.transaction((), tuple(puts[start : start + 1000]))


async def _queue(store: Store) -> int:
    """Ask for all instances at once, in one transaction; gives its revision."""
    puts = []
    each = INSTANCES // WORKLOADS
    for number in range(WORKLOADS):
        name = f"w{number}"
        resources = {"requests": {"cpu": f"{100 + 7 * number}m", "memory": f"{64 + 16 * number}Mi"}}
        document = make_workload(name, replicas=each, container={"resources": resources})
        revision = Revision(
            namespace="default", workload=name, number=1, created_at=1.0, files_digest="", document=document
        )
        puts.append(Put(keys.revision("default", name, 1), revision.to_json()))
        record = WorkloadRecord(name=name, namespace="default", revision=1, replicas=each)
        puts.append(Put(keys.workload("default", name), record.to_json()))
    return (await store.transaction((), tuple(puts))).revision


async def _once(folder: Path) -> float:
    store = _driver(Capability.STORE, "etcd", folder / "store")
    scheduler = _driver(Capability.SCHEDULER, "binpack", folder / "scheduler")
    assert isinstance(store, HasMembers)
    await store.bootstrap("bench", f"http://127.0.0.1:{free_port()}")
    await store.start()
    try:
        await _fill(store)
        cache = StateCache(store)
        leadership = await store.campaign(keys.ELECTION, "bench", ttl=30)
        controller = Controller(store, cache, scheduler, EventRecorder(store))
        tasks = [
            asyncio.create_task(cache.run(), name="cache"),
            asyncio.create_task(controller.lead(leadership), name="lead"),
        ]
        await cache.synced()
        await asyncio.sleep(1)
        began = time.perf_counter()
        await _queue(store)
        while len(cache.state.instances) < INSTANCES or any(  # noqa: ASYNC110 - a look every 20 ms costs nothing here
            i.node is None for i in cache.state.instances.values()
        ):
            await asyncio.sleep(0.02)
        seconds = time.perf_counter() - began
        page = await store.list(keys.INSTANCES)
        assert len(page.entries) == INSTANCES
        assert all(InstanceRecord.from_json(entry.value).node for entry in page.entries[::100])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return seconds
    finally:
        await store.stop()


def measure(runs: int) -> list[Row]:
    """Measure instances assigned per second, committed."""
    rates = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="ktb") as folder:
            rates.append(INSTANCES / asyncio.run(_once(Path(folder))))
    what = f"{INSTANCES} instances onto {NODES} nodes, committed in etcd"
    return [row(what, rates, "per s", aim="at least 2,000, aim 5,000")]
