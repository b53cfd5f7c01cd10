"""The containers that have a process now: each watched from ``init`` to its end, when its exit code is found."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from kat_platform.errors import KatError
from kat_platform.interfaces.runtime import Container
from kat_runtime_podman import usage
from kat_runtime_podman.files import writing
from kat_runtime_podman.layout import Layout
from kat_runtime_podman.processes import Watched, belongs, monitor_gone, read_pid

_LOG: Final = structlog.get_logger(__name__)
_KILLED: Final = 137
_UNKNOWN: Final = -1
_EXIT_FILE_SECONDS: Final = 0.5
"""How long conmon may take to write the exit code; it takes about one millisecond."""


@dataclass(slots=True, eq=False)
class Live:
    """One container with a process."""

    name: str
    id: str
    pid: int
    view: Container
    stop_signal: int
    started: bool
    process: Watched | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process is gone and ``exit_code`` is known."""
    exit_code: int = -1
    oom_killed: bool = False
    oom_counter: Path | None = None
    told_code: int | None = None
    """Exit code as Podman's event stream told it."""


class Lives:
    """Watches live containers and tells of each end once."""

    def __init__(
        self,
        layout: Layout,
        ended: Callable[[Live], None],
        ask: Callable[[str], Awaitable[Container | None]],
    ) -> None:
        self._layout = layout
        self._ended = ended
        self._ask = ask
        self._by_name: dict[str, Live] = {}
        self._endings: set[asyncio.Task[None]] = set()

    def get(self, name: str) -> Live | None:
        """Give a container that has a process."""
        return self._by_name.get(name)

    def all(self) -> tuple[Live, ...]:
        """Give all containers that have a process."""
        return tuple(self._by_name.values())

    def watch(self, live: Live) -> None:
        """Watch from now on; a process that is gone already is an end like any other."""
        old = self._by_name.pop(live.name, None)
        if old is not None and old.process is not None:
            old.process.close()
        self._by_name[live.name] = live
        try:
            live.process = Watched(live.pid, lambda: self._gone(live))
        except ProcessLookupError:
            self._gone(live)
            return
        if not belongs(live.pid, live.id):
            live.process.close()
            self._gone(live)
        live.oom_counter = usage.oom_counter(live.pid)

    def pid_now(self, container_id: str) -> int | None:
        """Read which pid Podman's files name for a container."""
        return read_pid(self._layout.container_run(container_id) / "pidfile")

    async def settled(self, container_id: str, *, timeout: float) -> None:
        """Wait until the clean-up of a container's last run is over."""
        await monitor_gone(self._layout.container_run(container_id) / "conmon.pid", container_id, timeout=timeout)

    def close(self) -> None:
        """Stop watching; containers are left alone."""
        for live in self._by_name.values():
            if live.process is not None:
                live.process.close()
        self._by_name.clear()
        for task in self._endings:
            task.cancel()

    def _gone(self, live: Live) -> None:
        task = asyncio.get_running_loop().create_task(self._find_exit_code(live), name=f"exit of {live.name}")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _find_exit_code(self, live: Live) -> None:
        self._note_oom(live)
        code = await self._exit_file(live)
        if code is None:
            code = await self._exit_by_asking(live)
        live.exit_code = code
        live.oom_killed = live.oom_killed or (code == _KILLED and self._oom_file(live.id).exists())
        if self._by_name.get(live.name) is live:
            del self._by_name[live.name]
        live.over.set()
        self._ended(live)

    def _oom_file(self, container_id: str) -> Path:
        return self._layout.container(container_id) / "oom"

    def _note_oom(self, live: Live) -> None:
        """Leave the empty file ``oom`` in the bundle by which Podman knows of an OOM kill.

        conmon should do that, but on kernels whose cgroup v1 has no event notification it never hears of one. The
        cgroup, and its counter, last until the clean-up some 50 ms from now.
        """
        if live.oom_counter is None:
            return
        with contextlib.suppress(OSError, ValueError):
            if usage.fields(live.oom_counter.read_text()).get("oom_kill", 0) > 0:
                self._oom_file(live.id).touch(mode=0o600)

    async def _exit_file(self, live: Live) -> int | None:
        """Read the file conmon leaves; a ``podman rm`` by somebody else may take it away first."""
        path = self._layout.exits / live.id
        until = time.monotonic() + _EXIT_FILE_SECONDS
        pause = 0.0005
        while time.monotonic() < until:
            try:
                return int(path.read_text())
            except (OSError, ValueError):
                if live.told_code is not None:
                    return live.told_code
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.05)
        return None

    async def _exit_by_asking(self, live: Live) -> int:
        """Ask Podman, when conmon left no file: it was killed too, or the clean-up took the file already."""
        try:
            await self.settled(live.id, timeout=10)
            found = await self._ask(live.name)
        except KatError as error:
            _LOG.warning("exit-code-unknown", container=live.name, error=str(error))
            return _UNKNOWN
        if found is not None and found.pid == live.pid:
            found = await self._told_podman(live)
        if found is None or found.exit_code is None:
            return _UNKNOWN
        live.oom_killed = found.oom_killed
        return found.exit_code

    async def _told_podman(self, live: Live) -> Container | None:
        """Leave the file conmon could not: without it Podman takes the container for running for ever."""
        path = self._layout.exits / live.id
        with writing("the exit code", path, container=live.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(_UNKNOWN))
        _LOG.warning("monitor-gone", container=live.name, exit_code="unknown")
        return await self._ask(live.name)
