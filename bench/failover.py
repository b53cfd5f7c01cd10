"""Failover: the leader's agent and store killed, until the next one commits; beside bare etcd with the same timers.

The old leader is frozen a moment before, and given some work meanwhile: that is what the next leader does first.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress

from bench.etcds import BareEtcds, timers
from bench.figures import Row, ratio, row
from bench.labs import Cluster, cluster, seconds_until
from kat_platform.cli.client import Client
from kat_platform.errors import KatError
from kat_platform.lab import processes
from kat_platform.lab.machine import Part
from kat_platform.quadlet.archive import pack_files
from tests.cluster.quadlets import document, workload

SPACE, IDLE = "quiet", "idle"
LIMIT = 30.0


def measure(runs: int) -> list[Row]:
    """Measure both in pairs."""
    with cluster(3, 3) as lab:
        files = workload(IDLE, SPACE, nodeSelector={"nowhere": "yes"}, replicas=1)
        files["namespace.kat"] = document("Namespace", SPACE)
        packed = pack_files({path: text.encode() for path, text in files.items()})
        lab.lab.client.request("POST", "/v1alpha1/apply", body=packed)
        flags = _same_timers(lab)
        with BareEtcds(flags) as bare:
            kat, plain = [], []
            for _ in range(runs):
                kat.append(_once(lab))
                plain.append(bare.fail_over())
    note = "agent and store killed, counted from its freezing; " + " ".join(flag.lstrip("-") for flag in flags)
    return [
        row("leader killed → next leader's first commit", kat, "s", aim="never above 6", note=note),
        row("bare etcd, leader killed → next put", plain, "s"),
        ratio("KAT / bare etcd, failover", kat, plain, aim="1.5"),
    ]


def _timers(lab: Cluster, node: str) -> list[str]:
    return timers(processes.command_of(lab.machine(node).pids(Part.STORE)[0]))


def _same_timers(lab: Cluster) -> list[str]:
    """Give the timers of the members; one that was the only one before has shorter ones until its next start."""
    flags = _timers(lab, lab.nodes[-1])
    for node in lab.nodes:
        if _timers(lab, node) != flags:
            lab.machine(node).stop(Part.AGENT)
            lab.start(node)
            lab.serving()
    assert all(_timers(lab, node) == flags for node in lab.nodes), "the members' timers differ"
    return flags


def _once(lab: Cluster) -> float:
    lab.serving()
    lab.well()
    old = str(lab.leader())
    others = lab.through(*(node for node in lab.nodes if node != old))
    wanted = len(_made(others)) + 1
    machine = lab.machine(old)
    agent, store = machine.pids(Part.AGENT), machine.pids(Part.STORE)
    assert agent, f"no agent runs on {old}"
    assert store, f"no store runs on {old}"
    try:
        # Counted from here: what is given to it may take long on a busy machine, and its leadership runs out meanwhile.
        began = time.monotonic()
        processes.send(agent, signal.SIGSTOP)
        others.post("namespaces", SPACE, "workloads", IDLE, "scale", body={"replicas": wanted})
        assert len(_made(others)) < wanted, "the frozen leader did the work"
        processes.send([*agent, *store], signal.SIGKILL)
        return seconds_until(lab, lambda: len(_made(others)) >= wanted, "the next leader acts", began, LIMIT)
    finally:
        for pid in (*agent, *store):
            processes.wait_gone(pid, 5.0)
        with suppress(KatError):  # what failed before is what is to be told
            lab.start(old)


def _made(client: Client) -> list[str]:
    return [item["name"] for item in client.get("namespaces", SPACE, "instances")["items"]]
