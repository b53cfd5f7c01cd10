"""Dns: answers names of the cluster on one node, and forwards the rest.

Order: ``start`` → ``listen`` → any number of ``publish``. ``publish`` takes the whole view and swaps it at once:
a query sees either the old or the new one. It is called from the event loop and must return within milliseconds for a
few hundred instances. A detached node goes on answering from the last view.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol, runtime_checkable

from kat_platform.interfaces.driver import Driver
from kat_platform.interfaces.network import TransportProtocol


@dataclass(frozen=True, slots=True)
class DnsPort:
    """A named port for SRV records. ``target_port`` is the instances' own, ``port`` the virtual IP's."""

    name: str
    protocol: TransportProtocol
    port: int
    target_port: int


@dataclass(frozen=True, slots=True)
class DnsInstance:
    """An instance of a workload with an address."""

    name: str
    address: IPv4Address
    ready: bool


@dataclass(frozen=True, slots=True)
class DnsWorkload:
    """A workload with its virtual IP, where it has one, its ports and its instances."""

    name: str
    namespace: str
    virtual_ip: IPv4Address | None = None
    ports: tuple[DnsPort, ...] = ()
    instances: tuple[DnsInstance, ...] = ()


@dataclass(frozen=True, slots=True)
class DnsNode:
    """A node with its overlay address."""

    name: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class DnsView:
    """Everything the zone is made of. ``serial`` rises with every change."""

    domain: str
    serial: int
    workloads: tuple[DnsWorkload, ...] = ()
    nodes: tuple[DnsNode, ...] = ()
    reverse_zones: tuple[IPv4Network, ...] = ()
    """Networks whose reverse names this node answers itself (cluster and service CIDR)."""
    namespaces: tuple[str, ...] = ()
    """Names of all namespaces: a namespace that exists answers NODATA, one that does not NXDOMAIN."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to answer, by UDP and TCP. ``port`` 0 lets the system choose (tests)."""

    address: IPv4Address
    port: int = 53


@runtime_checkable
class Dns(Driver, Protocol):
    """Name service on one node; see the module."""

    async def listen(self, addresses: tuple[ListenAddress, ...]) -> tuple[ListenAddress, ...]:
        """Answer on exactly these addresses from now on; gives them with their real ports.

        Raises ``DriverError`` naming the address and who may be using it.
        """

    async def publish(self, view: DnsView) -> None:
        """Answer from this view from now on."""

    async def set_upstreams(self, servers: tuple[tuple[str, int], ...]) -> None:
        """Forward other names to these ``(address, port)``; empty: answer REFUSED."""
