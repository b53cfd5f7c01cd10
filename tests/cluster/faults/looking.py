"""Looking: what really runs, from the kernel; and requests that begin in whichever network namespace one wants."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NEWNET: Final = 0x40000000
REQUEST_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Running:
    """The first process of a container."""

    node: str
    workload: str
    instance: str
    pid: int
    start: int
    """When it was started, in ticks: with the pid it is that process and no other."""


class Kernel:
    """Finds the containers of one KAT namespace by what their processes have in their environment."""

    def __init__(self, namespace: str) -> None:
        self._mark = f"KAT_NAMESPACE={namespace}".encode()
        self._known: dict[tuple[int, int], Running | None] = {}

    def running(self) -> list[Running]:
        """List them; a zombie does not run any more."""
        known: dict[tuple[int, int], Running | None] = {}
        for name in os.listdir("/proc"):
            if not name.isdecimal():
                continue
            pid = int(name)
            try:
                state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                key = pid, int(fields[18])
                if state in "ZX":
                    continue
                known[key] = self._known[key] if self._known.get(key) else self._look(*key)
            except (OSError, ValueError, IndexError):
                continue
        self._known = known
        return sorted((found for found in known.values() if found), key=lambda r: (r.node, r.workload, r.instance))

    def _look(self, pid: int, start: int) -> Running | None:
        """Tell what a process is: a container's first one has number 1 in a process namespace of its own."""
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if self._mark not in words:
            return None
        inner = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid"))
        if inner.split()[-1] != "1" or len(inner.split()) < 3:
            return None
        given = dict(word.decode(errors="replace").partition("=")[::2] for word in words)
        return Running(given["KAT_NODE"], given["KAT_WORKLOAD"], given["KAT_INSTANCE"], pid, start)


def alive(running: Running) -> bool:
    """Tell whether it still runs."""
    try:
        state, *fields = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return state not in "ZX" and int(fields[18]) == running.start


def ask(space: str, address: str, port: int, path: str) -> str:
    """Get a page from within the network namespace at a path; raises ``OSError`` when that fails in any way.

    The thread is back in its own namespace before it connects: only the socket belongs to the other one, and lets go
    of it when it is closed.
    """
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(space, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            _enter(home)
            os.close(there)
    finally:
        os.close(home)
    with made:
        deadline = time.monotonic() + REQUEST_SECONDS
        made.settimeout(REQUEST_SECONDS)
        made.connect((address, port))
        made.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while chunk := made.recv(65536):
            answer += chunk
            made.settimeout(max(0.01, deadline - time.monotonic()))
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise OSError(f"answered {head[:80]!r}")
    return body.decode(errors="replace").strip()


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
