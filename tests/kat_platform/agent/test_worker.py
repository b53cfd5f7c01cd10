"""A worker on fakes: it brings an instance up, heals it, takes it down, and goes on after a crash at any moment."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from kat_platform.agent import journal
from kat_platform.agent import worker as worker_module
from kat_platform.agent.journal import Journal
from kat_platform.agent.memory import InstanceMemory
from kat_platform.agent.worker import InstanceWorker
from kat_platform.agent.workshop import Workshop
from kat_platform.errors import ImagePullFailed, RuntimeFailure
from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.network import NodeNetwork
from kat_platform.interfaces.runtime import RuntimeEventType
from kat_platform.model.instance import Desired, InstanceRecord, InstanceStatus, Phase
from kat_platform.model.load_balancer import VirtualLoadBalancerSpec
from kat_platform.model.view import AssignmentItem
from kat_platform.model.workload import Workload
from kat_platform.testing.fakes.network import FakeNetwork
from kat_platform.testing.fakes.runtime import FakeRuntime

KEY = "default/web-abcde"
NAME = "default.web-abcde"
SUBNET = IPv4Network("10.100.0.0/24")


def wanted(desired: Desired = Desired.RUN, check: dict[str, Any] | None = None, **spec: Any) -> AssignmentItem:
    """An assignment to node n1."""
    body = {"type": "Service", "source": {"image": "localhost/app:1"}, **spec}
    document = Workload.model_validate({"metadata": {"name": "web"}, "spec": body})
    record = InstanceRecord(id="web-abcde", namespace="default", workload="web", revision=1, node="n1", desired=desired)
    balancer = None
    if check is not None:
        balancer = VirtualLoadBalancerSpec.model_validate({"ports": [{"port": 80}], "healthCheck": check})
    return AssignmentItem(record=record, document=document, health_check_from=balancer)


class Bench:
    """One node's surroundings on fakes; survives a crash of its worker, as the machine would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = FakeRuntime()
        self.runtime.add_image("localhost/app:1")
        context = DriverContext("n1", folder, folder, "t")
        self.network = FakeNetwork(None, context)
        self.statuses: list[InstanceStatus] = []
        self.events: list[tuple[str, str]] = []
        self.worker: InstanceWorker | None = None

    async def start(self) -> None:
        """Start the drivers."""
        await self.runtime.start()
        await self.network.start()
        cidr, services = IPv4Network("10.100.0.0/16"), IPv4Network("10.101.0.0/16")
        await self.network.configure(NodeNetwork("n1", SUBNET, cidr, services, 51820))

    def shop(self) -> Workshop:
        """What workers share, made anew as after a restart of the agent."""
        return Workshop(
            runtime=self.runtime,
            network=self.network,
            journal=Journal(self.folder / "journal"),
            node="n1",
            subnet=SUBNET,
            domain="kat.test",
            volume_base=self.folder / "volumes",
            boot_id="boot",
            slots=asyncio.Semaphore(4),
            clock=time.time,
            take_address=lambda _key: "10.100.0.7",
            return_address=lambda _key: None,
            on_status=lambda _key, status: self.statuses.append(status),
            on_event=lambda _key, reason, message, _type: self.events.append((reason, message)),
        )

    @asynccontextmanager
    async def agent(self, assignment: AssignmentItem | None) -> AsyncIterator[InstanceWorker]:
        """A running worker, found again from journal and runtime as after a restart; killed at the end."""
        shop = self.shop()
        memory = shop.journal.load().get(KEY) or InstanceMemory(key=KEY)
        worker = self.worker = InstanceWorker(shop, memory, await self.runtime.inspect(NAME))
        worker.assign(assignment)
        task = asyncio.create_task(worker.run(), name="worker")
        watch = asyncio.create_task(self._events(worker), name="events")
        try:
            yield worker
        finally:
            for each in (task, watch):
                each.cancel()
            results = await asyncio.gather(task, watch, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def _events(self, worker: InstanceWorker) -> None:
        async for event in self.runtime.events():
            if event.type is RuntimeEventType.EXITED:
                worker.observe(event)


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the fakes have no event for everything a test may wait for
            await asyncio.sleep(0.005)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.start()
    yield made
    await made.network.stop()
    await made.runtime.stop()


async def test_it_brings_an_instance_up_with_address_and_readiness(bench: Bench) -> None:
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().ready)
        status = worker.status()
        assert (status.phase, status.address, status.restarts) == (Phase.RUNNING, "10.100.0.7", 0)
        assert dict(await bench.network.attachments()) != {}
        spec = bench.runtime.containers[NAME].spec
        assert (spec.hostname, spec.host_entries) == ("web-abcde", (("10.100.0.7", "web-abcde"),))
        assert [r for r, _ in bench.events] == ["Started"]


