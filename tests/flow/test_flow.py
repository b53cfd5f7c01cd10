"""From a Quadlet to a status and back, in one process, on drivers in memory: fast, and every part but those is real."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kat_platform.interfaces.runtime import ExecResult

from .world import World

PORTS = {"ports": [{"name": "http", "port": 80, "containerPort": 8080}]}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A running cluster of one node."""
    world = World(tmp_path)
    await world.start()
    yield world
    await world.stop()


async def test_a_quadlet_becomes_containers_addresses_names_and_a_status(world: World):
    await world.apply(replicas=3, balancer=PORTS)
    item = await world.ready(3)
    assert item["virtualIp"]
    assert len(world.runtime.containers) == 3
    attached = world.network.kernel.attached
    addresses = {i["status"]["address"] for i in await world.instances()}
    assert {str(a.address.ip) for a in attached.values()} == addresses
    (port,) = world.network.kernel.table.ports
    assert {str(backend.address) for backend in port.backends} == addresses
    assert str(port.address) == item["virtualIp"]


async def test_an_end_is_seen_and_mended(world: World):
    await world.apply(replicas=1)
    await world.ready(1)
    (name,) = world.runtime.containers
    world.runtime.die(name)
    await world.until(lambda: world.runtime.calls.count(("start_container", name)) == 2, "it is started again")
    await world.ready(1)
    (item,) = await world.instances()
    assert item["status"]["restarts"] == 1

    async def told() -> bool:
        _, events = await world.ask("GET", "/namespaces/default/events")
        return {"Exited", "Restarted"} <= {e["event"]["reason"] for e in events["items"]}

    await world.until(told, "the events are there")


async def test_scaling_and_deleting_leave_nothing(world: World):
    await world.apply(replicas=2, balancer=PORTS)
    await world.ready(2)
    for count in (5, 1):
        status, _ = await world.ask("POST", "/namespaces/default/workloads/web/scale", {"replicas": count})
        assert status == 200
        await world.ready(count)
    assert (await world.ask("DELETE", "/namespaces/default/workloads/web"))[0] == 202

    async def gone() -> bool:
        return not await world.instances() and (await world.ask("GET", "/namespaces/default/workloads/web"))[0] == 404

    await world.until(gone, "the workload is gone")
    await world.until(lambda: not world.runtime.containers and not world.network.kernel.attached, "nothing is left")
    await world.until(lambda: not world.network.kernel.table.ports, "the virtual IP is gone")
    left = await world.plane.store.list("/kat/v1/")
    about = [e.key for e in left.entries if "/web" in e.key and "event" not in e.key and "audit" not in e.key]
    assert not about


async def test_a_rolling_update_waits_for_health_and_stops_when_there_is_none(world: World):
    check = {**PORTS, "healthCheck": {"exec": {"command": ["ok"]}, "periodSeconds": 1, "timeoutSeconds": 1}}
    sick: set[str] = set()

    def judge(name: str, *_: object) -> ExecResult:
        return ExecResult(1 if world.runtime.containers[name].spec.image in sick else 0, b"", b"it is sick")

    world.runtime.exec_handler = judge
    await world.apply(replicas=2, balancer=check)
    await world.ready(2)
    sick.add("localhost/app:2")
    strategy = {"type": "Rolling", "rolling": {"progressDeadlineSeconds": 2}}
    await world.apply(replicas=2, balancer=check, source={"image": "localhost/app:2"}, updateStrategy=strategy)

    async def paused() -> bool:
        item = await world.workload()
        assert item["summary"]["available"] >= 2, "an old instance went before a new one was ready"
        return item["rollout"]["state"] == "Paused"

    await world.until(paused, "the rollout is paused")
    assert "exit" in (await world.workload())["rollout"]["message"]
    sick.clear()
    assert (await world.ask("POST", "/namespaces/default/workloads/web/resume"))[0] == 200
    await world.ready(2)
    images = {held.spec.image for held in world.runtime.containers.values()}
    assert images == {"localhost/app:2"}


@pytest.mark.parametrize("when", ["ensure_image", "create", "init", "start_container"])
async def test_an_agent_that_ends_at_any_step_goes_on_where_it_was(world: World, when: str):
    await world.apply("old", replicas=1)
    await world.ready(1, "old")
    (old,) = world.runtime.containers
    world.runtime.delays[when] = 0.3
    before = len([call for call in world.runtime.calls if call[0] == when])
    await world.apply(replicas=2)
    await world.until(lambda: len([c for c in world.runtime.calls if c[0] == when]) > before, f"{when} was begun")
    await world.crash_agent()
    world.runtime.delays.clear()
    world.start_agent()
    await world.ready(2)
    assert len(world.runtime.containers) == 3
    assert world.runtime.calls.count(("start_container", old)) == 1, "a running container was started again"


async def test_an_image_that_is_nowhere_is_told(world: World):
    await world.apply("lost", source={"image": "localhost/none:1"})

    async def told() -> bool:
        (item,) = await world.instances() or [{}]
        return "none" in item.get("status", {}).get("message", "")

    await world.until(told, "the status tells it")
    world.runtime.add_image("localhost/none:1")
    await world.ready(1, "lost")
