"""A network that carries nothing: it remembers what it was told, as a kernel would, and passes the same kit."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from kat_platform.errors import Conflict, InvalidInput, NetworkFailure
from kat_platform.interfaces.driver import Capability, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.interfaces.network import Attachment, NodeNetwork, Peer, PeerStatus, ServiceTable
from kat_platform.model.base import Model


class FakeNetworkConfig(Model):
    """There is nothing to configure."""


@dataclass(slots=True)
class PretendKernel:
    """What would stay in place when the driver's process ends."""

    attached: dict[str, Attachment] = field(default_factory=dict)
    peers: tuple[Peer, ...] = ()
    table: ServiceTable = field(default_factory=ServiceTable)
    resets: list[frozenset[IPv4Address]] = field(default_factory=list)
    """Every set of addresses whose connections were reset, in order."""


_KERNELS: dict[Path, PretendKernel] = {}


class FakeNetwork:
    """A network in memory. What it was told can be read from ``kernel`` and ``network``."""

    info: ClassVar[DriverInfo] = DriverInfo(
        "fake", "1.0.0", Capability.NETWORK, capabilities={"dataplane": False}, summary="remembers, for tests"
    )
    Config: ClassVar[type[BaseModel]] = FakeNetworkConfig

    def __init__(self, config: BaseModel | None, context: DriverContext) -> None:
        self.config = config
        self.context = context
        self.network: NodeNetwork | None = None
        self.kernel = _KERNELS.setdefault(context.run_dir, PretendKernel())

    async def start(self) -> None:
        """There is nothing to make ready."""

    async def stop(self) -> None:
        """There is nothing to let go of."""

    async def status(self) -> DriverStatus:
        """Tell that all is well."""
        return DriverStatus(Health.OK, facts={"attached": len(self.kernel.attached)})

    async def reset(self) -> None:
        """Forget everything."""
        _KERNELS.pop(self.context.run_dir, None)
        self.kernel = PretendKernel()
        self.network = None

    async def public_key(self) -> str:
        """Give a key that is the node's own."""
        return base64.b64encode(hashlib.sha256(self.context.node_name.encode()).digest()).decode()

    async def configure(self, network: NodeNetwork) -> None:
        """Remember the node's place."""
        if not network.subnet.subnet_of(network.cluster_cidr):
            raise InvalidInput(f"subnet {network.subnet} lies outside {network.cluster_cidr}")
        self.network = network

    async def apply_peers(self, peers: tuple[Peer, ...]) -> None:
        """Remember the peers."""
        network = self._ready()
        keys = [peer.public_key for peer in peers]
        if len(set(keys)) != len(keys):
            raise InvalidInput("two nodes have the same public key")
        taken = [network.subnet]
        for peer in peers:
            if any(peer.subnet.overlaps(other) for other in taken):
                raise InvalidInput(f"the subnet of node {peer.node_name} overlaps another's")
            taken.append(peer.subnet)
        self.kernel.peers = peers

    async def peer_status(self) -> tuple[PeerStatus, ...]:
        """List the peers; nothing was ever heard of them."""
        return tuple(PeerStatus(peer.node_name, peer.endpoint, None, 0, 0) for peer in self.kernel.peers)

    async def attach(self, attachment: Attachment) -> None:
        """Remember the attachment."""
        network = self._ready()
        if attachment.address.ip not in network.subnet or attachment.address.ip == network.gateway.ip:
            raise InvalidInput(f"{attachment.address.ip} is not an instance's address in {network.subnet}")
        for other in self.kernel.attached.values():
            if other.address.ip == attachment.address.ip and other.instance_id != attachment.instance_id:
                raise Conflict(f"{attachment.address.ip} is held by {other.instance_id}")
        self.kernel.attached[attachment.instance_id] = attachment

    async def detach(self, instance_id: str) -> None:
        """Forget the attachment."""
        self.kernel.attached.pop(instance_id, None)

    async def attachments(self) -> tuple[tuple[str, IPv4Address], ...]:
        """List what is attached."""
        return tuple((name, attached.address.ip) for name, attached in self.kernel.attached.items())

    async def collect(self, valid: frozenset[str]) -> frozenset[str]:
        """Forget the attachments of instances not in ``valid``."""
        gone = frozenset(self.kernel.attached) - valid
        for name in gone:
            del self.kernel.attached[name]
        return gone

    async def apply_services(self, table: ServiceTable) -> None:
        """Remember the table."""
        self._ready()
        keys = [(port.address, port.port, port.protocol) for port in table.ports]
        keys_of_nodes = [(port.node_port, port.protocol) for port in table.ports if port.node_port is not None]
        if len(set(keys)) != len(keys) or len(set(keys_of_nodes)) != len(keys_of_nodes):
            raise InvalidInput("two service ports want the same address and port")
        self.kernel.table = table

    async def reset_connections(self, addresses: frozenset[IPv4Address]) -> None:
        """Remember that these were reset."""
        self._ready()
        self.kernel.resets.append(addresses)

    def _ready(self) -> NodeNetwork:
        if self.network is None:
            raise NetworkFailure("the network is not configured")
        return self.network
