"""The tunnel where the kernel has no WireGuard: ``wireguard-go`` as a process of its own.

It carries the overlay, so it must outlive this agent: it runs in a session of its own, a restarted agent adopts it,
and only ``remove`` ends it. Who it is comes from the kernel, not from a pid file: the credentials of whoever listens
on its configuration socket. Protocol: https://www.wireguard.com/xplatform/.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import struct
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from kat_net_wireguard import link, uapi
from kat_net_wireguard.mesh import PeerChange, PeerState
from kat_net_wireguard.names import Names
from kat_platform.errors import Conflict, HostNotReady, NetworkFailure, TimedOut

SOCKETS = Path("/var/run/wireguard")
"""Where every implementation keeps its sockets, one per interface name (fixed by the protocol)."""
_START_SECONDS = 5.0
_ANSWER_SECONDS = 5.0
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Process:
    """The running ``wireguard-go``: its pid and a descriptor that becomes readable when it ends."""

    pid: int
    descriptor: int

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self.descriptor)

    def ended(self, timeout: float = 0.0) -> bool:
        """Tell whether it has ended, waiting up to ``timeout`` seconds, and reap it if it is our child."""
        poller = select.poll()
        poller.register(self.descriptor, select.POLLIN)
        over = bool(poller.poll(timeout * 1000))
        if over:
            with suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
        return over


def listener(path: Path) -> int | None:
    """Give the pid of whoever listens on a Unix socket, ``None`` when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])


class UserspaceTunnel:
    """A WireGuard interface carried by ``wireguard-go``."""

    kind = "userspace"

    def __init__(self, names: Names, command: str, log_file: Path) -> None:
        self._names = names
        self._command = command
        self._log_file = log_file
        self._socket = SOCKETS / f"{names.tunnel}.sock"
        self._process: Process | None = None

    async def open(self, private_key: bytes, listen_port: int) -> None:
        """Adopt the running ``wireguard-go`` or start one, and give it key and port."""
        await asyncio.to_thread(self._ensure_process)
        await self._ask(uapi.device_request(private_key, listen_port))

    def _ensure_process(self) -> None:
        if self._process is not None and not self._process.ended():
            return
        self._drop()
        pid = listener(self._socket)
        if pid is not None:
            if link.tunnel_exists(self._names):
                self._process = self._adopt(pid)
                _log.info("tunnel adopted", interface=self._names.tunnel, pid=pid)
                return
            self._kill(pid)  # it serves a network namespace that this agent has left
        self._process = self._spawn()

    def _adopt(self, pid: int) -> Process:
        program = Path(f"/proc/{pid}/comm").read_text().strip()
        if not program.startswith("wireguard"):
            raise Conflict(f"{self._socket} is held by {program} (pid {pid})", hint="end it or choose another node tag")
        return Process(pid, os.pidfd_open(pid))

    def _spawn(self) -> Process:
        SOCKETS.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LOG_LEVEL": "error"}
        with self._log_file.open("ab") as log:
            try:
                child = subprocess.Popen(
                    [self._command, "-f", self._names.tunnel],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                raise HostNotReady(
                    f"the kernel has no WireGuard and {self._command} cannot be run: {error.strerror}",
                    hint="install the package wireguard-go, or a kernel with the wireguard module",
                ) from error
        process = Process(child.pid, os.pidfd_open(child.pid))
        child.returncode = 0  # it is meant to outlive us: Popen shall neither warn nor wait; Process reaps it
        deadline = time.monotonic() + _START_SECONDS
        while listener(self._socket) != child.pid:
            if process.ended(0.02):
                raise NetworkFailure(f"{self._command} ended at once: {self._last_words()}")
            if time.monotonic() > deadline:
                signal.pidfd_send_signal(process.descriptor, signal.SIGKILL)
                process.ended(1.0)
                raise TimedOut(f"{self._command} did not open {self._socket} within {_START_SECONDS:g} s")
        _log.info("tunnel started", interface=self._names.tunnel, pid=child.pid)
        return process

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self._log_file.read_text(errors="replace").strip().splitlines()
            return " / ".join(lines[-3:])
        return "no output"

    async def peers(self) -> dict[bytes, PeerState]:
        """Read all peers from ``wireguard-go``."""
        return uapi.read_peers(await self._ask("get=1\n\n"))

    async def change(self, changes: tuple[PeerChange, ...]) -> None:
        """Send the changes in one request."""
        if changes:
            await self._ask(uapi.peers_request(changes))

    async def _ask(self, request: str) -> str:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._socket, limit=1 << 22)
                try:
                    writer.write(request.encode())
                    answer = (await reader.readuntil(b"\n\n")).decode()
                finally:
                    writer.close()
        except TimeoutError as error:
            raise TimedOut(f"{self._command} did not answer within {_ANSWER_SECONDS:g} s") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise NetworkFailure(f"{self._command} cannot be reached at {self._socket}: {error}") from error
        code = uapi.error_of(answer)
        if code:
            raise NetworkFailure(f"{self._command} refused a change: {os.strerror(-code)}", errno=-code)
        return answer

    async def died(self) -> None:
        """Wait until ``wireguard-go`` ends, however it does."""
        process = self._process
        if process is None:
            return
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(process.descriptor, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(process.descriptor)
        await asyncio.to_thread(process.ended, 1.0)

    async def close(self) -> None:
        """Let go of the process; it keeps carrying the overlay."""
        self._drop()

    def _drop(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    async def remove(self) -> None:
        """End ``wireguard-go``, whoever started it, and its socket."""
        pid = await asyncio.to_thread(listener, self._socket)
        if pid is not None:
            await asyncio.to_thread(self._kill, pid)
        self._drop()
        self._socket.unlink(missing_ok=True)
        self._log_file.unlink(missing_ok=True)

    def _kill(self, pid: int) -> None:
        process = self._adopt(pid)
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process.descriptor, number)
                if process.ended(2.0):
                    break
        finally:
            process.close()
