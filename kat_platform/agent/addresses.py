"""Addresses: which address of the node's subnet an instance gets. Pure.

Freed addresses are used again as late as possible, so that a late packet for one instance does not reach another.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from kat_platform.errors import Unavailable


def next_address(subnet: IPv4Network, taken: Collection[str], after: str | None) -> IPv4Address:
    """Give the first free address behind ``after``, round the subnet; the first usable one is the gateway's.

    Raises ``Unavailable`` when none is free.
    """
    first, last = int(subnet.network_address) + 2, int(subnet.broadcast_address) - 1
    used = {int(IPv4Address(address)) for address in taken}
    start = first
    if after is not None and first <= int(IPv4Address(after)) < last:
        start = int(IPv4Address(after)) + 1
    for candidate in (*range(start, last + 1), *range(first, start)):
        if candidate not in used:
            return IPv4Address(candidate)
    raise Unavailable(f"all {last - first + 1} addresses of this node's subnet {subnet} are in use")


def interface(subnet: IPv4Network, address: str) -> IPv4Interface:
    """Give the address with its subnet's prefix length."""
    return IPv4Interface(f"{address}/{subnet.prefixlen}")
