"""Overlay: container to container on two nodes, beside the same two nodes' own ends of the bare WireGuard link."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import stream
from bench.figures import Row, percentile, ratio, row
from bench.labs import Cluster, cluster
from kat_platform.model.node import NodeRecord
from tests.cluster import host

PORT = 8099
SECONDS = 3.0
TURNS = 4
REQUESTS = 1000
End = tuple[str, str]
"""Path of a network namespace, and an address in it."""


def measure(runs: int) -> list[Row]:
    """Measure one TCP stream and small requests, both ways of going taken in turn, and each as often first.

    Small requests take several short turns in each run: the machine's drift within a run is as large as what is sought.
    """
    with cluster(3) as lab:
        lab.web(3)
        for node in ("n2", "n3"):
            lab.gather(node, 1)
        paths = {"pod": [_pod(lab, n) for n in ("n2", "n3")], "wire": [_wire(lab, n) for n in ("n2", "n3")]}
        rates: dict[str, list[float]] = {name: [] for name in paths}
        middles: dict[str, list[float]] = {name: [] for name in paths}
        tails: dict[str, list[float]] = {name: [] for name in paths}
        for run in range(runs):
            took: dict[str, list[float]] = {name: [] for name in paths}
            for turn in range(TURNS):
                order = list(paths.items())
                for name, (source, target) in order if (run + turn) % 2 else reversed(order):
                    with _served(target):
                        if turn == 0:
                            rates[name].append(json.loads(_send(source, target, "push", SECONDS)) * 8 / 1e6)
                        took[name] += [each * 1e6 for each in json.loads(_send(source, target, "ask", REQUESTS))]
            for name, times in took.items():
                middles[name].append(percentile(times, 50))
                tails[name].append(percentile(times, 99))
    return [
        row("pod to pod, one TCP stream", rates["pod"], "Mbit/s", note="containers on two nodes"),
        row("bare WireGuard link, the same", rates["wire"], "Mbit/s", note="node to node in the overlay"),
        ratio("pod / bare link, throughput", rates["pod"], rates["wire"], aim="at least 0.9"),
        row(f"pod to pod, {stream.SMALL} bytes and back, median", middles["pod"], "µs"),
        row("bare WireGuard link, median", middles["wire"], "µs"),
        ratio("pod / bare link, latency", middles["pod"], middles["wire"], aim="at most 1.1"),
        row(f"pod to pod, {stream.SMALL} bytes and back, p99", tails["pod"], "µs"),
        row("bare WireGuard link, p99", tails["wire"], "µs"),
    ]


def _pod(lab: Cluster, node: str) -> End:
    """Give a container's end: the namespace of its web server, and the address KAT gave it."""
    instance = next(item for item in lab.lab.instances() if item["node"] == node and item["ready"])
    return f"/proc/{instance['status']['pid']}/ns/net", str(instance["status"]["address"])


def _wire(lab: Cluster, node: str) -> End:
    """Give a node's own end of its tunnel: nothing of a container is in between."""
    record = NodeRecord.model_validate(lab.lab.client.get("nodes", node)["record"])
    assert record.overlay_address is not None, f"{node} has no subnet"
    return lab.space(node), record.overlay_address


def _command(end: End, *words: str) -> tuple[str, ...]:
    # -I: what is sent costs the same whatever KAT is installed
    return ("nsenter", f"--net={end[0]}", "--", sys.executable, "-I", str(Path(stream.__file__)), *words)


@contextmanager
def _served(end: End) -> Iterator[None]:
    command = _command(end, "serve", end[1], str(PORT))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n", f"nobody listens on {end[1]}"
            yield
        finally:
            child.kill()


def _send(source: End, target: End, kind: str, amount: float) -> str:
    return host.run(*_command(source, kind, target[1], str(PORT), f"{amount:g}"), timeout=120)