async def test_a_killed_container_runs_again_at_once_and_counts(bench: Bench) -> None:
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().ready)
        began = time.monotonic()
        bench.runtime.die(NAME, 137)
        await until(lambda: worker.status().restarts == 1 and worker.status().ready)
        assert time.monotonic() - began < 1.0
        assert worker.status().exit_code == 137
        assert "Restarted" in [r for r, _ in bench.events]


async def test_a_disk_that_takes_nothing_stops_no_worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    full = True

    def replace_file(path: Path, data: bytes) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    write = journal._replace
    monkeypatch.setattr(journal, "_replace", replace_file)
    monkeypatch.setattr(worker_module, "UNSAVED_SECONDS", 0.02)
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().ready)
        bench.runtime.die(NAME, 137)
        await until(lambda: worker.status().restarts == 1 and worker.status().ready)
        full = False
        await until(lambda: Journal(bench.folder / "journal").load().get(KEY) == worker.memory)


@pytest.mark.parametrize("operation", ["ensure_image", "create", "init", "start_container", "stop_container", "remove"])
async def test_what_the_host_lacks_now_is_told_and_tried_again(bench: Bench, operation: str) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    bench.runtime.fail_next(operation, full, times=1)
    async with bench.agent(wanted()) as worker:
        if operation not in ("stop_container", "remove"):
            await until(lambda: "No space left on device: '/data/x'" in worker.status().message)
        await until(lambda: worker.status().ready)
        assert worker.status().message == ""
        worker.assign(wanted(Desired.STOP))
        await until(lambda: worker.status().phase is Phase.STOPPED)
    assert await bench.runtime.list_containers() == ()
    assert not any(bench.runtime._failures.values()), "the failure was met"


async def test_an_exec_check_on_a_full_disk_fails_and_goes_on(bench: Bench) -> None:
    bench.runtime.fail_next("exec", OSError(errno.ENOSPC, "No space left on device"), times=1)
    check = {"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 1}
    async with bench.agent(wanted(check=check)) as worker:
        await until(lambda: "No space left on device" in worker.status().message)
        await until(lambda: worker.status().ready)


async def test_a_second_crash_waits(bench: Bench) -> None:
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().ready)
        bench.runtime.die(NAME, 1)
        await until(lambda: worker.status().restarts == 1 and worker.status().ready)
        bench.runtime.die(NAME, 1)
        await until(lambda: worker.status().reason == "CrashLoop")
        assert "next start in 1 s" in worker.status().message
        assert not worker.status().ready


async def test_never_restart_ends_succeeded_and_off_the_network(bench: Bench) -> None:
    async with bench.agent(wanted(restartPolicy={"condition": "Never"})) as worker:
        await until(lambda: worker.status().ready)
        bench.runtime.die(NAME, 0)
        await until(lambda: worker.status().phase is Phase.SUCCEEDED)
        await until(lambda: worker.memory.network_released)
        assert await bench.network.attachments() == ()


async def test_stopping_leaves_nothing_and_reports_it(bench: Bench) -> None:
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().ready)
        worker.assign(wanted(Desired.STOP))
        assert not worker.status().ready, "it must be out of load balancing before anything else happens"
        await until(lambda: worker.status().phase is Phase.STOPPED)
        assert await bench.runtime.list_containers() == ()
        assert await bench.network.attachments() == ()


async def test_an_instance_nobody_knows_is_stopped_and_forgotten(bench: Bench) -> None:
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().ready)
    async with bench.agent(None):
        await until(lambda: not bench.runtime.containers)
        await until(lambda: Journal(bench.folder / "journal").load() == {})


async def test_an_image_that_cannot_be_pulled_is_tried_again_and_told(bench: Bench) -> None:
    bench.runtime.fail_next("ensure_image", ImagePullFailed("the registry does not answer"), times=1)
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().reason == "ImagePullFailed")
        assert "the registry does not answer" in worker.status().message
        await until(lambda: worker.status().ready)
        assert worker.status().reason == ""


