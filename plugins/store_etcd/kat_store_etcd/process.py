"""etcd's process: started so that it cannot outlive the agent, and found again if one did all the same.

The child dies with the agent by the kernel's parent-death signal, set by ``setpriv`` before etcd takes its place
(doing it in Python between fork and exec would not be safe beside gRPC's threads). A store without an agent serves
nobody, etcd's log makes a sudden end harmless, and no container depends on it; adopting a left-over instead would
leave a child that cannot be waited for and does not die with its second parent. The signal is SIGTERM: a leader
among several members hands over before it goes. A left-over that would not end, or one started without ``setpriv``,
is found in /proc by its data folder and ended at the next start, before a second etcd touches the data.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

TAIL_LINES = 40
STOP_SECONDS = 5.0
_LONGEST_LINE = 2000


class EtcdProcess:
    """A running etcd; ``tail`` holds the last lines it wrote."""

    def __init__(self, process: asyncio.subprocess.Process, tail: deque[str]) -> None:
        self.pid = process.pid
        self.tail = tail
        self._process = process
        self._reader = asyncio.create_task(self._read(), name=f"log of etcd {process.pid}")

    @classmethod
    async def spawn(cls, argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> EtcdProcess:
        """Start etcd in a session of its own, so that a Ctrl-C meant for the agent does not reach it first."""
        setpriv = shutil.which("setpriv")
        leash = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
        process = await asyncio.create_subprocess_exec(
            *leash,
            *argv,
            cwd=folder,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=1024 * 1024,
        )
        return cls(process, deque(maxlen=TAIL_LINES))

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet, as far as is known."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait for the end of the process and of its output; gives the exit code, negative for a signal."""
        code = await self._process.wait()
        await self._reader
        return code

    async def stop(self) -> None:
        """End the process: asked first, then made to."""
        for number, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            if not self.running:
                break
            try:
                self._process.send_signal(number)
                await asyncio.wait_for(self._process.wait(), patience)
            except ProcessLookupError:
                break
            except TimeoutError:
                log.warning("etcd-does-not-stop", pid=self.pid, signal=number.name)
        await asyncio.wait({self._reader}, timeout=1.0)
        self._reader.cancel()

    async def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line longer than the buffer, which is dropped
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()[:_LONGEST_LINE]
            self.tail.append(text)
            log.debug("etcd", line=text)


def left_over(data_dir: Path, binary: str, proc: Path = Path("/proc")) -> tuple[int, ...]:
    """Find every etcd that works on this data folder, by program and command line."""
    wanted, program = f"--data-dir={data_dir}".encode(), os.path.basename(binary).encode()
    found = []
    for folder in proc.iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # gone meanwhile
        # setpriv may not have made way for etcd yet: the program is then among the first few words
        programs = {os.path.basename(word) for word in words[:4] if not word.startswith(b"-")}
        if wanted in words[1:] and program in programs:
            found.append(int(folder.name))
    return tuple(sorted(found))


async def end_left_over(data_dir: Path, binary: str) -> int:
    """End every left-over etcd of this data folder and wait until it is gone; gives how many there were."""
    pids = left_over(data_dir, binary)
    for pid in pids:
        log.warning("etcd-left-over", pid=pid, data_dir=str(data_dir))
        try:
            handle = os.pidfd_open(pid)  # so that no stranger who got the number meanwhile is hit
        except ProcessLookupError:
            continue
        try:
            for number, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
                if pid not in left_over(data_dir, binary):
                    break
                signal.pidfd_send_signal(handle, number)
                if await _gone(pid, data_dir, binary, patience):
                    break
        except ProcessLookupError:
            continue
        finally:
            os.close(handle)
    return len(pids)


async def _gone(pid: int, data_dir: Path, binary: str, patience: float) -> bool:
    for _ in range(int(patience / 0.05)):
        if pid not in left_over(data_dir, binary):
            return True
        await asyncio.sleep(0.05)
    return False
