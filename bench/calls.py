"""Calls: the API's own speed, over TLS, on the real store."""

from __future__ import annotations

import statistics
import threading
import time

from bench.figures import Row, row
from tests.cluster.node import RealNode
from tests.cluster.quadlets import workload

CLIENTS = 4


def measure(node: RealNode, runs: int, seconds: float = 3.0) -> list[Row]:
    """Measure object reads per second over kept connections, and applies one after the other."""
    node.apply(workload("calls", "default", replicas=0))
    rates = [_reads(node, seconds) for _ in range(runs)]
    puts: list[float] = []
    for number in range(100):
        files = workload("calls", "default", replicas=0, priority=number)
        began = time.perf_counter()
        node.apply(files)
        puts.append((time.perf_counter() - began) * 1000)
    puts.sort()
    return [
        row(f"API: GET of a workload, {CLIENTS} clients", rates, "per s"),
        row("API: PUT, median", [statistics.median(puts)], "ms"),
        row("API: PUT, p99", [puts[98]], "ms"),
    ]


def _reads(node: RealNode, seconds: float) -> float:
    counts = [0] * CLIENTS
    end = time.monotonic() + seconds

    def read(index: int) -> None:
        api = node.caller()
        while time.monotonic() < end:
            api.get("/namespaces/default/workloads/calls")
            counts[index] += 1
        api.close()

    threads = [threading.Thread(target=read, args=(index,)) for index in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds
