"""Draining: a node with ten instances, until all of them are elsewhere."""

from __future__ import annotations

import time

from bench.figures import Row, row
from bench.labs import Cluster, cluster, seconds_until

COUNT = 10
LIMIT = 120.0


def measure(runs: int) -> list[Row]:
    """Measure drains of nodes with ten small instances behind a virtual IP, by their update rules (one at a time)."""
    with cluster(3) as lab:
        lab.web(4)
        samples = []
        for number in range(runs):
            node = lab.nodes[1 + number % 2]
            wanted = lab.gather(node, COUNT)
            samples.append(_once(lab, node))
            lab.lab.katcall("node", "uncordon", node)
            lab.well(wanted)
    return [row(f"drain of a node with {COUNT} instances", samples, "s", note="maxSurge 1, so one after the other")]


def _once(lab: Cluster, node: str) -> float:
    there = len(lab.lab.on(node))
    assert there == COUNT, f"{there} instances on {node} instead of {COUNT}"
    began = time.monotonic()
    lab.lab.katcall("node", "drain", node, "--no-wait")
    done = seconds_until(
        lab, lambda: bool(lab.lab.client.get("nodes", node, "drain")["done"]), f"{node} is drained", began, LIMIT
    )
    assert lab.lab.on(node) == []
    return done
