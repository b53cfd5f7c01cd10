"""Eviction: nodes that are called lost while they only have no processor time. There must be none."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.figures import Row, row
from bench.labs import Cluster, cluster

INSTANCES = 10


@contextmanager
def saturated() -> Iterator[int]:
    """Keep every core busy with one loop each, not niced; gives how many there are."""
    cores = os.cpu_count() or 1
    loops = [subprocess.Popen(("sh", "-c", "while :; do :; done")) for _ in range(cores)]
    try:
        yield cores
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(minutes: float) -> list[Row]:
    """Count the nodes that were called lost in some minutes on saturated cores; each counts every time."""
    with cluster(5, 3) as lab:
        lab.web(INSTANCES)
        before = counted(_events(lab))
        names = {item["name"] for item in lab.lab.instances()}
        with saturated() as cores:
            time.sleep(minutes * 60)
        lab.well(INSTANCES)
        told = counted(_events(lab)) - before
        moved = len(names - {item["name"] for item in lab.lab.instances()})
    wrongly = sum(told.values())
    note = ", ".join([f"{moved} instances replaced", *sorted(told.elements())])
    what = f"nodes wrongly called lost in {minutes:g} min, {cores} cores saturated"
    return [row(what, [float(wrongly)], "nodes", aim="0", note=note)]


def _events(lab: Cluster) -> list[dict[str, Any]]:
    return [item["event"] for item in lab.lab.client.get("events")["items"]]


def counted(events: Iterable[dict[str, Any]]) -> Counter[str]:
    """Count how often each node was called lost: the same event again is one entry with a higher count."""
    found: Counter[str] = Counter()
    for event in events:
        if event["reason"] == "NodeNotReady":
            found[event["objectName"]] += event["count"]
    return found
