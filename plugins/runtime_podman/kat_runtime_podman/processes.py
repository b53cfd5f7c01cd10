"""Processes of the host watched through pidfds: their end is known at once, without asking Podman or polling.

Podman's own event stream looks at its log four times a second and hears of an exit only after a clean-up process;
a pidfd tells within a millisecond, and also while the service is down.
"""

from __future__ import annotations

import asyncio
import os
import signal as signals
from collections.abc import Callable
from pathlib import Path

from kat_platform.errors import TimedOut


class Watched:
    """One process: ``ended`` is set when it is gone. Signals reach this process and never a later one of its number."""

    def __init__(self, pid: int, on_end: Callable[[], None] | None = None) -> None:
        """Raises ``ProcessLookupError`` when there is none."""
        self.pid = pid
        self.ended = asyncio.Event()
        self._on_end = on_end
        self._fd = os.pidfd_open(pid)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._gone)

    def _gone(self) -> None:
        self.close()
        self.ended.set()
        if self._on_end is not None:
            self._on_end()

    def signal(self, number: int) -> bool:
        """Send a signal; ``False`` when the process is gone."""
        if self._fd < 0:
            return False
        try:
            signals.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


def read_pid(path: Path) -> int | None:
    """Read a pid file; ``None`` when there is none or it is not filled yet."""
    try:
        return int(path.read_text().strip() or 0) or None
    except (OSError, ValueError):
        return None


def belongs(pid: int, container_id: str) -> bool:
    """Tell whether a process is (still) in the container's cgroup: pids are used anew."""
    try:
        return container_id in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


async def monitor_gone(pid_file: Path, container_id: str, *, timeout: float) -> None:
    """Wait until a container's conmon has ended, and with it the clean-up it starts when the container ends.

    conmon waits for its ``podman container cleanup``. That clean-up takes down a container that was initialised
    anew in the meantime (it holds it for a leftover), so nothing may be done with a container before it is over.
    """
    pid = read_pid(pid_file)
    if pid is None:
        return
    try:
        conmon = Watched(pid)
    except ProcessLookupError:
        return
    try:
        if container_id.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return  # an earlier conmon's number, by now somebody else's; a zombie's is empty
        async with asyncio.timeout(timeout):
            await conmon.ended.wait()
    except OSError:
        return
    except TimeoutError:
        raise TimedOut(f"podman's clean-up of container {container_id[:12]} goes on for {timeout:g} s") from None
    finally:
        conmon.close()
