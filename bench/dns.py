"""DNS: queries per CPU second and latency, beside unbound serving the same names in interleaved runs.

Both run on loopback, started and stopped here, asked by the same ``dnsperf``. Queries per CPU second count
what the server itself used (``/proc/PID/stat``), so that the client's share of a busy machine does not matter.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

WORKLOADS = 100
DOMAIN = "default.kat.cluster.local"
SERVE = Path(__file__).parents[1] / "plugins" / "dns" / "bench" / "serve.py"
ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")

Server = tuple[int, int]
"""Process id and port."""


@contextmanager
def kat() -> Iterator[Server]:
    """Run the driver in a process of its own."""
    paths = [ROOT, ROOT / "plugins" / "dns"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, str(SERVE), str(WORKLOADS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            assert child.stdout is not None
            yield child.pid, int(child.stdout.readline())
        finally:
            child.terminate()


@contextmanager
def unbound(folder: Path) -> Iterator[Server]:
    """Run unbound with one thread, serving the same names as local data."""
    port = _free_port()
    records = "".join(
        f'local-data: "web-{index}.{DOMAIN}. 5 IN A 10.101.0.{index + 1}"\n' for index in range(WORKLOADS)
    )
    config = folder / "unbound.conf"
    config.write_text(
        "server:\n"
        f"interface: 127.0.0.1\nport: {port}\ndo-daemonize: no\nusername: ''\nchroot: ''\nnum-threads: 1\n"
        f"directory: '{folder}'\npidfile: ''\nuse-syslog: no\nlogfile: ''\nmodule-config: 'iterator'\n"
        f"access-control: 127.0.0.0/8 allow\nedns-buffer-size: 1232\nlocal-zone: '{DOMAIN}.' static\n{records}"
        "remote-control:\ncontrol-enable: no\n"
    )
    with subprocess.Popen(["unbound", "-d", "-c", str(config)], stderr=subprocess.DEVNULL) as child:
        try:
            _wait_for(port)
            yield child.pid, port
        finally:
            child.terminate()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing answers on port {port}")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _load(server: Server, queries: Path, seconds: float, *, edns: bool, pace: int | None = None) -> dict[str, float]:
    """Ask for some seconds, as fast as it goes or at a pace (queries a second); gives rates and latencies."""
    pid, port = server
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(queries), "-l", f"{seconds:g}"]
    command += ["-c", "4", "-q", "64"] + (["-e"] if edns else [])
    command += ["-Q", str(pace), "-v"] if pace else []
    before = _cpu(pid)
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    used = _cpu(pid) - before
    completed = float(_figure(r"Queries completed:\s+(\d+)", text))
    lost = float(_figure(r"Queries lost:\s+(\d+)", text))
    if f"NOERROR {int(completed)} " not in text:
        raise RuntimeError(f"not every answer was NOERROR:\n{text}")
    found = {"per_cpu_second": completed / used, "per_second": completed / seconds, "lost": lost}
    return found | ({"p99_ms": _p99(text)} if pace else {})


def _figure(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"dnsperf did not say {pattern}:\n{text}")
    return match[1]


def _p99(text: str) -> float:
    """Give the 99th percentile of the latencies that ``dnsperf -v`` prints: ``> NOERROR NAME TYPE SECONDS``."""
    latencies = sorted(float(match[1]) for match in re.finditer(r"^> NOERROR \S+ \S+ ([\d.]+)$", text, re.MULTILINE))
    return round(latencies[int(len(latencies) * 0.99)] * 1000, 3)


def measure(runs: int = 5, seconds: float = 2.0) -> list[dict[str, Any]]:
    """Measure both servers in turn, with and without EDNS; medians, the spread, and the ratio of paired runs."""
    for program in ("dnsperf", "unbound"):
        if shutil.which(program) is None:
            return [{"what": "dns", "skipped": f"{program} is not installed"}]
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kt-dns-bench-")))
        queries = folder / "queries"
        queries.write_text("".join(f"web-{index}.{DOMAIN} A\n" for index in range(WORKLOADS)))
        servers = {"kat": stack.enter_context(kat()), "unbound": stack.enter_context(unbound(folder))}
        for edns in (True, False):
            found: dict[str, list[dict[str, float]]] = {"kat": [], "unbound": []}
            for _ in range(runs):
                for name, server in servers.items():
                    found[name].append(_load(server, queries, seconds, edns=edns))
            rows += _rows(found, edns=edns)
        paced: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(runs):
            for name, server in servers.items():
                paced[name].append(_load(server, queries, seconds, edns=True, pace=5000)["p99_ms"])
        for name, times in paced.items():
            row = {"what": "p99 at 5000 queries/s, ms", "server": name, "median": statistics.median(times)}
            rows.append(row | {"min": min(times), "max": max(times)})
    return rows


def _rows(found: dict[str, list[dict[str, float]]], *, edns: bool) -> list[dict[str, Any]]:
    what = f"queries per CPU second, {'with' if edns else 'without'} EDNS"
    rows: list[dict[str, Any]] = []
    for name, results in found.items():
        rates = [result["per_cpu_second"] for result in results]
        rows.append(
            {
                "what": what,
                "server": name,
                "median": round(statistics.median(rates)),
                "min": round(min(rates)),
                "max": round(max(rates)),
                "per_second": round(statistics.median(result["per_second"] for result in results)),
                "lost": sum(result["lost"] for result in results),
            }
        )
    pairs = zip(found["kat"], found["unbound"], strict=True)
    ratios = [ours["per_cpu_second"] / theirs["per_cpu_second"] for ours, theirs in pairs]
    rows.append({"what": what, "server": "kat / unbound", "median": round(statistics.median(ratios), 3)})
    return rows


if __name__ == "__main__":
    for row in measure():
        print(json.dumps(row))
