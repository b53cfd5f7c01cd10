"""Podman's API service as a supervised child: containers live on whatever happens to it.

Each start has a socket of its own, so that an old service on its way out cannot take the new one's away. The child
gets SIGTERM from the kernel when the agent dies (``setpriv --pdeathsig``), and a session of its own, so that no
terminal's or supervisor's signal to the agent's group reaches it. conmon leaves it by forking twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from pathlib import Path
from typing import Final

import structlog

from kat_platform.errors import HostNotReady, TimedOut
from kat_runtime_podman.layout import Layout

_LOG: Final = structlog.get_logger(__name__)
_BACKOFF_FIRST: Final = 0.1
_BACKOFF_LAST: Final = 10.0
_STEADY_SECONDS: Final = 30.0
"""A service that lived this long is started again at once when it dies."""


class PodmanService:
    """Keeps ``podman system service`` running; ``socket`` is where it answers now."""

    def __init__(self, layout: Layout, environment: dict[str, str]) -> None:
        self._layout = layout
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self.answers = asyncio.Event()
        """Set while the service answers."""
        self._serial = 0
        self._said: deque[str] = deque(maxlen=20)
        self.restarts = 0

    @property
    def socket(self) -> Path:
        """Path of the current socket."""
        return self._layout.sockets / f"{os.getpid()}-{self._serial}.sock"

    @property
    def pid(self) -> int | None:
        """Process id of the service while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.answers.is_set()

    def last_words(self) -> str:
        """Give the end of what the service wrote to its log."""
        return " / ".join(self._said)[-800:]

    async def wait_ready(self, seconds: float) -> None:
        """Wait until it answers; raises ``HostNotReady`` with Podman's own words."""
        try:
            async with asyncio.timeout(seconds):
                await self.answers.wait()
        except TimeoutError:
            raise HostNotReady(
                f"podman's service did not come up within {seconds:g} s: {self.last_words() or 'it says nothing'}",
                hint="try 'kat-agent check'",
            ) from None

    async def run(self) -> None:
        """Start it, and again whenever it ends, until cancelled; then end it."""
        pause = _BACKOFF_FIRST
        while True:
            began = time.monotonic()
            try:
                await self._one_life()
            finally:
                self.answers.clear()
            lived = time.monotonic() - began
            pause = _BACKOFF_FIRST if lived >= _STEADY_SECONDS else min(pause * 2, _BACKOFF_LAST)
            self.restarts += 1
            _LOG.warning("podman-service-ended", lived_seconds=round(lived, 1), said=self.last_words())
            await asyncio.sleep(0 if lived >= _STEADY_SECONDS else pause)

    async def _one_life(self) -> None:
        self._serial += 1
        for stale in self._layout.sockets.glob("*.sock"):
            stale.unlink(missing_ok=True)
        process = self._process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "TERM", "--", "podman", "--log-level", "error", "system", "service"),
            *("--time", "0", f"unix://{self.socket}"),
            env=self._environment | {"GOGC": "50"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(process), name="podman service log")
                waiter = group.create_task(self._answering(), name="podman service start")
                await process.wait()
                waiter.cancel()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(reader), 0.2)
                reader.cancel()
        finally:
            await self._end(process)

    async def _answering(self) -> None:
        """Wait for the socket to accept; it exists slightly earlier."""
        while True:
            try:
                _, writer = await asyncio.open_unix_connection(str(self.socket))
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            self.answers.set()
            return

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            text = line.decode(errors="replace").strip()
            self._said.append(text[:400])
            _LOG.info("podman-service", said=text[:400])

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        for kind, grace in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
            if process.returncode is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(kind)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), grace)
        if process.returncode is None:
            raise TimedOut("podman's service does not end, not even by SIGKILL")
