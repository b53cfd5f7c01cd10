"""Podman's command line, for what takes long or much memory: pulls, builds, loads, saves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from kat_platform.errors import TimedOut


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """The error in one line: Podman's last line that says ``Error``, or its last words."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        return (errors or lines or [f"exit code {self.exit_code}"])[-1][:1000]


async def run(arguments: Sequence[str], environment: Mapping[str, str], *, timeout: float) -> Finished:
    """Run ``podman ARGUMENTS`` to its end; killed on cancellation and at the deadline (``TimedOut``)."""
    async with started(arguments, environment) as process:
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate()
        except TimeoutError:
            raise TimedOut(f"'podman {arguments[0]}' did not end within {timeout:g} s") from None
    return Finished(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))


@asynccontextmanager
async def started(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int = asyncio.subprocess.DEVNULL,
    stderr: int = asyncio.subprocess.PIPE,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Have a ``podman ARGUMENTS`` process; one still running at the end of the block is killed."""
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", "--", "podman", *arguments),
        env=dict(environment),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
        cwd="/",
        limit=1 << 20,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
