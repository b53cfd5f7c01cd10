"""What a node has on the machine: processes, mounts, interfaces, rules, files. Read from the kernel, not from KAT."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def wait_for(look: Callable[[], T], what: str, seconds: float = 30.0, every: float = 0.05) -> T:
    """Look until the result is true and give it; fails with what was seen last."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            seen: Any = look()
        except (OSError, AssertionError) as error:
            seen, shown = None, f"{type(error).__name__}: {error}"
        else:
            shown = repr(seen)
        if seen:
            return seen  # type: ignore[no-any-return]
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}; last seen: {shown[:1500]}")
        time.sleep(every)


def run(*command: str, check: bool = True, timeout: float = 60, **more: Any) -> str:
    """Run a command and give what it prints; fails with its own words."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **more)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode} {done.stderr[-2000:]}"
    return done.stdout


def outcome(*command: str, timeout: float = 60, **more: Any) -> tuple[int, str]:
    """Run a command that may fail; gives its exit code and all that it says, its output first."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **more)
    return done.returncode, done.stdout + done.stderr


def alive(pid: int | None) -> bool:
    """Tell whether a process is there and no zombie."""
    if pid is None:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start_time(pid: int) -> int:
    """Give when a process was started, in ticks: with the pid it identifies the process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def command_line(pid: int) -> str:
    """Give a process's command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def all_pids() -> list[int]:
    """List every process."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children(pid: int) -> list[int]:
    """List the children of a process."""
    found = []
    for other in all_pids():
        try:
            if int(Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(other)
        except OSError:
            continue
    return found


def processes_of(space_inode: int, marks: Iterable[str]) -> dict[int, str]:
    """Give the processes in a network namespace, or whose command line has one of the marks, and their descendants."""
    parents: dict[int, int] = {}
    found: dict[int, str] = {}
    marks = list(marks)
    for pid in all_pids():
        line = command_line(pid)
        try:
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            inside = os.stat(f"/proc/{pid}/ns/net").st_ino == space_inode
        except OSError:
            continue
        if line and pid != os.getpid() and (inside or any(mark in line for mark in marks)):
            found[pid] = line
    for pid in parents:
        above = parents[pid]
        while above > 1 and above not in found and above in parents:
            above = parents[above]
        if above in found and pid not in found and alive(pid):
            found[pid] = command_line(pid)
    return found


def mounts_below(*folders: Path) -> list[str]:
    """List what is mounted at or below folders."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points for folder in folders if point == str(folder) or point.startswith(f"{folder}/")]


def control_groups(mark: str) -> list[str]:
    """List control groups with ``mark`` in their path."""
    return [str(path) for path in Path("/sys/fs/cgroup").glob("**/*") if mark in path.name and path.is_dir()]


def interfaces(path: str) -> set[str]:
    """List the interfaces of the namespace at ``path``."""
    found = json.loads(run("nsenter", f"--net={path}", "ip", "-j", "link"))
    return {link["ifname"] for link in found}


def rules(path: str) -> str:
    """Give the nftables rules of a namespace, without counters."""
    return run("nsenter", f"--net={path}", "nft", "-s", "list", "ruleset").strip()


def routes(path: str) -> set[str]:
    """List the routes and routing rules of a namespace."""
    shown = run("nsenter", f"--net={path}", "ip", "route", "show", "table", "all")
    shown += run("nsenter", f"--net={path}", "ip", "rule", "show")
    return {line.strip() for line in shown.splitlines() if line.strip()}


def end(pids: Iterable[int]) -> None:
    """Kill processes and wait until they are gone."""
    pids = list(pids)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
