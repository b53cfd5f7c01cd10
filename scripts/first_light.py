"""Shows that a service answers: through its virtual IP, and through its DNS name asked of this node's own DNS.

Takes the workload's name. Uses nothing but the standard library and ``katcall``, like any client would.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

KATCALL = Path(sys.executable).with_name("katcall")


def katcall(*arguments: str) -> Any:
    """Ask ``katcall`` and give its JSON."""
    done = subprocess.run([KATCALL, *arguments, "-o", "json"], capture_output=True, text=True, timeout=30)
    if done.returncode:
        sys.exit(f"katcall {' '.join(arguments)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def find(document: Any, *keys: str) -> Any:
    """Give the first value under any of ``keys``, however deep."""
    if isinstance(document, dict):
        for key in keys:
            if document.get(key):
                return document[key]
    children = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    return next((found for child in children if (found := find(child, *keys)) is not None), None)


def fetch(address: str, port: int, host: str) -> str:
    """Get one page; gives status and the first line."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    connection.request("GET", "/cgi-bin/index.cgi", headers={"Host": host})
    response = connection.getresponse()
    text = response.read().decode(errors="replace").splitlines()
    return f"{response.status} {response.reason}: {text[0] if text else ''}"


def resolve(name: str, server: str) -> str:
    """Ask one DNS server for one address, with dig."""
    command = ["dig", "+short", "+time=2", "+tries=2", f"@{server}", name, "A"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    answers = done.stdout.split()
    if done.returncode or not answers:
        sys.exit(f"{' '.join(command)}: no answer {done.stderr.strip()}")
    return answers[0]


def main() -> None:
    """Print URL and both answers; exits with an error when one of them does not come."""
    name = sys.argv[1]
    workload = katcall("get", "workloads", name)
    node = katcall("get", "nodes")
    configuration_domain = find(node, "clusterDomain") or "kat.cluster.local"
    address, port = find(workload, "virtualIp", "virtualIP", "vip"), 80
    gateway = find(node, "dnsAddress", "bridgeAddress", "gateway", "overlayAddress")
    if not address or not gateway:
        sys.exit(f"no virtual IP of {name} ({address}) or no DNS address of the node ({gateway}) in what katcall gives")
    full = f"{name}.default.{configuration_domain}"
    print(f"    URL            http://{address}:{port}/  (from containers: http://{full}/)")
    print(f"    by virtual IP  {fetch(address, port, full)}")
    resolved = resolve(full, str(gateway).split("/")[0])
    print(f"    by name        dig @{str(gateway).split('/')[0]} {full} -> {resolved}: {fetch(resolved, port, full)}")


if __name__ == "__main__":
    main()
