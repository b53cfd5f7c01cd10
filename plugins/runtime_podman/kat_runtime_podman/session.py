"""Interactive commands inside containers: streams attached, with or without a terminal, all on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal as signals
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

from kat_runtime_podman import execute
from kat_runtime_podman.execute import Prepared

_CHUNK: Final = 1 << 16
_TTY_END: Final = b"\x04"


class Session:
    """An exec under way; the contract's ``ExecSession``."""

    def __init__(
        self,
        plan: Prepared,
        process: asyncio.subprocess.Process,
        stack: AsyncExitStack,
        *,
        terminal: int | None,
        stdin: bool,
    ) -> None:
        self._plan = plan
        self._process = process
        self._stack = stack
        self._terminal = terminal
        self._stdin = stdin
        self._tail = bytearray()
        self._code: int | None = None

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """Give chunks until the command ends and all it wrote is read."""
        chunks: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(16)
        feeder = asyncio.create_task(self._feed(chunks), name="exec output")
        try:
            while (chunk := await chunks.get()) is not None:
                yield chunk
        finally:
            feeder.cancel()
            await asyncio.wait({feeder})

    async def _feed(self, chunks: asyncio.Queue[tuple[str, bytes] | None]) -> None:
        """Read all streams; a child that keeps a pipe open beyond the command's end is not waited for."""
        if self._terminal is not None:
            reader, closer = await _read_terminal(self._terminal)
            streams = {"stdout": reader}
        else:
            assert self._process.stdout is not None
            assert self._process.stderr is not None
            streams, closer = {"stdout": self._process.stdout, "stderr": self._process.stderr}, None
        pumps = [
            asyncio.create_task(self._pump(name, reader, chunks), name=f"exec {name}")
            for name, reader in streams.items()
        ]
        try:
            await self._process.wait()
            idle = 0
            while idle < 2 and any(not pump.done() for pump in pumps):
                before = chunks.qsize()
                await asyncio.wait(pumps, timeout=0.25)
                idle = idle + 1 if chunks.qsize() == before else 0
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            if closer is not None:
                closer.close()
        await chunks.put(None)

    async def _pump(
        self, name: str, reader: asyncio.StreamReader, chunks: asyncio.Queue[tuple[str, bytes] | None]
    ) -> None:
        with contextlib.suppress(OSError):  # a terminal whose other side is closed reads as EIO
            while data := await reader.read(_CHUNK):
                if name == "stderr" or self._terminal is not None:
                    self._tail = (self._tail + data)[-4096:]
                await chunks.put((name, data))

    async def write(self, data: bytes) -> None:
        """Send bytes to the command; one that is gone takes them silently."""
        if not self._stdin:
            return
        with contextlib.suppress(OSError):
            if self._terminal is not None:
                await asyncio.to_thread(_write_all, self._terminal, data)
            elif self._process.stdin is not None:
                self._process.stdin.write(data)
                await self._process.stdin.drain()

    async def close_stdin(self) -> None:
        """Signal end of input; on a terminal that is the end-of-transmission character."""
        if self._terminal is not None:
            await self.write(_TTY_END)
        elif self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    async def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size and tell the OCI runtime, which passes it on."""
        if self._terminal is None or self._process.returncode is not None:
            return
        size = struct.pack("HHHH", min(max(rows, 1), 65535), min(max(columns, 1), 65535), 0, 0)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)
            self._process.send_signal(signals.SIGWINCH)

    async def wait(self) -> int:
        """Wait for the end."""
        code = await self._process.wait()
        if self._code is None:
            self._code = execute.exit_code(self._plan, code, bytes(self._tail))
        return self._code

    async def close(self) -> None:
        """Kill the command if it still runs, and let go of everything."""
        await execute.end(self._plan, self._process)
        await self.wait()
        await self._stack.aclose()
        terminal, self._terminal = self._terminal, None
        if terminal is not None:
            os.close(terminal)


async def begin(plan: Prepared, stack: AsyncExitStack, *, tty: bool, stdin: bool) -> Session:
    """Start the command; ``stack`` is closed with the session."""
    if not tty:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *plan.arguments,
            stdin=pipe if stdin else asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
            cwd="/",
        )
        return Session(plan, process, stack, terminal=None, stdin=stdin)
    terminal, inner = os.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *plan.arguments, stdin=inner, stdout=inner, stderr=inner, start_new_session=True, cwd="/"
        )
    except BaseException:
        os.close(terminal)
        raise
    finally:
        os.close(inner)
    return Session(plan, process, stack, terminal=terminal, stdin=stdin)


async def _read_terminal(terminal: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    copy = os.fdopen(os.dup(terminal), "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), copy)
    return reader, transport


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            select.select([], [descriptor], [], 1.0)
