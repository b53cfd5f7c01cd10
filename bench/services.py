"""Services: from ``apply`` to everything ready, and from a killed container to a running one."""

from __future__ import annotations

import os
import signal
import time

from bench.bare import BarePodman
from bench.figures import Row, ratio, row
from tests.cluster.client import fetch
from tests.cluster.node import DOMAIN, RealNode
from tests.cluster.quadlets import web

SIZES = (1, 10, 20, 30)
EVERY = 0.01
CHECK = {"http": {"path": "/healthz", "port": 8080}, "periodSeconds": 2}


def until_ready(node: RealNode, name: str, count: int) -> float:
    """Apply a service and give the seconds until all is ready, its name resolves and its virtual IP answers."""
    began = time.perf_counter()
    node.apply(web(name, "default", replicas=count, check=CHECK))
    while node.workload("default", name)["summary"]["ready"] < count:
        time.sleep(EVERY)
    address = node.virtual_ip("default", name)
    while node.dig("+short", f"{name}.default.{DOMAIN}").strip() != address:
        time.sleep(EVERY)
    while fetch(node.space, address, 80)[0] != 200:
        time.sleep(EVERY)
    return time.perf_counter() - began


def delete(node: RealNode, name: str) -> None:
    """Delete a service and wait until nothing of it is left."""
    node.api.need("DELETE", f"/namespaces/default/workloads/{name}")
    while node.api.ask("GET", f"/namespaces/default/workloads/{name}").status != 404:
        time.sleep(0.05)


def measure_apply(node: RealNode, runs: int) -> list[Row]:
    """Measure apply → all ready beside bare Podman, in pairs."""
    bare = BarePodman(node)
    rows = []
    try:
        for count in SIZES:
            kat, plain = [], []
            for number in range(runs):
                kat.append(until_ready(node, f"b{number}", count))
                delete(node, f"b{number}")
                plain.append(bare.up(count))
                bare.down()
            rows.append(row(f"apply → {count} ready", kat, "s"))
            rows.append(row(f"bare Podman API, {count}, 4 at once", plain, "s"))
            aim = "1.3 at 20, never above 1.8" if count == 20 else ""
            rows.append(ratio(f"KAT / bare at {count}", kat, plain, aim=aim))
    finally:
        bare.remove()
    return rows


def measure_healing(node: RealNode, runs: int) -> list[Row]:
    """Measure a container's process killed → running again, and → ready again."""
    running, ready = [], []
    for number in range(runs):
        name = f"heal{number}"  # a new one each time: a second crash soon after the first waits on purpose
        until_ready(node, name, 1)
        pid = node.instances("default", name)[0]["status"]["pid"]
        began = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        while True:
            item = node.instances("default", name)[0]
            if item["phase"] == "Running" and item["status"].get("restarts") == 1:
                break
            time.sleep(0.005)
        running.append(time.perf_counter() - began)
        while not node.instances("default", name)[0]["ready"]:
            time.sleep(0.005)
        ready.append(time.perf_counter() - began)
        delete(node, name)
    return [row("killed → running", running, "s", aim="0.5"), row("killed → ready", ready, "s", aim="under 3")]
