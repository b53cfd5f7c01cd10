"""Shows that a service answers: through its virtual IP, and through its DNS name asked of this node's own DNS.

Takes the workload's name. Uses nothing but the standard library and ``katcall``, like any client would.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

KATCALL = Path(sys.executable).with_name("katcall")


def katcall(*arguments: str) -> Any:
    """Ask ``katcall`` and give its JSON."""
    done = subprocess.run([KATCALL, *arguments, "-o", "json"], capture_output=True, text=True, timeout=30)
    if done.returncode:
        sys.exit(f"katcall {' '.join(arguments)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def place(workload: str) -> tuple[str, int, str]:
    """Give virtual IP, port and DNS name of a workload, as ``katcall ports`` tells them."""
    for row in katcall("ports")["items"]:
        address, _, port = str(row["address"]).rpartition(":")
        if str(row["name"]).startswith(f"{workload}.") and port.isdigit():
            return address, int(port), str(row["name"])
    sys.exit(f"katcall ports has no address for {workload}")


def name_server() -> str:
    """Give the address of this cluster's DNS on its first node: the first one of the node's subnet."""
    node = katcall("get", "nodes")["items"][0]
    return str(ip_network(node["record"]["subnet"])[1])


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
    address, port, name = place(sys.argv[1])
    server = name_server()
    url = f"http://{address}/" if port == 80 else f"http://{address}:{port}/"
    print(f"    URL            {url}  (from containers: http://{name}/)")
    print(f"    by virtual IP  {fetch(address, port, name)}")
    resolved = resolve(name, server)
    print(f"    by name        dig @{server} {name} -> {resolved}: {fetch(resolved, port, name)}")


if __name__ == "__main__":
    main()
