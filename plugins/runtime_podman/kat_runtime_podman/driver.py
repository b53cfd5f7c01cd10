"""The driver ``podman``: the runtime contract, each operation handed to the part that knows it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar, Final

import structlog

from kat_platform.errors import NotFound
from kat_platform.interfaces.driver import Capability, CheckResult, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.interfaces.runtime import (
    Container,
    ContainerSpec,
    ExecResult,
    ExecSession,
    Image,
    LogLine,
    RuntimeEvent,
    Usage,
)
from kat_runtime_podman import build, execute, host, logs, oci, prepare, reset, session, usage
from kat_runtime_podman.client import PodmanClient
from kat_runtime_podman.config import PodmanConfig
from kat_runtime_podman.containers import Containers, Settings
from kat_runtime_podman.events import Foreign, Hub
from kat_runtime_podman.images import Images
from kat_runtime_podman.layout import Layout
from kat_runtime_podman.service import PodmanService

_LOG: Final = structlog.get_logger(__name__)
_START_SECONDS: Final = 30.0


class PodmanRuntime:
    """Containers and images with Podman, in a storage of its own."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="podman",
        version="1.0.0",
        capability=Capability.RUNTIME,
        capabilities={"build": True, "image_transfer": True, "rootless": False, "log_rotation": True},
        summary="containers with Podman, crun or runc",
    )
    Config: ClassVar[type[PodmanConfig]] = PodmanConfig

    def __init__(self, config: PodmanConfig, context: DriverContext) -> None:
        self._config = config
        self._layout = Layout.of(context)
        self._environment = self._layout.environment(os.environ)
        self._service = PodmanService(self._layout, self._environment)
        self._client = PodmanClient(
            lambda: self._service.socket,
            self._service.answers,
            parallel=config.max_parallel_calls,
            timeout=config.call_timeout_seconds,
        )
        self._hub = Hub()
        self._images = Images(self._layout, config, self._client, self._environment)
        self._choice = oci.Choice("runc", "cgroupfs")
        self._containers = self._make_containers()
        self._running: asyncio.Task[None] | None = None
        self._version = ""

    def _make_containers(self) -> Containers:
        settings = Settings(
            tag=self._layout.tag,
            cgroup_parent=prepare.cgroup_parent(self._layout.tag, self._choice.cgroup_manager),
            log_max_bytes=self._config.log_max_bytes,
        )
        return Containers(
            self._layout, settings, self._client, self._images, self._hub, lambda: prepare.limits(self._service.pid)
        )

    @property
    def environment(self) -> dict[str, str]:
        """Give the environment in which ``podman`` works on this driver's storage, for a person to look into it."""
        return dict(self._environment)

    @property
    def storage(self) -> Path:
        """Give the folder of Podman's storage: images, layers, containers and their logs."""
        return self._layout.root

    # --- driver -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Write Podman's configuration, start its service and watch the containers that run already."""
        if self._running is not None:
            return
        self._choice = oci.choose(self._config, oci.look())
        self._containers = self._make_containers()
        await asyncio.to_thread(prepare.write, self._layout, self._config, self._choice)
        self._client.open()
        connected = asyncio.Event()
        self._running = asyncio.create_task(self._run(connected), name="podman driver")
        self._running.add_done_callback(_report)
        try:
            await self._service.wait_ready(_START_SECONDS)
            answer = await self._client.call("GET", "/version", timeout=_START_SECONDS)
            self._version = str((answer.body or {}).get("Version", ""))
            async with asyncio.timeout(_START_SECONDS):
                await connected.wait()
            adopted = await self._containers.adopt()
        except BaseException:
            await self.stop()
            raise
        _LOG.info("podman-ready", version=self._version, oci_runtime=self._choice.oci_runtime, adopted=adopted)

    async def stop(self) -> None:
        """End the service and all watching; containers and their conmons run on."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait({running})
        self._containers.lives.close()
        self._client.close()

    async def _run(self, connected: asyncio.Event) -> None:
        foreign: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        stream = Foreign(lambda: self._service.socket, self._hub, foreign.put_nowait, self._service.answers)
        stream.connected = connected
        async with asyncio.TaskGroup() as group:
            group.create_task(self._service.run(), name="podman service")
            group.create_task(stream.run(), name="podman events")
            group.create_task(self._handle(foreign), name="podman foreign events")

    async def _handle(self, foreign: asyncio.Queue[dict[str, Any]]) -> None:
        while True:
            event = await foreign.get()
            try:
                await self._containers.foreign(event)
            except Exception as error:  # one odd event must not end the driver; the next list shows the truth
                _LOG.warning("podman-event-not-handled", error=str(error), about=str(event)[:300])

    async def status(self) -> DriverStatus:
        """Tell how it is, without asking Podman."""
        facts = {
            "version": self._version,
            "oci_runtime": self._choice.oci_runtime,
            "cgroup_manager": self._choice.cgroup_manager,
            "service_pid": self._service.pid,
            "service_restarts": self._service.restarts,
            "containers_alive": len(self._containers.lives.all()),
        }
        if self._running is None or self._running.done():
            return DriverStatus(Health.FAILED, "the podman driver does not run", facts)
        if not self._service.ready:
            return DriverStatus(Health.DEGRADED, "podman's service is being started again", facts)
        return DriverStatus(Health.OK, "", facts)

    @classmethod
    async def check_host(cls, config: PodmanConfig) -> tuple[CheckResult, ...]:
        """Tell what the host lacks."""
        return await host.check(config)

    async def reset(self) -> None:
        """Remove everything this driver made on the host."""
        await self.stop()
        await reset.reset(self._layout, self._environment)

    async def collect(self, valid: frozenset[str]) -> frozenset[str]:
        """Remove containers whose name is not in ``valid``."""
        return await self._containers.collect(valid)

    # --- images -------------------------------------------------------------------------------------------

    async def ensure_image(self, reference: str, *, timeout: float = 600.0) -> Image:
        """Have the image, from KAT's storage, the host's, or a registry."""
        return await self._images.ensure(reference, timeout=timeout)

    async def find_image(self, reference: str) -> Image | None:
        """Look for the image in KAT's storage."""
        return await self._images.find(reference)

    def export_image(self, reference: str) -> AsyncIterator[bytes]:
        """Stream the image as a docker archive."""
        return self._images.export(reference)

    async def import_image(self, reference: str, archive: AsyncIterator[bytes]) -> Image:
        """Load an archive under a name."""
        return await self._images.load(reference, archive)

    def build_image(
        self,
        context_dir: str,
        *,
        dockerfile: str,
        tag: str,
        build_args: Mapping[str, str],
        target: str | None = None,
        platform: str | None = None,
        timeout: float = 1800.0,
    ) -> AsyncIterator[str]:
        """Build with ``podman build``."""
        return build.build(
            context_dir,
            environment=self._environment,
            policy=self._images.policy(),
            dockerfile=dockerfile,
            tag=tag,
            build_args=build_args,
            target=target,
            platform=platform,
            timeout=timeout,
        )

    # --- containers ---------------------------------------------------------------------------------------

    async def create(self, spec: ContainerSpec) -> Container:
        """Create, not started."""
        return await self._containers.create(spec)

    async def init(self, name: str) -> Container:
        """Make the network namespace."""
        return await self._containers.init(name)

    async def start_container(self, name: str) -> Container:
        """Run the command."""
        return await self._containers.start_container(name)

    async def stop_container(self, name: str, *, grace: float) -> Container:
        """Stop, then kill."""
        return await self._containers.stop_container(name, grace=grace)

    async def signal(self, name: str, signal: str) -> None:
        """Send a signal."""
        await self._containers.signal(name, signal)

    async def remove(self, name: str) -> None:
        """Remove in any state."""
        await self._containers.remove(name)

    async def inspect(self, name: str) -> Container | None:
        """Tell a container's state."""
        return await self._containers.inspect(name)

    async def list_containers(self) -> tuple[Container, ...]:
        """List KAT's containers."""
        return await self._containers.list_containers()

    # --- streams, exec, usage -----------------------------------------------------------------------------

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """Stream events from this call on."""
        return self._hub.subscribe()

    async def logs(
        self, name: str, *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> AsyncIterator[LogLine]:
        """Give the output from the container's log file."""
        container_id = await self._containers.identify(name)
        path: Path = self._layout.container(container_id) / "ctr.log"
        read = logs.read(path, follow=follow, tail=tail, since=since, over=lambda: self._over(name))
        async with contextlib.aclosing(read) as lines:
            async for line in lines:
                yield line

    def _over(self, name: str) -> bool:
        return self._containers.lives.get(name) is None

    async def exec(
        self, name: str, command: tuple[str, ...], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> ExecResult:
        """Run a command to its end."""
        container_id = self._containers.running_id(name)
        async with execute.prepared(
            self._layout, self._choice.oci_runtime, container_id, command, env or {}, tty=False
        ) as plan:
            result = await execute.run(plan, timeout=timeout, name=name)
            if not plan.began:
                self._still_there(name, container_id, result)
            return result

    async def open_exec(
        self, name: str, command: tuple[str, ...], *, tty: bool = False, stdin: bool = False
    ) -> ExecSession:
        """Start a command with its streams attached."""
        container_id = self._containers.running_id(name)
        async with AsyncExitStack() as stack:
            plan = await stack.enter_async_context(
                execute.prepared(self._layout, self._choice.oci_runtime, container_id, command, {}, tty=tty)
            )
            return await session.begin(plan, stack.pop_all(), tty=tty, stdin=stdin)

    def _still_there(self, name: str, container_id: str, result: ExecResult) -> None:
        """Tell a container that just died from a command that could not be started."""
        live = self._containers.lives.get(name)
        if live is None or live.id != container_id or b"stopped container" in result.stderr:
            raise NotFound(f"container '{name}' does not run", container=name)

    async def usage(self) -> tuple[Usage, ...]:
        """Measure running containers by their cgroups."""
        lives = [live for live in self._containers.lives.all() if live.started]
        found = [usage.measure(live.name, live.pid) for live in lives]
        return tuple(one for one in found if one is not None)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _LOG.critical("podman-driver-died", error=repr(task.exception()))
