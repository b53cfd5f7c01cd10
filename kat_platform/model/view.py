"""View: what one node needs to know, as the API streams it to the node's agent.

The stream is a sequence of items, each with a key and a body; a body of ``None`` removes the key. The first pass
sends everything and ends with a ``synced`` line; from then on changed items follow. A node is told only what it
needs: its own instances in full, of the others no more than address and readiness.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from pydantic import Field

from kat_platform.model.base import Model
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.instance import InstanceRecord
from kat_platform.model.load_balancer import VirtualLoadBalancerSpec
from kat_platform.model.workload import Workload


class NodeItem(Model):
    """Another node (or this one): what the mesh and DNS need."""

    name: str
    subnet: IPv4Network | None = None
    public_key: str = ""
    addresses: tuple[str, ...] = ()
    listen_port: int = 51820
    alive: bool = True
    control_plane: bool = False


class EndpointItem(Model):
    """An instance behind a service, on any node."""

    id: str
    node: str
    address: IPv4Address
    ready: bool
    draining: bool = False


class ServiceItem(Model):
    """A workload as DNS and load balancing see it: its virtual IP, its ports and its instances."""

    namespace: str
    workload: str
    virtual_ip: IPv4Address | None = None
    spec: VirtualLoadBalancerSpec | None = None
    endpoints: tuple[EndpointItem, ...] = ()


class AssignmentItem(Model):
    """An instance bound to this node with everything needed to run it."""

    record: InstanceRecord
    document: Workload
    health_check_from: VirtualLoadBalancerSpec | None = None
    """The load balancer's spec, for its health check."""
    secrets: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Values (base64) of the secrets it uses, by name and key; never logged."""


class ClusterItem(Model):
    """The cluster's configuration and where its API answers."""

    configuration: ClusterConfiguration
    api_endpoints: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    domain_serial: int = 0


class TrustItem(Model):
    """Whose certificates are accepted: the CAs, and which of their certificates are refused all the same."""

    authorities: tuple[str, ...] = ()
    """Certificates of the CAs (PEM), the oldest first; none while the cluster has never changed its CA."""
    signer: str = ""
    """Fingerprint of the one that signs: who has a certificate of another one renews it."""
    store_turn: str = ""
    """The control-plane node that is to start its member of the store anew."""
    revoked: tuple[str, ...] = ()
    """Serial numbers of revoked certificates, hexadecimal (``0x...``)."""


class ReportBody(Model):
    """What an agent sends: its node's report where it changed, and the status of changed instances.

    ``instances`` maps ``NAMESPACE/ID`` to a status; ``events`` are recorded as they are.
    """

    node: dict[str, object] | None = None
    instances: dict[str, dict[str, object]] = Field(default_factory=dict)
    events: tuple[dict[str, object], ...] = ()
