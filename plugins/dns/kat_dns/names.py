"""Domain names in their wire form (RFC 1035 section 3.1): length-prefixed labels and a final zero; pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final

MAX_NAME: Final = 255
ROOT: Final = b"\x00"
_ARPA: Final = b"\x07in-addr\x04arpa\x00"


def label(text: str) -> bytes:
    """Write one label in lower case; raises ``ValueError`` unless it has 1 to 63 bytes of ASCII."""
    raw = text.lower().encode("ascii")
    if not 1 <= len(raw) <= 63:
        raise ValueError(f"a label has 1 to 63 bytes, '{text[:80]}' has {len(raw)}")
    return bytes([len(raw)]) + raw


def name(text: str) -> bytes:
    """Write a dotted name in lower case; raises ``ValueError`` when it is not a valid one."""
    wire = b"".join(label(part) for part in text.rstrip(".").split(".")) + ROOT if text.rstrip(".") else ROOT
    if len(wire) > MAX_NAME:
        raise ValueError(f"a name has at most {MAX_NAME} bytes, '{text[:80]}' has {len(wire)}")
    return wire


def parents(wire: bytes) -> Iterator[bytes]:
    """Give the name's parents, the nearest first, the root last."""
    at = 0
    while wire[at]:
        at += wire[at] + 1
        yield wire[at:]


def reverse(address: IPv4Address) -> bytes:
    """Give the name under which an address is looked up, e.g. ``5.0.100.10.in-addr.arpa``."""
    return b"".join(label(str(octet)) for octet in reversed(address.packed)) + _ARPA


def reverse_apexes(network: IPv4Network) -> list[bytes]:
    """Give the reverse zones that together are exactly this network.

    Reverse names are cut at whole octets, so a network that is not has several: 172.16.0.0/12 has sixteen.
    """
    length = -(-network.prefixlen // 8) * 8
    count = length // 8
    apexes = []
    for part in network.subnets(new_prefix=length):
        octets = part.network_address.packed[:count]
        apexes.append(b"".join(label(str(octet)) for octet in reversed(octets)) + _ARPA)
    return apexes
