"""Steady: what a cluster of five with 30 instances costs while nothing happens, by kind of node, and what it writes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from bench import changes
from bench.figures import Row, row
from bench.labs import Cluster, cluster
from bench.rest import cpu_of, in_container, memory_of, short_name, written_by
from kat_platform.lab import processes
from kat_platform.lab.machine import Part

INSTANCES = 30
WHAT = f"at rest, 5 nodes, {INSTANCES} instances"
QUIET = 20.0
"""Seconds until what the start has set off has ended."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a node has used so far: CPU seconds, KiB of memory, bytes written by etcd and by the rest, bytes of WAL."""

    cpu: float
    rss: int
    pss: int
    etcd: int
    others: int
    wal: int


def measure(seconds: float) -> list[Row]:
    """Measure for ``seconds``, at least 60 for what is extrapolated to an hour to mean something."""
    with cluster(5, 3) as lab:
        lab.web(INSTANCES)
        time.sleep(QUIET)
        lab.until(lambda: lab.leader() is not None, "there is a leader", 30)
        leader = str(lab.leader())
        store = lab.machine(leader).pids(Part.STORE)[0]
        moment = changes.mark(store)
        before = {node: _use(lab, node) for node in lab.nodes}
        began = time.monotonic()
        time.sleep(seconds)
        span = time.monotonic() - began
        after = {node: _use(lab, node) for node in lab.nodes}
        now, keys = changes.mark(store), changes.since(store, moment)
        assert lab.leader() == leader, "the leader changed meanwhile: that is no steady state"
    kinds = {node: kind_of(number, node == leader) for number, node in enumerate(lab.nodes, 1)}
    note = ", ".join(f"{kind} {count}" for kind, count in keys.most_common()) or "no key was put"
    made = [row(f"{WHAT}: changes in the store", [(now.revision - moment.revision) * 3600 / span], "per h", note=note)]
    made.append(row(f"{WHAT}: entries of etcd's log", [(now.entries - moment.entries) * 3600 / span], "per h"))
    return [*made, *rows(before, after, kinds, span)]


def kind_of(number: int, leads: bool) -> str:
    """Name the kind of a node of the lab: the first three are control plane."""
    return "leader" if leads else "control plane" if number <= 3 else "worker"


def rows(before: dict[str, Use], after: dict[str, Use], kinds: dict[str, str], span: float) -> list[Row]:
    """Make the rows of two looks that are ``span`` seconds apart."""
    made = []
    control = [node for node, kind in kinds.items() if kind != "worker"]
    hour = 3600 / span
    etcd = [(after[node].etcd - before[node].etcd) * hour for node in control]
    wal = [(after[node].wal - before[node].wal) * hour for node in control]
    others = [float(after[node].others - before[node].others) * hour for node in kinds]
    note = f"seen for {span:.0f} s"
    made.append(row(f"{WHAT}: etcd's disk writes, each", etcd, "bytes/h", aim="0 but for changes", note=note))
    made.append(row(f"{WHAT}: etcd's WAL grows, each", wal, "bytes/h", aim="0 but for changes", note=note))
    made.append(row(f"{WHAT}: disk writes of all else, each node", others, "bytes/h", note=note))
    for kind in dict.fromkeys(("leader", "control plane", "worker")):
        nodes = [node for node in kinds if kinds[node] == kind]
        cpu = [(after[node].cpu - before[node].cpu) / span * 100 for node in nodes]
        made.append(row(f"{WHAT}: CPU, {kind}", cpu, "% of a core"))
        made.append(row(f"{WHAT}: RSS, {kind}", [after[node].rss / 1024 for node in nodes], "MiB"))
        made.append(row(f"{WHAT}: PSS, {kind}", [after[node].pss / 1024 for node in nodes], "MiB"))
    return made


def _use(lab: Cluster, node: str) -> Use:
    """Look at every process KAT needs on a node; what runs inside the containers is the user's."""
    machine = lab.machine(node)
    cpu, rss, pss, etcd, others = 0.0, 0, 0, 0, 0
    for pid in processes.of_namespace(machine.namespace):
        name = short_name(" ".join(processes.command_of(pid)))
        if not name or in_container(pid):
            continue
        cpu += cpu_of(pid)
        resident, proportional = memory_of(pid)
        rss, pss = rss + resident, pss + proportional
        if name == "etcd":
            etcd += written_by(pid)
        else:
            others += written_by(pid)
    return Use(cpu, rss, pss, etcd, others, wal_bytes(lab.home.data(machine.node)))


def wal_bytes(folder: Path) -> int:
    """Give how much is in the write-ahead logs below a folder: their files are made long before, full of zeros."""
    return sum(len(path.read_bytes().rstrip(b"\0")) for path in folder.rglob("*.wal"))
