"""Plan: what the machines of a lab are called and which addresses they have. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from kat_platform.errors import InvalidInput, NotFound, Unavailable
from kat_platform.model.base import Model
from kat_platform.model.node import NodeRole

RANGE: Final = IPv4Network("198.18.0.0/15")
"""Reserved for tests of network devices (RFC 2544), so no real network has it."""

MOST_NODES: Final = 60
FIRST_NODE: Final = 10
"""Last part of the first machine's address; the host itself is number 1."""
PREFIX: Final = "kl"
LEAST_DISK_MIB: Final = 256
"""Of a disk: the store alone sets 128 MiB aside."""
_NAME: Final = re.compile(r"[a-z][a-z0-9]{0,7}")
CONTROL_PLANES: Final = (1, 3, 5)
"""Numbers of control-plane nodes that make sense: an even one survives no more losses than the one below it."""


class LabNode(Model):
    """One machine of a lab."""

    name: str
    number: int
    role: NodeRole
    address: IPv4Address
    boots: int = 0
    """How often it was switched on: stands for the boot id that a machine of its own would have."""
    python: str | None = None
    """Python of the installation of KAT that its agent runs with; ``None`` for katcall's own."""
    cut: bool = False
    """Whether its cable is pulled out of the switch."""
    drops: tuple[str, ...] = ()
    """Packets that it loses, as nftables matches."""
    delay_ms: int = 0
    """By how much its cable delays packets, each way."""


class Lab(Model):
    """A lab as it is written down in its folder before anything of it is made."""

    name: str
    network: IPv4Network
    nodes: tuple[LabNode, ...]
    context: str
    """Name of katcall's context for it."""
    previous_context: str | None = None
    created_at: float = 0.0
    disk_mib: int | None = None
    """Size of the disk each machine has of its own; ``None`` where they share the host's."""

    @property
    def host_address(self) -> IPv4Address:
        """The host's own address in the lab's network."""
        return self.network.network_address + 1

    @property
    def hub(self) -> str:
        """Network namespace that plays the switch between the machines."""
        return f"{PREFIX}-{self.name}-hub"

    @property
    def host_interface(self) -> str:
        """The host's interface into the lab."""
        return f"{PREFIX}-{self.name}"

    def namespace(self, node: LabNode) -> str:
        """Network namespace of a machine."""
        return f"{PREFIX}-{self.name}-{node.number}"

    def hardware_address(self, node: LabNode) -> str:
        """Ethernet address of a machine: it stays over a power cut, and when the machine gets another IP address."""
        return "02:4b:00:00:" + ":".join(f"{byte:02x}" for byte in node.number.to_bytes(2, "big"))

    def port(self, node: LabNode) -> str:
        """The switch's interface towards a machine."""
        return f"{PREFIX}-{self.name}-{node.number}"

    def find(self, name: str) -> LabNode:
        """Find a machine by name; raises ``NotFound``."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise NotFound(f"lab '{self.name}' has no node '{name}'", hint=f"it has: {known}")

    def booted(self, node: LabNode) -> Lab:
        """Give the lab with one more boot of a machine."""
        fresh = node.model_copy(update={"boots": node.boots + 1})
        return self.model_copy(update={"nodes": tuple(fresh if n.name == node.name else n for n in self.nodes)})

    def installed(self, node: LabNode, python: str | None) -> Lab:
        """Give the lab with one machine's agent run by another installation of KAT."""
        fresh = node.model_copy(update={"python": python})
        return self.model_copy(update={"nodes": tuple(fresh if n.name == node.name else n for n in self.nodes)})

    def readdressed(self, node: LabNode) -> Lab:
        """Give the lab with another address for one machine; raises ``Unavailable`` when none is free."""
        used = {each.address for each in self.nodes}
        for address in list(self.network.hosts())[FIRST_NODE + MOST_NODES :]:
            if address not in used:
                return self._with_addresses({node.name: address})
        raise Unavailable(f"every address of {self.network} is in use")

    def moved(self, network: IPv4Network) -> Lab:
        """Give the lab in another network: every machine has another address, and the host as well."""
        first, fresh = int(self.network.network_address), int(network.network_address)
        addresses = {node.name: IPv4Address(int(node.address) - first + fresh) for node in self.nodes}
        return self._with_addresses(addresses).model_copy(update={"network": network})

    def _with_addresses(self, addresses: Mapping[str, IPv4Address]) -> Lab:
        """Change addresses, also in what the machines drop from each other."""
        renamed = {str(node.address): str(addresses.get(node.name, node.address)) for node in self.nodes}

        def word(text: str) -> str:
            return " ".join(renamed.get(each, each) for each in text.split(" "))

        nodes = tuple(
            node.model_copy(
                update={
                    "address": addresses.get(node.name, node.address),
                    "drops": tuple(word(drop) for drop in node.drops),
                }
            )
            for node in self.nodes
        )
        return self.model_copy(update={"nodes": nodes})


def check_lab_name(name: str) -> str:
    """Check a lab's name: it is part of interface names, of which the kernel allows 15 characters."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"'{name[:40]}' is no name for a lab: a letter, then at most 7 letters or digits, lower case"
        )
    return name


def plan_lab(
    name: str,
    *,
    nodes: int,
    control_plane: int,
    taken: Collection[IPv4Address],
    now: float,
    disk_mib: int | None = None,
) -> Lab:
    """Plan a lab; ``taken`` are addresses in use on this host. Raises ``InvalidInput`` or ``Unavailable``."""
    check_lab_name(name)
    if not 1 <= nodes <= MOST_NODES:
        raise InvalidInput(f"a lab has 1 to {MOST_NODES} nodes, not {nodes}")
    if control_plane not in CONTROL_PLANES or control_plane > nodes:
        known = ", ".join(map(str, CONTROL_PLANES))
        raise InvalidInput(
            f"{control_plane} control-plane nodes do not fit a lab of {nodes}: use {known}, at most as many as nodes"
        )
    if disk_mib is not None and disk_mib < LEAST_DISK_MIB:
        raise InvalidInput(f"a disk of {disk_mib} MiB is too small for a node: at least {LEAST_DISK_MIB}")
    network = free_network(taken)
    made = tuple(
        LabNode(
            name=f"n{number}",
            number=number,
            role=NodeRole.CONTROL_PLANE if number <= control_plane else NodeRole.WORKER,
            address=network.network_address + FIRST_NODE + number - 1,
        )
        for number in range(1, nodes + 1)
    )
    return Lab(name=name, network=network, nodes=made, context=f"lab-{name}", created_at=now, disk_mib=disk_mib)


def free_network(taken: Collection[IPv4Address]) -> IPv4Network:
    """Give the first /24 of the range in which no address is taken."""
    for network in RANGE.subnets(new_prefix=24):
        if not any(address in network for address in taken):
            return network
    raise Unavailable(f"every network of {RANGE} is in use on this host")
