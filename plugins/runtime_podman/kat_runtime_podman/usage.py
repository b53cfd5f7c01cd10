"""What containers use, read from their cgroups: a few small files each, on cgroup v1 and v2."""

from __future__ import annotations

from pathlib import Path

from kat_platform.interfaces.runtime import Usage

_ROOT = Path("/sys/fs/cgroup")


def cgroup_paths(text: str) -> dict[str, str]:
    """Read ``/proc/PID/cgroup``: controller to path; ``""`` is the unified hierarchy. Pure."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def fields(text: str) -> dict[str, int]:
    """Read a flat keyed file such as ``memory.stat``. Pure."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def oom_counter(pid: int) -> Path | None:
    """Find the file that counts OOM kills in a process's cgroup, as field ``oom_kill``; read it with :func:`fields`."""
    try:
        paths = cgroup_paths(Path(f"/proc/{pid}/cgroup").read_text())
    except (OSError, ValueError):
        return None
    if "memory" in paths:
        return _ROOT / f"memory{paths['memory']}" / "memory.oom_control"
    return _ROOT / paths.get("", "").lstrip("/") / "memory.events"


def measure(name: str, pid: int) -> Usage | None:
    """Measure one container by its first process; ``None`` when it is gone.

    Memory leaves out file cache that has not been used lately, as ``kubectl top`` and ``docker stats`` do.
    """
    try:
        paths = cgroup_paths(Path(f"/proc/{pid}/cgroup").read_text())
        if "memory" in paths and "cpuacct" in paths:
            memory, cpu = _ROOT / f"memory{paths['memory']}", _ROOT / f"cpuacct{paths['cpuacct']}"
            seconds = int((cpu / "cpuacct.usage").read_text()) / 1e9
            used = int((memory / "memory.usage_in_bytes").read_text())
            idle = fields((memory / "memory.stat").read_text()).get("total_inactive_file", 0)
        else:
            unified = _ROOT / paths[""].lstrip("/")
            seconds = fields((unified / "cpu.stat").read_text()).get("usage_usec", 0) / 1e6
            used = int((unified / "memory.current").read_text())
            idle = fields((unified / "memory.stat").read_text()).get("inactive_file", 0)
    except (OSError, ValueError, KeyError):
        return None
    return Usage(name, seconds, max(0, used - idle))
