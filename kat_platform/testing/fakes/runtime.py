"""A runtime in memory: containers are asyncio tasks, and a test may make anything happen to them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from typing import ClassVar

from kat_platform.errors import Conflict, ImageNotFound, NotFound, RuntimeFailure, TimedOut
from kat_platform.interfaces.driver import Capability, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.interfaces.runtime import (
    Container,
    ContainerSpec,
    ContainerState,
    ExecResult,
    ExecSession,
    Image,
    LogLine,
    RuntimeEvent,
    RuntimeEventType,
    Usage,
)
from kat_platform.model.base import Model
from kat_platform.testing.fakes.exec_session import FakeExecSession
from kat_platform.testing.fakes.runtime_state import Held, Subscribers
from kat_platform.testing.fakes.shell import Process

ExecHandler = Callable[[str, tuple[str, ...]], ExecResult | None]
"""Answers an exec ``(name, command)`` in a test's stead; ``None`` lets the fake's shell run it."""

_OUTPUT_LIMIT = 65536


class FakeRuntimeConfig(Model):
    """The fake has nothing to configure."""


class FakeRuntime:
    """The whole runtime contract in memory. ``stop`` lets containers run on: reuse the object as "the same host".

    Every image but those in ``missing_images`` can be "pulled"; ``localhost/`` ones must be there (``add_image``).
    A command the fake's shell does not know runs until it is stopped.
    """

    info: ClassVar[DriverInfo] = DriverInfo(
        name="fake", version="1.0.0", capability=Capability.RUNTIME, summary="containers in memory, for tests"
    )
    Config: ClassVar[type[Model]] = FakeRuntimeConfig

    def __init__(self, config: FakeRuntimeConfig | None = None, context: DriverContext | None = None) -> None:
        self.containers: dict[str, Held] = {}
        self.images: dict[str, Image] = {}
        self.archives: dict[str, bytes] = {}
        self.missing_images: set[str] = set()
        self.calls: list[tuple[str, str]] = []
        """Operation and container (or image) of each call, in order."""
        self.delays: dict[str, float] = {}
        """Seconds an operation takes, by its name, e.g. ``{"init": 2.0}``."""
        self.exec_handler: ExecHandler | None = None
        self._failures: dict[str, list[Exception]] = defaultdict(list)
        self._subscribers = Subscribers()
        self._pids = itertools.count(100_001)

    # --- what a test may do -------------------------------------------------------------------------------

    def add_image(self, reference: str) -> Image:
        """Put an image on the node."""
        return self.images.setdefault(reference, Image(reference, f"sha256:{abs(hash(reference)):064x}"[:71]))

    def fail_next(self, operation: str, error: Exception, times: int = 1) -> None:
        """Make the next calls of an operation (``"create"``, ``"init"``, …) raise ``error``."""
        self._failures[operation].extend([error] * times)

    def die(self, name: str, exit_code: int = 137, *, oom: bool = False) -> None:
        """Make a container's first process end, as ``kill -9`` or the kernel's OOM killer would."""
        held = self.containers[name]
        if held.alive:
            self._ended(held, exit_code, oom)

    def interrupt_events(self) -> None:
        """Break the event stream: every subscriber sees ``GAP``."""
        self._emit(RuntimeEventType.GAP, "")

    def print_line(self, name: str, text: str, stream: str = "stdout") -> None:
        """Make a container print a line."""
        self.containers[name].print(LogLine(time.time(), stream, text))

    async def _enter(self, operation: str, subject: str) -> None:
        self.calls.append((operation, subject))
        await asyncio.sleep(self.delays.get(operation, 0.0))
        if self._failures[operation]:
            raise self._failures[operation].pop(0)

    # --- driver -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Nothing to make ready."""

    async def stop(self) -> None:
        """Let containers run on."""

    async def status(self) -> DriverStatus:
        """Tell that all is well."""
        return DriverStatus(Health.OK, facts={"containers": len(self.containers)})

    async def reset(self) -> None:
        """Remove every container and image."""
        for name in list(self.containers):
            await self.remove(name)
        self.images.clear()
        self.archives.clear()

    async def collect(self, valid: frozenset[str]) -> frozenset[str]:
        """Remove every container that is not in ``valid``."""
        dropped = frozenset(self.containers) - valid
        for name in dropped:
            await self.remove(name)
        return dropped

    # --- images -------------------------------------------------------------------------------------------

    async def ensure_image(self, reference: str, *, timeout: float = 600.0) -> Image:
        """Find the image, or "pull" it unless it is local or missing."""
        await self._enter("ensure_image", reference)
        if reference not in self.images and (reference.startswith("localhost/") or reference in self.missing_images):
            raise ImageNotFound(f"image '{reference}' is not on this node and not in a registry", image=reference)
        return self.add_image(reference)

    async def find_image(self, reference: str) -> Image | None:
        """Look for the image on the node."""
        return self.images.get(reference)

    async def export_image(self, reference: str) -> AsyncIterator[bytes]:
        """Give back the archive the image came in."""
        if reference not in self.images:
            raise NotFound(f"image '{reference}' is not on this node", image=reference)
        yield self.archives.get(reference, b"")

    async def import_image(self, reference: str, archive: AsyncIterator[bytes]) -> Image:
        """Keep the archive under the reference."""
        data = b"".join([chunk async for chunk in archive])
        if len(data) < 1024 or data[257:262] != b"ustar":
            raise RuntimeFailure(f"the archive for '{reference}' is not a tar file", image=reference)
        self.archives[reference] = data
        return self.add_image(reference)

    # --- containers ---------------------------------------------------------------------------------------

    async def create(self, spec: ContainerSpec) -> Container:
        """Create the container or return the one there is."""
        await self._enter("create", spec.name)
        held = self.containers.get(spec.name)
        if held is not None:
            if held.spec.digest() != spec.digest():
                raise Conflict(f"container '{spec.name}' exists with another spec", container=spec.name)
            return held.view()
        if spec.image not in self.images:
            raise ImageNotFound(f"image '{spec.image}' is not on this node", image=spec.image)
        held = self.containers[spec.name] = Held(spec)
        return held.view()

    async def init(self, name: str) -> Container:
        """Give the container a pid and a network namespace."""
        await self._enter("init", name)
        held = self._get(name)
        if not held.alive:
            held.pid = next(self._pids)
            held.state, held.exit_code, held.oom_killed = ContainerState.INITIALIZED, None, False
        return held.view()

    async def start_container(self, name: str) -> Container:
        """Run the command in a task."""
        await self._enter("start_container", name)
        held = self._get(name)
        if held.state is ContainerState.RUNNING:
            return held.view()
        if held.state is not ContainerState.INITIALIZED:
            raise RuntimeFailure(f"container '{name}' is {held.state}, not initialised", container=name)
        held.state, held.started_at, held.finished_at = ContainerState.RUNNING, time.time(), None
        command = (held.spec.command or ()) + (held.spec.args or ())
        held.process = Process(command or ("server",), held.spec.env)
        self._emit(RuntimeEventType.STARTED, name)
        held.task = asyncio.create_task(self._run(held, held.process), name=f"fake container {name}")
        return held.view()

    async def _run(self, held: Held, process: Process) -> None:
        async for stream, data in process.run(unknown=None):
            for text in data.decode(errors="replace").splitlines():
                held.print(LogLine(time.time(), stream, text))
        if held.process is process and held.alive:
            held.task = None
            self._ended(held, process.exit_code or 0, False)

    async def stop_container(self, name: str, *, grace: float) -> Container:
        """End the command: at once when it heeds SIGTERM, else after the grace."""
        await self._enter("stop_container", name)
        held = self.containers.get(name)
        if held is None:
            return Container(name, ContainerState.UNKNOWN)
        if held.alive:
            process = held.process
            if process is not None and process.ignores_term:
                await asyncio.sleep(grace)
                self.die(name, 137)
            else:
                self.die(name, 143 if process is None or process.on_term is None else process.on_term)
        return held.view()

    async def signal(self, name: str, signal: str) -> None:
        """Deliver SIGKILL and SIGTERM; other signals are only noted in ``calls``."""
        await self._enter("signal", f"{name} {signal}")
        held = self.containers.get(name)
        if held is None or not held.alive:
            raise NotFound(f"container '{name}' does not run", container=name)
        code = {"SIGKILL": 137, "KILL": 137, "SIGTERM": 143, "TERM": 143}.get(signal.upper())
        process = held.process
        if code == 143 and process is not None:
            if process.ignores_term:
                return
            code = code if process.on_term is None else process.on_term
        if code is not None:
            self.die(name, code)

    async def remove(self, name: str) -> None:
        """Kill and forget."""
        await self._enter("remove", name)
        held = self.containers.get(name)
        if held is None:
            return
        self.die(name)
        del self.containers[name]
        self._emit(RuntimeEventType.REMOVED, name)
        held.wake()

    async def inspect(self, name: str) -> Container | None:
        """Tell the container's state."""
        held = self.containers.get(name)
        return held.view() if held is not None else None

    async def list_containers(self) -> tuple[Container, ...]:
        """List all."""
        await self._enter("list_containers", "")
        return tuple(held.view() for held in self.containers.values())

    async def usage(self) -> tuple[Usage, ...]:
        """Give invented but steady figures."""
        running = [held for held in self.containers.values() if held.state is ContainerState.RUNNING]
        return tuple(Usage(held.spec.name, 0.1, 1 << 20) for held in running)

    # --- streams ------------------------------------------------------------------------------------------

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """Stream events from this call on."""
        return self._subscribers.subscribe()

    async def logs(
        self, name: str, *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> AsyncIterator[LogLine]:
        """Give what was printed, and what is being printed with ``follow``."""
        held = self._get(name)
        lines = [line for line in held.lines if since is None or line.at >= since]
        at = len(held.lines)
        for line in lines if tail is None else lines[max(0, len(lines) - tail) :]:
            yield line
        while follow and (held.alive or at < len(held.lines)):
            for line in held.lines[at:]:
                yield line
                at += 1
            if held.alive and at == len(held.lines):
                await held.changed.wait()

    async def exec(
        self, name: str, command: tuple[str, ...], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> ExecResult:
        """Ask the test's handler, else run the command in the fake's shell."""
        await self._enter("exec", name)
        held = self._running(name)
        answer = self.exec_handler(name, command) if self.exec_handler is not None else None
        if answer is not None:
            return answer
        process = Process(command, {**held.spec.env, **(env or {})})
        process.stdin.put_nowait(None)
        out: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        try:
            async with asyncio.timeout(timeout):
                async for stream, data in process.run():
                    out[stream] += data
        except TimeoutError:
            raise TimedOut(f"the command in '{name}' did not end within {timeout:g} s", container=name) from None
        return ExecResult(process.exit_code or 0, out["stdout"][:_OUTPUT_LIMIT], out["stderr"][:_OUTPUT_LIMIT])

    async def open_exec(
        self, name: str, command: tuple[str, ...], *, tty: bool = False, stdin: bool = False
    ) -> ExecSession:
        """Start the command in the fake's shell."""
        await self._enter("open_exec", name)
        process = Process(command, self._running(name).spec.env)
        if not stdin:
            process.stdin.put_nowait(None)
        return FakeExecSession(process, tty=tty)

    # --- inside -------------------------------------------------------------------------------------------

    def _get(self, name: str) -> Held:
        held = self.containers.get(name)
        if held is None:
            raise NotFound(f"there is no container '{name}'", container=name)
        return held

    def _running(self, name: str) -> Held:
        held = self._get(name)
        if held.state is not ContainerState.RUNNING:
            raise NotFound(f"container '{name}' does not run", container=name)
        return held

    def _emit(self, kind: RuntimeEventType, name: str, exit_code: int | None = None, oom: bool = False) -> None:
        self._subscribers.tell(RuntimeEvent(kind, name, exit_code, oom, time.time()))

    def _ended(self, held: Held, exit_code: int, oom: bool) -> None:
        held.ended(exit_code, oom)
        self._emit(RuntimeEventType.EXITED, held.spec.name, exit_code, oom)
