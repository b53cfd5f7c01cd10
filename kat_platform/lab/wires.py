"""Wires: the network between a lab's machines: one namespace each, joined by a switch in a namespace of its own.

The host gets one interface into the switch, so that katcall reaches every API. Nothing else of the host is touched: no
forwarding, no firewall rule, no route but the lab's own network.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from kat_platform.errors import NotSupportedYet
from kat_platform.lab.plan import PREFIX, Lab, LabNode
from kat_platform.lab.shell import attempt, inside, run
from kat_platform.lab.trouble import UPLINK

NETNS: Final = Path("/run/netns")
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


def readdress(before: Lab, lab: Lab) -> None:
    """Give the host and every machine that is on the addresses they have now. Idempotent."""
    _readdress((), lab.host_interface, f"{lab.host_address}/{lab.network.prefixlen}")
    for old, node in zip(before.nodes, lab.nodes, strict=True):
        space = lab.namespace(node)
        if old.address != node.address and (NETNS / space).exists():
            _readdress(("-n", space), UPLINK, f"{node.address}/{lab.network.prefixlen}")
            apply_trouble(lab, node)


def _readdress(where: tuple[str, ...], interface: str, address: str) -> None:
    shown = run("ip", *where, "-o", "-4", "address", "show", "dev", interface)
    if f" {address} " not in shown:
        run("ip", *where, "address", "flush", "dev", interface)
        run("ip", *where, "address", "add", address, "dev", interface)


def make_space(lab: Lab, node: LabNode) -> None:
    """Give a machine its namespace, with nothing but a loopback. Idempotent."""
    space = lab.namespace(node)
    if not (NETNS / space).exists():
        run("ip", "netns", "add", space)
    run("ip", "-n", space, "link", "set", "lo", "up")


def plug_in(lab: Lab, node: LabNode) -> None:
    """Give a machine its namespace and its cable to the switch. Idempotent."""
    make_space(lab, node)
    space, port = lab.namespace(node), lab.port(node)
    if not attempt("ip", "-n", space, "link", "show", UPLINK):
        attempt("ip", "-n", lab.hub, "link", "delete", port)
        run("ip", "-n", lab.hub, "link", "add", port, "type", "veth", "peer", "name", UPLINK, "netns", space)
        run("ip", "-n", space, "link", "set", UPLINK, "address", lab.hardware_address(node))
        run("ip", "-n", space, "address", "add", f"{node.address}/{lab.network.prefixlen}", "dev", UPLINK)
    run("ip", "-n", lab.hub, "link", "set", port, "up")
    run("ip", "-n", space, "link", "set", UPLINK, "up")
    apply_trouble(lab, node)


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


def apply_trouble(lab: Lab, node: LabNode) -> None:
    """Make a machine's cable as good or bad as is written down; see ``lab.trouble``. Idempotent."""
    space, port = lab.namespace(node), lab.port(node)
    run("ip", "-n", lab.hub, "link", "set", port, *(("nomaster",) if node.cut else ("master", _BRIDGE)))
    script = [f"add table {_TABLE}", f"delete table {_TABLE}"]
    if node.drops:
        script += [f"add table {_TABLE}", f"add chain {_TABLE} in {{ type filter hook prerouting priority -400; }}"]
        script += [f"add rule {_TABLE} in {drop} drop" for drop in node.drops]
    run(*inside(space, "nft", "-f", "-"), feed="\n".join(script) + "\n")
    for place, interface in ((lab.hub, port), (space, UPLINK)):
        command = ("tc", "-n", place, "qdisc")
        if not node.delay_ms:
            attempt(*command, "delete", "dev", interface, "root")
        elif not attempt(*command, "replace", "dev", interface, "root", "netem", "delay", f"{node.delay_ms}ms"):
            raise NotSupportedYet(
                "this kernel cannot delay packets (it has no netem scheduler)", hint="use --loss or --kbytes instead"
            )
