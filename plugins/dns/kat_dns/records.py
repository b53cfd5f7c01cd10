"""The records of one workload, one node and the zone's own, prepared as bytes; pure.

Every table maps a name (wire form, lower case) to its record sets by type. A name with no record set exists all
the same: it answers NODATA, so that looking up what lies below it is not cut short by a resolver (RFC 8020).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from kat_dns import names, wire
from kat_platform.interfaces.dns import DnsInstance, DnsNode, DnsPort, DnsWorkload

NODE_LABEL: Final = names.label("node")
INSTANCES_LABEL: Final = names.label("instances")


@dataclass(frozen=True, slots=True)
class RecordSet:
    """Records of one name and type, each complete with a pointer to the question as its owner."""

    records: tuple[bytes, ...]
    additional: tuple[bytes, ...] = ()


Table = dict[bytes, dict[int, RecordSet]]


@dataclass(frozen=True, slots=True)
class Fragment:
    """What one workload or node puts into the zone: its names, and what its addresses are called."""

    table: Table
    pointers: tuple[tuple[bytes, bytes], ...]
    """Reverse names and the PTR record of each."""


def addresses(found: Iterable[IPv4Address], ttl: int) -> dict[int, RecordSet]:
    """Give a set of A records, or none at all when there is no address."""
    made = tuple(wire.record(wire.A, ttl, address.packed) for address in found)
    return {wire.A: RecordSet(made)} if made else {}


def workload_fragment(workload: DnsWorkload, domain: bytes, ttl: int) -> Fragment:
    """Prepare everything about one workload (the table of SPEC section 5)."""
    space = names.label(workload.namespace) + domain
    own = names.label(workload.name) + space
    ready = [instance for instance in workload.instances if instance.ready]
    ready_addresses = sorted({instance.address for instance in ready})
    table: Table = {}
    pointers: list[tuple[IPv4Address, bytes]] = []
    for instance in workload.instances:
        called = names.label(instance.name) + own
        table[called] = addresses([instance.address], ttl)
        pointers.append((instance.address, called))
    table[INSTANCES_LABEL + own] = addresses(ready_addresses, ttl)
    table[own] = addresses(ready_addresses if workload.virtual_ip is None else [workload.virtual_ip], ttl)
    if workload.virtual_ip is not None:
        pointers.append((workload.virtual_ip, own))
    for port in workload.ports:
        protocol = names.label(f"_{port.protocol.value}") + own
        service = names.label(f"_{port.name or port.port}") + protocol
        table.setdefault(protocol, {})
        table[service] = _service(port, workload.virtual_ip, ready, own, ttl)
    return Fragment(_representable(table), _pointers(pointers, ttl))


def _service(
    port: DnsPort, virtual_ip: IPv4Address | None, ready: list[DnsInstance], own: bytes, ttl: int
) -> dict[int, RecordSet]:
    """Give the SRV records: the workload itself where it has a virtual IP, else each ready instance."""
    if virtual_ip is not None:
        targets = [(own, virtual_ip, port.port)]
    else:
        targets = [(names.label(one.name) + own, one.address, port.target_port) for one in ready]
    targets = [target for target in targets if len(target[0]) <= names.MAX_NAME]
    if not targets:
        return {}
    # RFC 2782: priority, weight, port, and a target that is never compressed.
    made = [b"\x00\x0a\x00\x0a" + number.to_bytes(2, "big") + target for target, _, number in targets]
    extra = [wire.record(wire.A, ttl, address.packed, target) for target, address, _ in targets]
    return {wire.SRV: RecordSet(tuple(wire.record(wire.SRV, ttl, data) for data in made), tuple(extra))}


def node_fragment(node: DnsNode, domain: bytes, ttl: int) -> Fragment:
    """Prepare the name of one node."""
    called = names.label(node.name) + NODE_LABEL + domain
    table = _representable({called: addresses([node.address], ttl)})
    return Fragment(table, _pointers([(node.address, called)], ttl))


def _pointers(called: Iterable[tuple[IPv4Address, bytes]], ttl: int) -> tuple[tuple[bytes, bytes], ...]:
    fitting = [(address, name) for address, name in called if len(name) <= names.MAX_NAME]
    return tuple((names.reverse(address), wire.record(wire.PTR, ttl, name)) for address, name in fitting)


def soa(primary: bytes, domain: bytes, serial: int, ttl: int) -> bytes:
    """Write the data of a SOA record; its last field is how long 'no such name' may be kept (RFC 2308)."""
    mailbox = names.label("hostmaster") + domain
    numbers = (serial & 0xFFFFFFFF, 3600, 600, 86400, ttl)
    return primary + mailbox + b"".join(number.to_bytes(4, "big") for number in numbers)


def _representable(table: Table) -> Table:
    """Leave out names over 255 bytes, which a long domain makes possible and which nobody could ask for."""
    return {name: sets for name, sets in table.items() if len(name) <= names.MAX_NAME}
