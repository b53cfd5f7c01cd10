"""Network: how a node's containers get addresses and reach each other, other nodes and virtual IPs.

Order: ``start`` → ``configure`` (once the node knows its subnet; again whenever it changes) → any number of
``attach`` / ``detach`` / ``apply_peers`` / ``apply_services``. The agent chooses addresses; the driver plumbs them.

``apply_peers`` and ``apply_services`` take the whole wanted state and are atomic towards traffic: established
connections that the new state still allows go on. ``attach``, ``detach``, ``collect`` are idempotent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Protocol, runtime_checkable

from kat_platform.interfaces.driver import Collects, Driver


class TransportProtocol(StrEnum):
    """Layer-4 protocol of a port."""

    TCP = "TCP"
    UDP = "UDP"


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """This node's place in the overlay.

    ``gateway`` is the first usable address of ``subnet``; it is the bridge's, and DNS listens there.
    """

    node_name: str
    subnet: IPv4Network
    cluster_cidr: IPv4Network
    service_cidr: IPv4Network
    listen_port: int
    """UDP port for traffic between nodes."""
    mtu: int = 1420

    @property
    def gateway(self) -> IPv4Interface:
        """The node's own overlay address with the subnet's prefix length."""
        return IPv4Interface((self.subnet.network_address + 1, self.subnet.prefixlen))


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node: the subnet behind it, its public key, and where it was last known to be reachable."""

    node_name: str
    subnet: IPv4Network
    public_key: str
    endpoint: tuple[str, int] | None = None
    """Underlay address and UDP port; ``None`` when only the peer can reach us (it is behind NAT)."""
    keepalive_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """An instance's place in the network: its namespace (see ``Container.netns``) and its address."""

    instance_id: str
    netns: str
    address: IPv4Interface
    namespace: str = "default"


@dataclass(frozen=True, slots=True)
class Backend:
    """One ready instance behind a virtual IP."""

    address: IPv4Address
    port: int
    local: bool = False


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a virtual IP and the instances that answer it.

    Without backends a TCP connection is refused (reset), a UDP packet answered with ICMP port unreachable.
    ``draining`` lists addresses that get no new connection but keep those they have.
    """

    name: str
    """``NAMESPACE/WORKLOAD/LOADBALANCER/PORT``, unique; for messages."""
    address: IPv4Address
    port: int
    protocol: TransportProtocol
    backends: tuple[Backend, ...]
    draining: tuple[Backend, ...] = ()
    node_port: int | None = None
    client_affinity: bool = False
    """The same client address goes to the same backend while the backends do not change."""


@dataclass(frozen=True, slots=True)
class IsolatedNamespace:
    """A namespace of isolation ``Private`` and the addresses of its instances on all nodes."""

    namespace: str
    addresses: frozenset[IPv4Address]
    allowed: frozenset[IPv4Address] = frozenset()
    """Addresses outside the namespace that may connect all the same (ingress)."""


@dataclass(frozen=True, slots=True)
class ServiceTable:
    """All virtual IPs as one node sees them."""

    ports: tuple[ServicePort, ...] = ()
    isolated: tuple[IsolatedNamespace, ...] = ()
    node_addresses: tuple[IPv4Address, ...] = ()
    """Underlay addresses on which ``node_port`` answers."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """How the link to a peer is: seconds since the epoch of the last handshake, bytes since the link's start."""

    node_name: str
    endpoint: tuple[str, int] | None
    last_handshake_at: float | None
    received_bytes: int
    sent_bytes: int


@runtime_checkable
class Network(Driver, Collects, Protocol):
    """The overlay on one node; see the module for order and atomicity."""

    async def public_key(self) -> str:
        """Give the key by which peers know this node; made on first use, private part never leaves the host."""

    async def configure(self, network: NodeNetwork) -> None:
        """Make bridge, tunnel, routes and base rules. Idempotent; adopts what already stands."""

    async def apply_peers(self, peers: tuple[Peer, ...]) -> None:
        """Make exactly these the peers. Tunnels of unchanged peers are not disturbed."""

    async def peer_status(self) -> tuple[PeerStatus, ...]:
        """Tell how each peer's link is, with endpoints as learnt from roaming."""

    async def attach(self, attachment: Attachment) -> None:
        """Give the container its interface, address, default route and a working loopback.

        If the instance is attached in that namespace already, only differences are mended. If it is attached
        elsewhere (the container was restarted), the old attachment is replaced.
        """

    async def detach(self, instance_id: str) -> None:
        """Take the interface away and forget the address. One that is gone is no error."""

    async def attachments(self) -> tuple[tuple[str, IPv4Address], ...]:
        """List ``(instance id, address)`` of what is attached now: the truth after a restart of the agent."""

    async def apply_services(self, table: ServiceTable) -> None:
        """Make exactly these the virtual IPs, in one atomic change. Works before any instance is attached."""

    async def reset_connections(self, addresses: frozenset[IPv4Address]) -> None:
        """End connections to addresses that have vanished: clients get a reset, not a hang."""


@runtime_checkable
class CountsConnections(Protocol):
    """A network that can tell how many connections an address still has, so that they can end before it goes."""

    async def open_connections(self, address: IPv4Address) -> int:
        """Count the established TCP connections from elsewhere to ``address``."""


@runtime_checkable
class MovesKey(Protocol):
    """A network whose key can go to another machine, which takes a lost node's place: the peers need learn nothing."""

    async def secret(self) -> bytes:
        """Give what the node's public key comes from, making it on first use. For sealed backups only."""

    async def take_secret(self, secret: bytes) -> None:
        """Take what ``secret`` gave on the lost node, before ``configure``. Raises ``Conflict`` over another key."""
