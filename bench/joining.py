"""Joining: ``kat-agent join`` on a new machine until ``katcall node ls`` says Ready, and a whole lab until it is up."""

from __future__ import annotations

import time

from bench.figures import Row, row
from bench.labs import Cluster, cluster, seconds_until
from kat_platform.cli.client import at
from kat_platform.lab.machine import Part

LIMIT = 60.0


def measure(runs: int) -> list[Row]:
    """Measure join → Ready of a machine that was reset before; the packages KAT needs are there."""
    with cluster(3) as lab:
        samples = [_once(lab, lab.nodes[1 + number % 2]) for number in range(runs)]
    return [row("kat-agent join → Ready", samples, "s", aim="under 10", note="worker, three nodes")]


def _once(lab: Cluster, node: str) -> float:
    machine = lab.machine(node)
    data = str(lab.home.data(machine.node))
    machine.stop(Part.AGENT)
    machine.run_agent("reset", "--yes", "--delete-volumes", "--data-path", data)
    lab.lab.client.request("DELETE", at("nodes", node), params={"force": True})
    token = lab.lab.client.post("join-tokens", body={"role": "worker", "uses": 1, "ttlSeconds": 600})["token"]
    server = f"{machine.lab.nodes[0].address}:{lab.lab.client.context.servers[0].rpartition(':')[2]}"
    began = time.monotonic()
    machine.run_agent("join", server, "--token", token, "--name", node, "--data-path", data)
    machine.start()
    return seconds_until(lab, lambda: node in lab.lab.ready_nodes(), f"{node} is ready", began, LIMIT)


def measure_up(runs: int) -> list[Row]:
    """Measure a whole lab of five nodes, three of them control plane, and its end."""
    up, down = [], []
    for _ in range(runs):
        with cluster(5, 3) as lab:
            up.append(lab.up_seconds)
            began = time.monotonic()
            lab.lab.lab("down")
            down.append(time.monotonic() - began)
    what = "katcall lab up, five nodes, three of them control plane"
    return [row(what, up, "s", aim="under 60"), row("katcall lab down, the same", down, "s")]
