"""Rest: what a node costs while nothing happens. Every process KAT needs is counted."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.figures import Row, row
from bench.services import until_ready
from tests.cluster.node import RealNode

TICK = os.sysconf("SC_CLK_TCK")


def own_processes(node: RealNode) -> dict[int, str]:
    """Give the processes KAT needs, by a short name; what runs inside the containers is the user's."""
    found = {}
    for pid, line in node.processes().items():
        name = short_name(line)
        if name and Path(f"/proc/{pid}").exists() and not in_container(pid):
            found[pid] = name
    return found


def short_name(line: str) -> str:
    """Name a process by its command line; empty when it is none of KAT's."""
    words = {"etcd --name": "etcd", "system service": "podman service", "conmon": "conmon", "kat": "agent"}
    name = next((short for mark, short in words.items() if mark in line), "")
    return "wireguard-go" if "wireguard-go" in line else name


def in_container(pid: int) -> bool:
    """Tell whether a process runs inside a container: in another process namespace than ours."""
    own, other = os.stat("/proc/self/ns/pid").st_ino, 0
    try:
        other = os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return True
    return own != other


def memory_of(pid: int) -> tuple[int, int]:
    """Give resident and proportional set size in KiB."""
    rss = pss = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            rss = int(line.split()[1])
        elif line.startswith("Pss:"):
            pss = int(line.split()[1])
    return rss, pss


def cpu_of(pid: int) -> float:
    """Give the seconds of CPU a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def written_by(pid: int) -> int:
    """Give the bytes a process has caused to be written to disk."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


def memory(node: RealNode, count: int) -> list[Row]:
    """Measure memory now, with ``count`` containers."""
    whole: dict[str, list[int]] = {}
    for pid, name in own_processes(node).items():
        rss, pss = memory_of(pid)
        sums = whole.setdefault(name, [0, 0])
        sums[0] += rss
        sums[1] += pss
    parts = ", ".join(f"{name} {rss // 1024}" for name, (rss, _) in sorted(whole.items(), key=lambda item: -item[1][0]))
    total = [sum(values[index] for values in whole.values()) / 1024 for index in (0, 1)]
    aim = "at most 220, aim 160" if count == 0 else ""
    return [
        row(f"memory at rest, {count} containers, RSS", [total[0]], "MiB", aim=aim, note=parts),
        row(f"memory at rest, {count} containers, PSS", [total[1]], "MiB"),
    ]


def idle(node: RealNode, seconds: float) -> list[Row]:
    """Measure CPU time and bytes written over a while in which nothing happens."""
    before = {pid: (name, cpu_of(pid), written_by(pid)) for pid, name in own_processes(node).items()}
    began = time.monotonic()
    time.sleep(seconds)
    span = time.monotonic() - began
    cpu: dict[str, float] = {}
    written: dict[str, int] = {}
    for pid, (name, spent, bytes_) in before.items():
        if Path(f"/proc/{pid}").exists():
            cpu[name] = cpu.get(name, 0) + (cpu_of(pid) - spent) / span * 100
            written[name] = written.get(name, 0) + written_by(pid) - bytes_
    share = ", ".join(f"{name} {value:.2f}" for name, value in sorted(cpu.items(), key=lambda item: -item[1]))
    by = ", ".join(f"{name} {value}" for name, value in written.items() if value) or "nobody"
    return [
        row("CPU at rest, 10 ready", [sum(cpu.values())], "% of a core", aim="at most 2", note=share),
        row(f"written to disk at rest in {span:.0f} s", [float(sum(written.values()))], "bytes", note=by),
    ]


def measure(node: RealNode, seconds: float) -> list[Row]:
    """Measure a fresh node's rest: call it before anything ran on it."""
    time.sleep(5)
    rows = memory(node, 0)
    until_ready(node, "rest", 10)
    time.sleep(5)
    return [*rows, *memory(node, 10), *idle(node, seconds)]
