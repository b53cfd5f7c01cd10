"""Addresses: which subnet a node gets and which virtual IP a workload. Pure: the lowest that is free."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network

from kat_platform.model.cluster import ClusterConfigurationSpec


def next_subnet(spec: ClusterConfigurationSpec, taken: Collection[IPv4Network]) -> IPv4Network | None:
    """Give the first free node subnet, or ``None`` when all are taken."""
    used = set(taken)
    for index in range(spec.max_nodes):
        subnet = spec.node_subnet(index)
        if subnet not in used:
            return subnet
    return None


def next_vip(spec: ClusterConfigurationSpec, taken: Collection[str]) -> str | None:
    """Give the first free address of the service range, or ``None`` when all are taken."""
    used = set(taken)
    for address in spec.service_cidr.hosts():
        if str(address) not in used:
            return str(address)
    return None
