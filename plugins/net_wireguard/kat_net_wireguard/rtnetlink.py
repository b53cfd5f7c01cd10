"""Links, addresses, routes and neighbours: typed calls over :mod:`netlink`. Layouts: ``linux/rtnetlink.h``."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from socket import AF_INET, AF_UNSPEC

from kat_net_wireguard.netlink import (
    CREATE,
    DUMP,
    EXCL,
    REPLACE,
    ROUTE,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    nested,
    number,
    text,
)

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _NEWNEIGH = 24, 28
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE_HEAD = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_UP = 0x1
_ONLINK = 4
_SCOPE_GLOBAL, _SCOPE_LINK = 0, 253
_PERMANENT = 0x80


@dataclass(frozen=True, slots=True)
class Link:
    """One interface: its name, index, free text set by its maker, kind (``veth``, ``bridge``) and whether it is up."""

    name: str
    index: int
    alias: str
    kind: str
    up: bool
    mtu: int


def _link(payload: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(payload)
    found = attributes(payload, _LINK.size)
    kind = attributes(found.get(18, b"")).get(1, b"")
    return Link(
        _string(found.get(3, b"")),
        index,
        _string(found.get(20, b"")),
        _string(kind),
        bool(flags & _UP),
        struct.unpack("=I", found.get(4, bytes(4)))[0],
    )


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def links(kernel: Netlink) -> tuple[Link, ...]:
    """List all interfaces of the namespace."""
    request = _LINK.pack(AF_UNSPEC, 0, 0, 0, 0) + number(29, 1 << 3)  # IFLA_EXT_MASK: without statistics
    return tuple(_link(payload) for payload in kernel.ask(_GETLINK, request, DUMP))


def link(kernel: Netlink, name: str) -> Link | None:
    """Find an interface by name."""
    try:
        answers = list(kernel.ask(_GETLINK, _LINK.pack(AF_UNSPEC, 0, 0, 0, 0) + text(3, name)))
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return _link(answers[0])


def add_link(kernel: Netlink, name: str, kind: str) -> None:
    """Make an interface of a kind that needs no data (``bridge``, ``wireguard``); one that exists is an error."""
    body = _LINK.pack(AF_UNSPEC, 0, 0, 0, 0) + text(3, name) + nested(18, text(1, kind))
    kernel.change(_NEWLINK, body, CREATE | EXCL)


@dataclass(frozen=True, slots=True)
class VethEnd:
    """One end of a virtual cable."""

    name: str
    mac: bytes
    mtu: int


def add_veth(kernel: Netlink, near: VethEnd, far: VethEnd, namespace: int) -> None:
    """Make a virtual cable whose far end is born in the namespace of the file descriptor ``namespace``."""
    peer = _LINK.pack(AF_UNSPEC, 0, 0, 0, 0) + _end(far) + number(28, namespace)
    info = nested(18, text(1, "veth"), nested(2, attribute(1, peer)))
    kernel.change(_NEWLINK, _LINK.pack(AF_UNSPEC, 0, 0, 0, 0) + _end(near) + info, CREATE | EXCL)


def _end(end: VethEnd) -> bytes:
    return text(3, end.name) + attribute(1, end.mac) + number(4, end.mtu)


def set_link(kernel: Netlink, index: int, *, alias: str | None = None, mtu: int | None = None, up: bool = True) -> None:
    """Change an interface's alias, MTU and state in one request."""
    body = _LINK.pack(AF_UNSPEC, 0, index, _UP if up else 0, _UP)
    if alias is not None:
        body += text(20, alias)
    if mtu is not None:
        body += number(4, mtu)
    kernel.change(_NEWLINK, body)


def delete_link(kernel: Netlink, index: int) -> None:
    """Remove an interface; one that is gone is no error."""
    try:
        kernel.change(_DELLINK, _LINK.pack(AF_UNSPEC, 0, index, 0, 0))
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise


def addresses(kernel: Netlink, index: int) -> tuple[IPv4Interface, ...]:
    """List an interface's IPv4 addresses."""
    found = []
    for payload in kernel.ask(_GETADDR, _ADDRESS.pack(AF_INET, 0, 0, 0, 0), DUMP):
        _, prefix, _, _, of = _ADDRESS.unpack_from(payload)
        if of == index:
            found.append(IPv4Interface((attributes(payload, _ADDRESS.size)[2], prefix)))
    return tuple(found)


def set_addresses(kernel: Netlink, index: int, wanted: IPv4Interface) -> None:
    """Make ``wanted`` the interface's only IPv4 address."""
    present = addresses(kernel, index)
    if wanted not in present:
        kernel.change(_NEWADDR, _address(index, wanted), CREATE | REPLACE)
    for other in present:
        if other != wanted:
            kernel.change(_DELADDR, _address(index, other))


def _address(index: int, of: IPv4Interface) -> bytes:
    head = _ADDRESS.pack(AF_INET, of.network.prefixlen, 0, _SCOPE_GLOBAL, index)
    return head + attribute(2, of.ip.packed) + attribute(1, of.ip.packed)


def set_route(
    kernel: Netlink,
    to: IPv4Network,
    index: int,
    *,
    via: IPv4Address | None = None,
    source: IPv4Address | None = None,
) -> None:
    """Route ``to`` over an interface, replacing a route to the same place; ``source`` is what local senders use."""
    scope = _SCOPE_LINK if via is None else _SCOPE_GLOBAL
    flags = 0 if via is None else _ONLINK
    # table main (254), protocol static (4), type unicast (1)
    body = _ROUTE_HEAD.pack(AF_INET, to.prefixlen, 0, 0, 254, 4, scope, 1, flags)
    if to.prefixlen:
        body += attribute(1, to.network_address.packed)
    body += number(4, index)
    if via is not None:
        body += attribute(5, via.packed)
    if source is not None:
        body += attribute(7, source.packed)
    kernel.change(_NEWROUTE, body, CREATE | REPLACE)


def set_neighbour(kernel: Netlink, index: int, address: IPv4Address, mac: bytes) -> None:
    """Fix the link-layer address of a neighbour for good, so that nothing ever has to be asked."""
    body = _NEIGHBOUR.pack(AF_INET, index, _PERMANENT, 0, 0) + attribute(1, address.packed) + attribute(2, mac)
    kernel.change(_NEWNEIGH, body, CREATE | REPLACE)


def open_here() -> Netlink:
    """Open a route socket in the calling thread's network namespace."""
    return Netlink(ROUTE)
