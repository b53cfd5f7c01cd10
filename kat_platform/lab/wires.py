"""Wires: the network between a lab's machines: one namespace each, joined by a switch in a namespace of its own.

The host gets one interface into the switch, so that katcall reaches every API. Nothing else of the host is touched: no
forwarding, no firewall rule, no route but the lab's own network.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final

from kat_platform.errors import KatError, NotSupportedYet
from kat_platform.lab.plan import PREFIX, Lab, LabNode
from kat_platform.lab.shell import attempt, inside, run

NETNS: Final = Path("/run/netns")
UPLINK: Final = "eth0"
"""A machine's interface towards the others."""
_HUB_UPLINK: Final = "host"
_BRIDGE: Final = "br0"
_TABLE: Final = "inet kat_lab"


def make_hub(lab: Lab) -> None:
    """Make the switch and the host's interface into it. Idempotent."""
    if not (NETNS / lab.hub).exists():
        run("ip", "netns", "add", lab.hub)
    if not attempt("ip", "-n", lab.hub, "link", "show", _BRIDGE):
        run("ip", "-n", lab.hub, "link", "add", _BRIDGE, "type", "bridge")
    run("ip", "-n", lab.hub, "link", "set", _BRIDGE, "up")
    if not attempt("ip", "link", "show", lab.host_interface):
        run("ip", "link", "add", lab.host_interface, "type", "veth", "peer", "name", _HUB_UPLINK, "netns", lab.hub)
        run("ip", "-n", lab.hub, "link", "set", _HUB_UPLINK, "master", _BRIDGE, "up")
        run("ip", "address", "add", f"{lab.host_address}/{lab.network.prefixlen}", "dev", lab.host_interface)
        run("ip", "link", "set", lab.host_interface, "up")


def plug_in(lab: Lab, node: LabNode) -> None:
    """Give a machine its namespace and its cable to the switch. Idempotent."""
    space, port = lab.namespace(node), lab.port(node)
    if not (NETNS / space).exists():
        run("ip", "netns", "add", space)
    run("ip", "-n", space, "link", "set", "lo", "up")
    if not attempt("ip", "-n", space, "link", "show", UPLINK):
        attempt("ip", "-n", lab.hub, "link", "delete", port)
        run("ip", "-n", lab.hub, "link", "add", port, "type", "veth", "peer", "name", UPLINK, "netns", space)
        run("ip", "-n", space, "address", "add", f"{node.address}/{lab.network.prefixlen}", "dev", UPLINK)
    run("ip", "-n", lab.hub, "link", "set", port, "master", _BRIDGE, "up")
    run("ip", "-n", space, "link", "set", UPLINK, "up")


def unplug(lab: Lab, node: LabNode) -> None:
    """Take a machine's namespace away, with every interface and rule in it. Idempotent."""
    attempt("ip", "-n", lab.hub, "link", "delete", lab.port(node))
    attempt("ip", "netns", "delete", lab.namespace(node))


def namespaces_of(name: str) -> list[str]:
    """List the namespaces that a lab of this name has made, also one whose file was lost."""
    pattern = re.compile(rf"{PREFIX}-{name}-(\d+|hub)")
    if not NETNS.is_dir():
        return []
    return sorted(path.name for path in NETNS.iterdir() if pattern.fullmatch(path.name))


def remove_all(name: str) -> None:
    """Take every namespace and interface of a lab away. Idempotent; needs no file of the lab's."""
    attempt("ip", "link", "delete", f"{PREFIX}-{name}")
    for space in namespaces_of(name):
        attempt("ip", "netns", "delete", space)


# --- trouble ---------------------------------------------------------------------------------------------------


def cut(lab: Lab, node: LabNode, others: tuple[LabNode, ...], ports: tuple[int, ...]) -> None:
    """Cut a machine off: from everything, from some machines, or for some TCP ports only. Packets vanish silently."""
    if not others and not ports:
        run("ip", "-n", lab.hub, "link", "set", lab.port(node), "nomaster")
        return
    for other in others:
        _drop(lab, node, f"ip saddr {other.address}")
        _drop(lab, other, f"ip saddr {node.address}")
    for port in ports:
        # What comes in for the port and what comes back from it: no connection is possible in either direction.
        _drop(lab, node, f"iifname != lo tcp dport {port}")
        _drop(lab, node, f"iifname != lo tcp sport {port}")


def slow(lab: Lab, node: LabNode, *, delay_ms: int | None, loss: int | None, kbytes: int | None) -> None:
    """Make a machine's cable bad: later (milliseconds each way), lossy (percent), narrow (kilobytes a second)."""
    if delay_ms:
        port = lab.port(node)
        made = attempt("tc", "-n", lab.hub, "qdisc", "replace", "dev", port, "root", "netem", "delay", f"{delay_ms}ms")
        if not made:
            raise NotSupportedYet(
                "this kernel cannot delay packets (it has no netem scheduler)", hint="use --loss or --kbytes instead"
            )
        space = lab.namespace(node)
        run("tc", "-n", space, "qdisc", "replace", "dev", UPLINK, "root", "netem", "delay", f"{delay_ms}ms")
    if loss:
        _drop(lab, node, f"iifname {UPLINK} numgen random mod 100 < {loss}")
    if kbytes:
        burst = max(16, kbytes // 4)
        _drop(lab, node, f"iifname {UPLINK} limit rate over {kbytes} kbytes/second burst {burst} kbytes")


def heal(lab: Lab, node: LabNode) -> None:
    """Mend everything that :func:`cut` and :func:`slow` did to a machine, at both ends. Idempotent."""
    run("ip", "-n", lab.hub, "link", "set", lab.port(node), "master", _BRIDGE)
    attempt("tc", "-n", lab.hub, "qdisc", "delete", "dev", lab.port(node), "root")
    attempt("tc", "-n", lab.namespace(node), "qdisc", "delete", "dev", UPLINK, "root")
    for other in lab.nodes:
        if other.name == node.name:
            attempt(*inside(lab.namespace(other), "nft", "delete", "table", *_TABLE.split()))
        else:
            _forget(lab, other, f"ip saddr {node.address}")


def trouble_of(lab: Lab, node: LabNode) -> str:
    """Say in a word or two what is wrong with a machine's cable; empty when nothing is."""
    with contextlib.suppress(KatError):
        if f"master {_BRIDGE}" not in run("ip", "-n", lab.hub, "link", "show", lab.port(node)):
            return "cut"
        rules = run(*inside(lab.namespace(node), "nft", "list", "tables"))
        if _TABLE in rules:
            return "disturbed"
        if "netem" in run("tc", "-n", lab.hub, "qdisc", "show", "dev", lab.port(node)):
            return "slow"
    return ""


def _drop(lab: Lab, node: LabNode, what: str) -> None:
    script = (
        f"add table {_TABLE}\n"
        f"add chain {_TABLE} in {{ type filter hook prerouting priority -400; }}\n"
        f"add rule {_TABLE} in {what} drop\n"
    )
    run(*inside(lab.namespace(node), "nft", "-f", "-"), feed=script)


def _forget(lab: Lab, node: LabNode, what: str) -> None:
    space = lab.namespace(node)
    with contextlib.suppress(KatError):
        listed = run(*inside(space, "nft", "-a", "list", "chain", *_TABLE.split(), "in"))
        for line in listed.splitlines():
            if what in line and "# handle" in line:
                handle = line.rpartition("# handle")[2].strip()
                attempt(*inside(space, "nft", "delete", "rule", *_TABLE.split(), "in", "handle", handle))
