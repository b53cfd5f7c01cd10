"""The table's fixed part, and carrying scripts to the kernel with ``nft -f -``: one script, one transaction."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Network
from typing import Any

from kat_net_wireguard import balancer
from kat_net_wireguard.names import Names
from kat_platform.errors import HostNotReady, NetworkFailure, TimedOut
from kat_platform.interfaces.network import NodeNetwork

PROBE_MARK = 0x4B415401
"""Mark of the packets by which vanished connections are ended: connection tracking must not see them."""
GONE_SECONDS = 30
_DEADLINE_SECONDS = 30.0
_BASE_CHAINS = (
    "raw_output", "prerouting", "output_nat", "postrouting", "forward", "output",
    "virtual", "exposed", "inbound", "overlay", "refuse",
)  # fmt: skip
_MID_STREAM = "tcp flags & (syn | rst) == 0x0"
_OPENING = "tcp flags & (fin | syn | rst | ack) == syn"


def base(names: Names, network: NodeNetwork, trusted: tuple[IPv4Network, ...]) -> str:
    """Write the script that makes the table, its fixed sets and base chains, without touching services.

    Applied to a table that stands it renews the base chains and leaves sets, maps and service chains as they are.
    """
    table = f"ip {names.table}"
    lines = [f"add table {table}"]
    for name, declaration in balancer.FIXED_SETS.items():
        lines.append(f"add {declaration.replace(name, f'{table} {name}', 1)}")
    lines.append(f"add set {table} gone {{ type ipv4_addr; timeout {GONE_SECONDS}s; }}")
    chains = _chains(names, network, trusted)
    for name in ("refuse", *(name for name in _BASE_CHAINS if name != "refuse")):
        hook = _HOOKS.get(name)
        lines.append(f"add chain {table} {name}" + (f" {{ {hook} }}" if hook else ""))
        lines.append(f"flush chain {table} {name}")
    for name, rules in chains.items():
        lines += [f"add rule {table} {name} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"


_HOOKS = {
    "raw_output": "type filter hook output priority raw; policy accept;",
    "prerouting": "type nat hook prerouting priority dstnat; policy accept;",
    "output_nat": "type nat hook output priority -100; policy accept;",
    "postrouting": "type nat hook postrouting priority srcnat; policy accept;",
    "forward": "type filter hook forward priority filter; policy accept;",
    "output": "type filter hook output priority filter; policy accept;",
}


def _chains(names: Names, network: NodeNetwork, trusted: tuple[IPv4Network, ...]) -> dict[str, list[str]]:
    bridge, tunnel, veths = f'"{names.bridge}"', f'"{names.tunnel}"', f'"{names.veth_pattern}"'
    cluster, service, gateway = network.cluster_cidr, network.service_cidr, network.gateway.ip
    trust = [f"ip saddr {source}" for source in trusted]
    gone = f"ip daddr @gone ct state new {_MID_STREAM} reject with tcp reset"
    lookup = "ip daddr . ip protocol . th dport vmap @virtual_ports"
    return {
        "raw_output": [f"meta mark {PROBE_MARK:#x} notrack"],
        # Only what opens a connection is translated. A segment from the middle of one that is no longer tracked
        # belongs to a backend that is gone: it stays as it is and is answered with a reset.
        "virtual": [f"{_OPENING} {lookup}", f"meta l4proto udp {lookup}"],
        "exposed": [
            f"ip daddr @node_addresses {_OPENING} ip protocol . th dport vmap @node_ports",
            "ip daddr @node_addresses meta l4proto udp ip protocol . th dport vmap @node_ports",
        ],
        "prerouting": [
            f"iifname {veths} ip daddr {service} goto virtual",
            *(f"{source} ip daddr {service} goto virtual" for source in trust),
            "fib daddr type local goto exposed",
        ],
        "output_nat": [f"ip daddr {service} goto virtual", "fib daddr type local goto exposed"],
        "postrouting": [
            # An instance that reached itself through a virtual IP would answer itself directly.
            f"ip saddr . ip daddr @hairpin snat to {gateway}",
            # Other nodes accept only overlay sources from us; only node ports bring others here.
            f"oifname {tunnel} ip saddr != {cluster} snat to {gateway}",
            f"ip saddr {network.subnet} ip daddr != {cluster} ip daddr != {service} oifname != {veths} masquerade",
        ],
        # Every packet between two containers comes through here: what was judged once leaves early. Only an isolated
        # container's are judged one by one, so that a change of who may reach it ends what was allowed before.
        "forward": [
            f"oifname {bridge} goto refuse",
            f"oifname {veths} ip daddr vmap @isolated",
            "ct state established,related accept",
            gone,
            f"oifname {veths} goto inbound",
            f"oifname {tunnel} goto overlay",
        ],
        # In this hook a translated packet still carries the interface it was first routed to.
        "output": ["ct status dnat accept", f"oifname {bridge} goto refuse", gone],
        "inbound": [
            f"iifname {veths} accept",
            f"iifname {tunnel} accept",
            "ct status dnat accept",
            *(f"{source} accept" for source in trust),
            "reject with icmp type admin-prohibited",
        ],
        "overlay": [
            f"iifname {veths} accept",
            "ct status dnat accept",
            *(f"{source} accept" for source in trust),
            "reject with icmp type admin-prohibited",
        ],
        "refuse": ["meta l4proto tcp reject with tcp reset", "reject with icmp type port-unreachable"],
    }


def replacement(names: Names, base_script: str, ruleset: balancer.Ruleset) -> str:
    """Write the script that replaces the whole table, whatever an earlier process left in it, in one step."""
    away = f"add table ip {names.table}\ndelete table ip {names.table}\n"
    return away + base_script + "\n".join(balancer.whole(names.table, ruleset)) + "\n"


async def apply(script: str) -> None:
    """Carry a script out, all of it or nothing. Raises ``NetworkFailure`` with what nft said."""
    await run("-f", "-", stdin=script)


async def run(*arguments: str, stdin: str | None = None) -> str:
    """Run ``nft`` and give its output."""
    try:
        process = await asyncio.create_subprocess_exec(
            "nft",
            *arguments,
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise HostNotReady("nft is not installed", hint="install the package nftables") from error
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            output, errors = await process.communicate(None if stdin is None else stdin.encode())
    except TimeoutError as error:
        raise TimedOut(f"nft did not end within {_DEADLINE_SECONDS:g} s") from error
    finally:
        if process.returncode is None:  # the deadline passed, or our task was cancelled
            process.kill()
            await process.wait()
    if process.returncode != 0:
        words = errors.decode(errors="replace").strip().splitlines()
        raise NetworkFailure(f"nft refused: {' '.join(words[:2]) or 'no reason given'}", returncode=process.returncode)
    return output.decode()


async def exists(names: Names) -> bool:
    """Tell whether this agent's table is in the kernel."""
    listing: dict[str, Any] = json.loads(await run("-j", "list", "tables", "ip"))
    return any(entry.get("table", {}).get("name") == names.table for entry in listing["nftables"])


async def remove(names: Names) -> None:
    """Take the table away; one that is gone is no error."""
    await apply(f"add table ip {names.table}\ndelete table ip {names.table}\n")
