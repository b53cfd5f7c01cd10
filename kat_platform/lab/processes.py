"""Processes: everything that runs on one machine of a lab, told apart by its network namespace."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

NETNS: Final = Path("/run/netns")


def of_namespace(namespace: str) -> list[int]:
    """List the processes in a network namespace and all that descend from them (containers have namespaces of their
    own, but the process that keeps each of them is in the machine's).
    """
    try:
        wanted = (NETNS / namespace).stat().st_ino
    except FileNotFoundError:
        return []
    parents: dict[int, int] = {}
    found: set[int] = set()
    for pid in _all():
        with suppress(OSError, ValueError, IndexError):
            parents[pid] = parent_of(pid)
            if os.stat(f"/proc/{pid}/ns/net").st_ino == wanted:
                found.add(pid)
    found.discard(os.getpid())
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found - {os.getpid()}
        grown = bool(more)
        found |= more
    return sorted(found)


def _all() -> Iterable[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())


def parent_of(pid: int) -> int:
    """Give a process's parent; raises ``OSError`` when it has gone."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def state_of(pid: int) -> str:
    """Give a process's state as one letter (proc(5)): ``T`` is stopped, ``Z`` ended; empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def command_of(pid: int) -> list[str]:
    """Give a process's command line; empty when it has gone."""
    try:
        return [
            word.decode(errors="replace") for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if word
        ]
    except OSError:
        return []


def running(pid: int) -> bool:
    """Tell whether a process has not ended yet."""
    return state_of(pid) not in ("", "Z", "X")


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each; those that have gone are no error."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def end_all(namespace: str, *, timeout: float = 10.0) -> list[int]:
    """Kill every process of a machine, as a power cut does; gives those that would not go. ``timeout`` in seconds."""
    deadline = time.monotonic() + timeout
    left = of_namespace(namespace)
    while left and time.monotonic() < deadline:
        send(left, signal.SIGKILL)
        time.sleep(0.05)
        left = [pid for pid in of_namespace(namespace) if running(pid)]
    return left


def wait_gone(pid: int, timeout: float) -> bool:
    """Wait until a process has ended; tells whether it has. Reaps it when it is our own child."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if not running(pid):
            return True
        time.sleep(0.03)
    return False
