"""Containers outlive Podman's service and the agent; exits are seen at once and brought back without a race."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from kat_runtime_podman.config import PodmanConfig
from kat_runtime_podman.driver import PodmanRuntime

from kat_platform.errors import RuntimeFailure
from kat_platform.interfaces.driver import DriverContext, Health
from kat_platform.interfaces.runtime import (
    Container,
    ContainerSpec,
    ContainerState,
    Resources,
    RuntimeEvent,
    RuntimeEventType,
)
from kat_platform.testing.conformance.runtime_image import REFERENCE

pytestmark = pytest.mark.real
Launch = Callable[..., Awaitable[Container]]


async def seen(events: AsyncIterator[RuntimeEvent], kind: RuntimeEventType) -> RuntimeEvent:
    async with asyncio.timeout(10):
        while (event := await anext(events)).type is not kind:
            pass
    return event


async def test_the_service_may_be_killed(runtime: PodmanRuntime, launch: Launch) -> None:
    before = await launch("kt-a", "sleep 100")
    events = runtime.events()
    service = (await runtime.status()).facts["service_pid"]
    os.kill(service, signal.SIGKILL)
    await asyncio.sleep(0.02)
    await runtime.create(ContainerSpec("kt-b", REFERENCE))  # waits for the service instead of failing
    await seen(events, RuntimeEventType.GAP)
    status = await runtime.status()
    assert status.health is Health.OK
    assert status.facts["service_pid"] != service
    after = await runtime.inspect("kt-a")
    assert after is not None
    assert after.pid == before.pid
    os.kill(after.pid or 0, signal.SIGKILL)
    assert (await seen(events, RuntimeEventType.EXITED)).exit_code == 137


async def test_an_exit_while_the_service_is_down_is_seen(runtime: PodmanRuntime, launch: Launch) -> None:
    before = await launch("kt-a", "sleep 100")
    events = runtime.events()
    os.kill((await runtime.status()).facts["service_pid"], signal.SIGSTOP)
    try:
        os.kill(before.pid or 0, signal.SIGKILL)
        assert (await seen(events, RuntimeEventType.EXITED)).exit_code == 137
    finally:
        os.kill((await runtime.status()).facts["service_pid"], signal.SIGCONT)


async def test_a_killed_process_is_told_of_and_back_at_once(runtime: PodmanRuntime, launch: Launch) -> None:
    container = await launch("kt-a", "sleep 100")
    events = runtime.events()
    told, back = [], []
    for _ in range(5):
        began = time.monotonic()
        os.kill(container.pid or 0, signal.SIGKILL)
        await seen(events, RuntimeEventType.EXITED)
        told.append(time.monotonic() - began)
        await runtime.init("kt-a")
        container = await runtime.start_container("kt-a")
        back.append(time.monotonic() - began)
    await asyncio.sleep(0.5)
    found = await runtime.inspect("kt-a")
    assert found is not None
    assert found.state is ContainerState.RUNNING
    assert found.pid == container.pid
    print(f"killed -> event {sorted(told)[2] * 1000:.1f} ms, -> running {sorted(back)[2] * 1000:.0f} ms")
    assert sorted(told)[2] < 0.25
    assert sorted(back)[2] < 1.5


async def test_another_agent_adopts(runtime: PodmanRuntime, context: DriverContext, launch: Launch) -> None:
    before = await launch("kt-a", "trap 'exit 5' TERM; while true; do sleep 0.1; done")
    await runtime.stop()
    again = PodmanRuntime(PodmanConfig(local_stores=()), context)
    try:
        await again.start()
        events = again.events()
        (found,) = await again.list_containers()
        assert found.pid == before.pid
        assert (await again.exec("kt-a", ("true",), timeout=10)).exit_code == 0
        await asyncio.sleep(0.2)
        assert (await again.stop_container("kt-a", grace=10)).exit_code == 5
        assert (await seen(events, RuntimeEventType.EXITED)).exit_code == 5
    finally:
        await again.stop()


async def test_one_that_dies_between_init_and_start_never_runs_without_network(
    runtime: PodmanRuntime, launch: Launch
) -> None:
    await launch("kt-a", "sleep 100")
    events = runtime.events()
    await runtime.stop_container("kt-a", grace=0)
    await seen(events, RuntimeEventType.EXITED)
    ready = await runtime.init("kt-a")
    os.kill(ready.pid or 0, signal.SIGKILL)
    await seen(events, RuntimeEventType.EXITED)
    with pytest.raises(RuntimeFailure):
        await runtime.start_container("kt-a")


async def test_limits_are_kept_and_an_oom_kill_is_told(runtime: PodmanRuntime, launch: Launch) -> None:
    events = runtime.events()
    limits = Resources(cpu_millicores=500, memory_bytes=32 << 20, cpu_request_millicores=250)
    container = await launch("kt-a", "sleep 0.3; tail /dev/zero", resources=limits)
    groups = Path(f"/proc/{container.pid}/cgroup").read_text()
    if ":memory:" in groups:
        path = next(line.split(":", 2)[2] for line in groups.splitlines() if line.split(":")[1] == "cpu")
        assert Path(f"/sys/fs/cgroup/cpu{path}/cpu.cfs_quota_us").read_text().strip() == "50000"
        assert Path(f"/sys/fs/cgroup/cpu{path}/cpu.shares").read_text().strip() == "256"
    else:
        path = groups.splitlines()[-1].split(":", 2)[2]
        assert Path(f"/sys/fs/cgroup{path}/cpu.max").read_text().split()[0] == "50000"
    ended = await seen(events, RuntimeEventType.EXITED)
    assert ended.exit_code == 137
    assert ended.oom_killed
    await asyncio.sleep(0.5)
    (found,) = await runtime.list_containers()
    assert found.oom_killed


async def test_somebody_elses_removal_is_told(runtime: PodmanRuntime, launch: Launch) -> None:
    await launch("kt-a", "sleep 100")
    events = runtime.events()
    process = await asyncio.create_subprocess_exec(
        *("podman", "rm", "--force", "--time", "0", "kt-a"), env=runtime.environment, stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0
    assert (await seen(events, RuntimeEventType.EXITED)).exit_code == 137
    assert (await seen(events, RuntimeEventType.REMOVED)).name == "kt-a"
    assert await runtime.inspect("kt-a") is None


async def test_reset_leaves_nothing(runtime: PodmanRuntime, context: DriverContext, launch: Launch) -> None:
    container = await launch("kt-a", "sleep 100")
    service = (await runtime.status()).facts["service_pid"]
    await runtime.reset()
    for pid in (container.pid, service):
        assert not Path(f"/proc/{pid}/cgroup").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1]
    assert str(context.data_dir.parent) not in Path("/proc/self/mountinfo").read_text()
    assert not list(context.data_dir.iterdir())
    assert not list(context.run_dir.iterdir())
    assert not list(Path("/sys/fs/cgroup").glob(f"**/kat-{context.instance_tag}"))
    await PodmanRuntime(PodmanConfig(), context).reset()
