"""Runs ``git`` with a deadline, without a terminal, and without what the agent's own environment may hold."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kat_platform.errors import HostNotReady, TimedOut

OUTPUT_LIMIT: Final = 4 * 1024 * 1024
_PASSED_ON: Final = ("PATH", "HOME", "SSH_AUTH_SOCK", "https_proxy", "http_proxy", "no_proxy", "SSL_CERT_FILE")


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended, and what it said."""

    code: int
    output: str
    errors: str


def environment(protocols: Sequence[str]) -> dict[str, str]:
    """Give the environment for git: it never asks a person, and speaks only the protocols allowed."""
    passed = {name: value for name in _PASSED_ON if (value := os.environ.get(name)) is not None}
    return passed | {
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_ALLOW_PROTOCOL": ":".join(protocols),
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=10",
    }


async def git(arguments: Sequence[str], *, protocols: Sequence[str], timeout: float) -> Finished:
    """Run git; raises ``HostNotReady`` when there is none and ``TimedOut``. Its children end with it in any case."""
    try:
        child = await asyncio.create_subprocess_exec(
            "git",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(protocols),
            start_new_session=True,  # so that its helpers (ssh, git-remote-https) can be ended together with it
        )
    except FileNotFoundError as error:
        raise HostNotReady("git is not installed", hint="install the package 'git'") from error
    try:
        async with asyncio.timeout(timeout):
            output, errors = await asyncio.gather(_read(child.stdout), _read(child.stderr))
            return Finished(await child.wait(), output, errors)
    except TimeoutError as error:
        raise TimedOut(f"git {arguments[0]} did not end within {timeout:g} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


async def _read(stream: asyncio.StreamReader | None) -> str:
    """Read to the end, keeping no more than the limit: what a server sends is its own choice."""
    assert stream is not None
    kept = bytearray()
    while chunk := await stream.read(65536):
        kept += chunk[: OUTPUT_LIMIT - len(kept)]
    return kept.decode("utf-8", "replace")
