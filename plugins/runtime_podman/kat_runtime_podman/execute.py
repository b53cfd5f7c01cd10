"""Commands inside running containers, run by the OCI runtime itself.

Podman's own exec starts conmon, the OCI runtime and a clean-up process, and takes three calls; for health checks
every few seconds that is too dear. ``runc exec`` (or ``crun exec``) alone joins the same namespaces and cgroup with
the process description Podman made for the container, and also works while Podman's service is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal as signals
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from kat_platform.errors import RuntimeFailure, TimedOut
from kat_platform.interfaces.runtime import ExecResult
from kat_runtime_podman.files import writing
from kat_runtime_podman.layout import Layout
from kat_runtime_podman.processes import belongs, read_pid

OUTPUT_LIMIT: Final = 65536
_DRAIN_SECONDS: Final = 0.5
"""How long output is still read after the end of a command whose children hold the pipe open."""
_MISSING: Final = ("executable file not found", "no such file or directory", "not found in $path")
_DENIED: Final = ("permission denied", "exec format error")


@dataclass(frozen=True, slots=True)
class Prepared:
    """An exec about to be: the OCI runtime's arguments, and where it writes the host pid of the command."""

    arguments: tuple[str, ...]
    pid_file: Path
    container_id: str

    def command_pid(self) -> int | None:
        """Give the command's host pid while it is in the container; ``None`` before and after."""
        pid = read_pid(self.pid_file)
        return pid if pid is not None and belongs(pid, self.container_id) else None

    @property
    def began(self) -> bool:
        """Whether the command itself was started."""
        return self.pid_file.exists()

    def kill(self) -> None:
        """Kill the command and what it started in its process group."""
        pid = self.command_pid()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signals.SIGKILL)
            else:
                os.kill(pid, signals.SIGKILL)


def process_description(
    bundle: Mapping[str, Any], command: Sequence[str], env: Mapping[str, str], *, tty: bool
) -> dict[str, Any]:
    """Make an exec's process (OCI runtime-spec, config.md, "Process") out of the container's own. Pure."""
    process = dict(bundle["process"])
    given = dict(pair.partition("=")[::2] for pair in process.get("env") or ())
    if tty:
        given.setdefault("TERM", "xterm")
    process["env"] = [f"{key}={value}" for key, value in {**given, **env}.items()]
    process["args"] = list(command)
    process["terminal"] = tty
    process.pop("consoleSize", None)
    return process


@asynccontextmanager
async def prepared(
    layout: Layout, oci_runtime: str, container_id: str, command: Sequence[str], env: Mapping[str, str], *, tty: bool
) -> AsyncIterator[Prepared]:
    """Write what the OCI runtime needs to run a command; taken away at the end of the block."""
    if not command or not command[0]:
        raise RuntimeFailure("there is no command to run", container=container_id[:12])
    try:
        bundle = json.loads((layout.container(container_id) / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise RuntimeFailure(f"the container's bundle cannot be read: {error}", container=container_id[:12]) from error
    stem = layout.process_files / token_hex(8)
    description, pid_file = stem.with_suffix(".json"), stem.with_suffix(".pid")
    arguments = (oci_runtime, "exec", "--process", str(description), "--pid-file", str(pid_file), container_id)
    try:
        with writing("the command", description, container=container_id[:12]):
            layout.process_files.mkdir(parents=True, exist_ok=True, mode=0o700)
            description.touch(mode=0o600)
            description.write_text(json.dumps(process_description(bundle, command, env, tty=tty)))
        yield Prepared(arguments, pid_file, container_id)
    finally:
        for path in (description, pid_file):
            with suppress(OSError):
                path.unlink()


async def run(plan: Prepared, *, timeout: float, name: str) -> ExecResult:
    """Run to the end; at the deadline or on cancellation the command is killed."""
    process = await asyncio.create_subprocess_exec(
        *plan.arguments,
        env=_environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        cwd="/",
    )
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = bytearray(), bytearray()
    readers = [
        asyncio.create_task(_collect(process.stdout, out), name=f"exec stdout {name}"),
        asyncio.create_task(_collect(process.stderr, err), name=f"exec stderr {name}"),
    ]
    try:
        async with asyncio.timeout(timeout):
            code = await process.wait()
            await asyncio.wait(readers, timeout=_DRAIN_SECONDS)
    except TimeoutError:
        raise TimedOut(f"the command in '{name}' did not end within {timeout:g} s", container=name) from None
    finally:
        await end(plan, process)
        for reader in readers:
            reader.cancel()
    return ExecResult(exit_code(plan, code, bytes(err)), bytes(out), bytes(err))


async def end(plan: Prepared, process: asyncio.subprocess.Process) -> None:
    """Kill the command and the OCI runtime if they still run."""
    if process.returncode is not None:
        return
    for _ in range(100):  # the pid file appears some milliseconds after the start
        plan.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.02)
            return
        if plan.began:
            break
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    plan.kill()
    await process.wait()


def exit_code(plan: Prepared, code: int, stderr: bytes) -> int:
    """Tell the command's own code from the OCI runtime's failure to start it: 127 and 126, as a shell has them."""
    if plan.began:
        return code if code >= 0 else 128 - code
    text = stderr.decode(errors="replace").lower()
    if any(mark in text for mark in _MISSING):
        return 127
    if any(mark in text for mark in _DENIED):
        return 126
    return 125 if code in (0, 255) else abs(code)


async def _collect(stream: asyncio.StreamReader, into: bytearray) -> None:
    """Read to the end, keeping the first 64 KiB."""
    while chunk := await stream.read(1 << 16):
        room = OUTPUT_LIMIT - len(into)
        if room > 0:
            into += chunk[:room]


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")}
