"""Tracked connections: list, forget, and make both ends notice. Layouts: ``linux/netfilter/nfnetlink_conntrack.h``."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from kat_net_wireguard.netlink import DUMP, NETFILTER, Netlink, NetlinkError, attribute, attributes, nested
from kat_net_wireguard.rules import PROBE_MARK

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_FAMILY = struct.pack("=BBH", socket.AF_INET, 0, 0)
_ORIGINAL, _REPLY, _ZONE = 1, 2, 18
_PROTOCOL_NUMBER = 1
_PROTOCOL_INFO = 4
_OPEN_STATES = frozenset({2, 3, 5})
"""SYN_RECV, ESTABLISHED, CLOSE_WAIT."""
_PORT = struct.Struct("!H")
_SO_MARK = 36


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a connection: who sends to whom."""

    source: IPv4Address
    source_port: int
    target: IPv4Address
    target_port: int


@dataclass(frozen=True, slots=True)
class Connection:
    """A tracked connection: as its opener sent it, and as the answers come (from the translated target)."""

    protocol: int
    original: Flow
    reply: Flow
    key: bytes
    """The kernel's own encoding of the original direction (and zone), for :func:`forget`."""
    tcp_state: int = 0
    """``enum tcp_conntrack`` of ``linux/netfilter/nf_conntrack_tcp.h``; 0 for other protocols."""


def connections(*, ends: frozenset[IPv4Address] | None = None, protocol: int | None = None) -> list[Connection]:
    """List the TCP and UDP connections tracked in this network namespace.

    A busy host tracks a hundred thousand. With ``ends`` only those that mention such an address, with ``protocol``
    only those of it are decoded (and a few more may be given): looking for bytes is five times cheaper.
    """
    marks = None if ends is None else [address.packed for address in ends]
    number = b"" if protocol is None else attribute(_PROTOCOL_NUMBER, bytes((protocol,)))[:5]
    found = []
    with Netlink(NETFILTER) as kernel:
        for payload in kernel.ask(_GET, _FAMILY, DUMP):
            if number not in payload or (marks is not None and not any(mark in payload for mark in marks)):
                continue
            entry = attributes(payload, 4)
            original, reply = entry.get(_ORIGINAL), entry.get(_REPLY)
            if original is None or reply is None:
                continue
            protocol, forward = _tuple(original)
            if forward is None or (back := _tuple(reply)[1]) is None:
                continue
            key = nested(_ORIGINAL, original) + (attribute(_ZONE, entry[_ZONE]) if _ZONE in entry else b"")
            found.append(Connection(protocol, forward, back, key, _tcp_state(entry.get(_PROTOCOL_INFO, b""))))
    return found


def _tcp_state(data: bytes) -> int:
    """Read ``CTA_PROTOINFO / CTA_PROTOINFO_TCP / CTA_PROTOINFO_TCP_STATE``."""
    state = attributes(attributes(data).get(1, b"")).get(1, b"")
    return state[0] if state else 0


def open_towards(address: IPv4Address) -> int:
    """Count the TCP connections others have opened to ``address`` (or to a virtual IP that led there) and not ended.

    One of which the answering side has sent its end does not count: there is nothing left for it to do.
    """
    ends = connections(ends=frozenset({address}), protocol=TCP)
    return sum(
        1
        for each in ends
        if each.protocol == TCP
        and each.reply.source == address
        and each.original.source != address
        and each.tcp_state in _OPEN_STATES
    )


def _tuple(data: bytes) -> tuple[int, Flow | None]:
    parts = attributes(data)
    ip, proto = attributes(parts.get(1, b"")), attributes(parts.get(2, b""))
    protocol = proto.get(_PROTOCOL_NUMBER, b"\0")[0]
    if protocol not in (TCP, UDP) or 1 not in ip or 2 not in ip:
        return protocol, None
    source_port, target_port = _PORT.unpack(proto[2][:2])[0], _PORT.unpack(proto[3][:2])[0]
    return protocol, Flow(IPv4Address(ip[1]), source_port, IPv4Address(ip[2]), target_port)


def forget(victims: Iterable[Connection]) -> int:
    """Drop these connections from tracking; give how many were still there."""
    count = 0
    with Netlink(NETFILTER) as kernel:
        for victim in victims:
            try:
                kernel.change(_DELETE, _FAMILY + victim.key)
                count += 1
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise
    return count


def touching(all_of_them: Iterable[Connection], addresses: frozenset[IPv4Address]) -> list[Connection]:
    """Pick the connections one of whose real ends is among ``addresses``. Pure."""
    return [one for one in all_of_them if one.reply.source in addresses or one.original.source in addresses]


def stale_udp(
    all_of_them: Iterable[Connection],
    service_cidr: IPv4Network,
    allowed: dict[tuple[IPv4Address, int], frozenset[tuple[IPv4Address, int]]],
) -> list[Connection]:
    """Pick the UDP flows that go on to a backend their service no longer has. Pure.

    ``allowed`` says which backends may keep flows, by the address and port the client sends to. A flow to a virtual
    IP that is no longer there is stale too.
    """
    stale = []
    for one in all_of_them:
        sent_to = (one.original.target, one.original.target_port)
        if one.protocol != UDP or (sent_to not in allowed and sent_to[0] not in service_cidr):
            continue
        if (one.reply.source, one.reply.source_port) not in allowed.get(sent_to, frozenset()):
            stale.append(one)
    return stale


def surviving_ends(victims: Iterable[Connection], addresses: frozenset[IPv4Address]) -> list[Flow]:
    """For each TCP connection with a vanished end, the flow from that end to the one that is left. Pure."""
    ends = []
    for one in victims:
        if one.protocol != TCP:
            continue
        if one.reply.source in addresses and one.original.source not in addresses:
            given = one.original  # the opener is left and knows its peer by the address it sent to
            ends.append(Flow(given.target, given.target_port, given.source, given.source_port))
        elif one.original.source in addresses and one.reply.source not in addresses:
            given = one.reply
            ends.append(Flow(given.target, given.target_port, given.source, given.source_port))
    return ends


def tickle(flows: Iterable[Flow]) -> None:
    """Make idle ends say something, so that they are answered with a reset: see :func:`segment`.

    Without it a client that only waits would wait for ever. The two segments are half the sequence space apart, so
    one of them is outside of any window; RFC 9293 (3.10.7.4) has the receiver answer that with an ACK of its own,
    which meets no tracked connection any more and is refused with a reset whose numbers are the right ones.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, _SO_MARK, PROBE_MARK)
        raw.setblocking(False)
        for flow in flows:
            for sequence in (0, 1 << 31):
                try:
                    raw.sendto(segment(flow, sequence), (str(flow.target), 0))
                except OSError:
                    break  # no route to that end any more: nothing there to be told


def segment(flow: Flow, sequence: int) -> bytes:
    """Write an empty TCP segment with the ACK flag, IP header included. Pure."""
    source, target = flow.source.packed, flow.target.packed
    head = struct.pack("!HHIIBBHHH", flow.source_port, flow.target_port, sequence, 0, 5 << 4, 0x10, 0, 0, 0)
    checksum = _checksum(source + target + struct.pack("!BBH", 0, TCP, len(head)) + head)
    head = head[:16] + struct.pack("!H", checksum) + head[18:]
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(head), 0, 0, 64, TCP, 0, source, target)
    return ip + head


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
