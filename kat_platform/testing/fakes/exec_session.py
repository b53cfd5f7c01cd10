"""An exec session of the fake runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from kat_platform.testing.fakes.shell import Process


class FakeExecSession:
    """A command of the fake's shell with its streams attached; a terminal echoes nothing."""

    def __init__(self, process: Process, *, tty: bool = False) -> None:
        self._process = process
        self._tty = tty
        self._chunks: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(), name="fake exec")
        self.size: tuple[int, int] | None = None
        """Rows and columns last asked for."""

    async def _run(self) -> None:
        try:
            async for stream, data in self._process.run():
                shown = data.replace(b"\n", b"\r\n") if self._tty else data
                self._chunks.put_nowait(("stdout" if self._tty else stream, shown))
        finally:
            self._chunks.put_nowait(None)

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """Give the output until the end."""
        while (chunk := await self._chunks.get()) is not None:
            yield chunk

    async def write(self, data: bytes) -> None:
        """Feed the command's standard input; with a terminal, ``^D`` ends it."""
        self._process.stdin.put_nowait(None if self._tty and data == b"\x04" else data)

    async def close_stdin(self) -> None:
        """Signal end of input."""
        self._process.stdin.put_nowait(None)

    async def resize(self, rows: int, columns: int) -> None:
        """Note the size."""
        if self._tty:
            self.size = (rows, columns)

    async def wait(self) -> int:
        """Wait for the end."""
        await asyncio.wait({self._task})
        return 137 if self._process.exit_code is None else self._process.exit_code

    async def close(self) -> None:
        """Kill the command."""
        self._task.cancel()
        await asyncio.wait({self._task})