async def test_a_start_that_fails_is_made_anew(bench: Bench) -> None:
    bench.runtime.fail_next("start_container", RuntimeFailure("exec: no such file"), times=1)
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().reason == "StartFailed")
        await until(lambda: worker.status().ready)


async def test_a_running_container_is_adopted_not_restarted(bench: Bench) -> None:
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().ready)
        pid = worker.status().pid
    bench.runtime.calls.clear()
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().ready)
        assert worker.status().pid == pid
    made = {operation for operation, _ in bench.runtime.calls}
    assert not made & {"create", "init", "start_container", "stop_container", "remove"}


async def test_a_ready_instance_stays_ready_over_a_restart_of_the_agent(bench: Bench) -> None:
    check = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    async with bench.agent(wanted(check=check)) as worker:
        await until(lambda: worker.status().ready)
    bench.statuses.clear()
    async with bench.agent(wanted(check=check)) as worker:
        assert worker.status().ready
        await asyncio.sleep(0.3)
        assert all(status.ready for status in bench.statuses)


async def test_an_instance_that_died_with_the_agent_away_is_not_ready_on_return(bench: Bench) -> None:
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().ready)
    bench.runtime.die(NAME, 1)
    await until(lambda: bench.runtime.containers[NAME].state.value == "exited")
    async with bench.agent(wanted()) as worker:
        assert not worker.status().ready
        await until(lambda: worker.status().ready and worker.status().restarts == 1)


@pytest.mark.parametrize("operation", ["ensure_image", "create", "init", "start_container"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_around_any_step_resumes(bench: Bench, operation: str, after: bool) -> None:
    original = getattr(bench.runtime, operation)
    reached = asyncio.Event()

    async def interrupted(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs) if after else None
        reached.set()
        await asyncio.sleep(60)  # the agent is killed here
        return result

    setattr(bench.runtime, operation, interrupted)
    async with bench.agent(wanted()):
        await asyncio.wait_for(reached.wait(), 5)
    setattr(bench.runtime, operation, original)
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().ready)
        assert len(await bench.runtime.list_containers()) == 1
        assert len(await bench.network.attachments()) == 1


async def test_a_crash_between_two_steps_of_stopping_resumes(bench: Bench) -> None:
    async with bench.agent(wanted()) as worker:
        await until(lambda: worker.status().ready)
    original = bench.network.detach
    reached = asyncio.Event()

    async def interrupted(instance_id: str) -> None:
        await original(instance_id)
        reached.set()
        await asyncio.sleep(60)

    bench.network.detach = interrupted  # type: ignore[method-assign]
    async with bench.agent(wanted(Desired.STOP)):
        await asyncio.wait_for(reached.wait(), 5)
    bench.network.detach = original  # type: ignore[method-assign]
    async with bench.agent(wanted(Desired.STOP)) as worker:
        await until(lambda: worker.status().phase is Phase.STOPPED)
    assert await bench.runtime.list_containers() == ()


async def test_an_exec_check_decides_readiness(bench: Bench) -> None:
    check = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    async with bench.agent(wanted(check=check)) as worker:
        await until(lambda: worker.status().reason == "Unhealthy")
        assert worker.status().phase is Phase.RUNNING
        assert not worker.status().ready
        assert "false" in worker.status().message


async def test_a_failing_check_restarts_where_that_is_asked_for(bench: Bench) -> None:
    check = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1, "onFailure": "Restart"}
    async with bench.agent(wanted(check=check)) as worker:
        await until(lambda: worker.status().restarts >= 1, 10)
        assert "Unhealthy" in [reason for reason, _ in bench.events]


async def test_a_missing_host_folder_is_told_and_waited_for(bench: Bench, tmp_path: Path) -> None:
    volumes = [{"name": "data", "hostMount": {"hostPath": str(tmp_path / "missing"), "ensureType": "Directory"}}]
    mounts = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    async with bench.agent(wanted(volumes=volumes, container=mounts)) as worker:
        await until(lambda: worker.status().reason == "VolumeError")
        assert "does not exist on this node" in worker.status().message
        (tmp_path / "missing").mkdir()
        await until(lambda: worker.status().ready)
