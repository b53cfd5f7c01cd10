"""Losses: a worker's power cut until all is ready elsewhere, and a cut-off one's return until nothing is twice."""

from __future__ import annotations

import time

from bench.figures import Row, row
from bench.labs import Cluster, cluster, seconds_until

INSTANCES = 9
LIMIT = 60.0


def measure_loss(runs: int) -> list[Row]:
    """Measure power cut → every instance ready on other nodes, with the default timeouts."""
    with cluster(4) as lab:
        lab.web(INSTANCES)
        samples, moved = [], []
        for number in range(runs):
            node = lab.nodes[1 + number % 3]
            lab.gather(node, 2)
            wanted = len(lab.lab.instances())
            moved.append(len(lab.lab.on(node)))
            began = time.monotonic()
            lab.power_off(node)
            samples.append(_replaced(lab, node, wanted, began))
            lab.start(node)
            lab.well(wanted)
    note = f"{min(moved)} to {max(moved)} instances on it, {len(lab.nodes)} nodes"
    return [row("node's power cut → replacements ready", samples, "s", aim="10, never above 20", note=note)]


def _replaced(lab: Cluster, node: str, wanted: int, began: float) -> float:
    def ready() -> bool:
        return sum(1 for i in lab.lab.instances() if i["ready"] and i["node"] != node) >= wanted

    return seconds_until(lab, ready, "everything is ready elsewhere", began, LIMIT)


def measure_return(runs: int) -> list[Row]:
    """Measure a cut-off node's return → no more processes of the service run than were asked for, by the kernel."""
    with cluster(3) as lab:
        lab.web(6)
        samples, doubled = [], []
        for number in range(runs):
            node = lab.nodes[1 + number % 2]
            lab.gather(node, 2)
            wanted = len(lab.lab.instances())
            lab.cut(node)
            _replaced(lab, node, wanted, time.monotonic())
            doubled.append(_running(lab) - wanted)
            began = time.monotonic()
            lab.heal(node)
            samples.append(
                seconds_until(lab, lambda w=wanted: _running(lab) <= w, "nothing is there twice", began, LIMIT)  # type: ignore[misc]
            )
            lab.well(wanted)
    note = f"{min(doubled)} to {max(doubled)} were there twice; counted from the kernel"
    return [row("cut-off node's return → nothing runs twice", samples, "s", note=note)]


def _running(lab: Cluster) -> int:
    return sum(len(lab.lab.served(node)) for node in lab.nodes)
