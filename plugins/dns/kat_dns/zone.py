"""The zone: a pure function from the cluster's view to what is answered.

Building is incremental: what a workload puts into the zone is kept as long as the workload is equal, so that a change
in one of several hundred costs that one, and a merge of dictionaries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kat_dns import names, wire
from kat_dns.records import NODE_LABEL, Fragment, RecordSet, Table, node_fragment, soa, workload_fragment
from kat_platform.interfaces.dns import DnsNode, DnsView, DnsWorkload

Source = DnsWorkload | DnsNode
Key = tuple[str, str]
"""Namespace and name of a workload; a node has an empty namespace."""


@dataclass(frozen=True, slots=True)
class Zone:
    """Everything answered with authority: ``table`` by name, ``apexes`` with the data of each zone's SOA."""

    domain: bytes
    ttl: int
    table: Table
    apexes: Mapping[bytes, bytes]
    fragments: Mapping[Key, tuple[Source, Fragment]]

    def find(self, query: wire.Query) -> wire.Answer | None:
        """Answer a question of class IN with authority; ``None`` when the name is not in any of our zones."""
        sets = self.table.get(query.lower)
        if sets is None:
            apex = self._apex(query.lower)
            return None if apex is None else self._negative(query, apex, wire.NXDOMAIN)
        if query.qtype == wire.ANY and sets:
            # RFC 8482: a small answer in place of everything, which would serve amplification only.
            return wire.Answer(records=(wire.record(wire.HINFO, self.ttl, b"\x07RFC8482\x00"),), aa=True)
        found = sets.get(query.qtype)
        if found is None:
            apex = self._apex(query.lower)
            return None if apex is None else self._negative(query, apex, wire.NOERROR)
        return wire.Answer(records=found.records, additional=found.additional, aa=True)

    def _apex(self, name: bytes) -> bytes | None:
        if name in self.apexes:
            return name
        return next((parent for parent in names.parents(name) if parent in self.apexes), None)

    def _negative(self, query: wire.Query, apex: bytes, rcode: int) -> wire.Answer:
        """Say that a name or type does not exist; the SOA's owner points into the question's own name."""
        offset = wire.HEADER.size + len(query.lower) - len(apex)
        owner = (0xC000 | offset).to_bytes(2, "big")
        return wire.Answer(rcode, authority=(wire.record(wire.SOA, self.ttl, self.apexes[apex], owner),), aa=True)


def empty_zone() -> Zone:
    """Give the zone before the first view: it knows no name, and none is ours."""
    return Zone(names.ROOT, 0, {}, {}, {})


def build(view: DnsView, ttl: int, previous: Zone | None = None) -> Zone:
    """Make the zone of a view, reusing what ``previous`` has of sources that did not change."""
    domain = names.name(view.domain)
    kept: Mapping[Key, tuple[Source, Fragment]] = {}
    if previous is not None and previous.domain == domain and previous.ttl == ttl:
        kept = previous.fragments
    fragments: dict[Key, tuple[Source, Fragment]] = {}
    for workload in view.workloads:
        key = workload.namespace, workload.name
        old = kept.get(key)
        if old is None or old[0] != workload:
            old = workload, workload_fragment(workload, domain, ttl)
        fragments[key] = old
    for node in view.nodes:  # after the workloads: NODE.node.DOMAIN stands above a namespace called "node"
        fragments["", node.name] = node, node_fragment(node, domain, ttl)
    table: Table = {}
    for space in {*view.namespaces, *(workload.namespace for workload in view.workloads)}:
        table[names.label(space) + domain] = {}
    table[NODE_LABEL + domain] = {}
    for _, fragment in fragments.values():
        table.update(fragment.table)
    apexes = _apexes(view, domain, ttl)
    _add_reverse(table, apexes, (fragment for _, fragment in fragments.values()))
    _add_apexes(table, apexes, view, domain, ttl)
    return Zone(domain, ttl, table, apexes, fragments)


def _primary(view: DnsView, domain: bytes) -> list[bytes]:
    """Name the servers of the zone: every node is one."""
    called = sorted(names.label(node.name) + NODE_LABEL + domain for node in view.nodes)
    return [name for name in called if len(name) <= names.MAX_NAME]


def _apexes(view: DnsView, domain: bytes, ttl: int) -> dict[bytes, bytes]:
    data = soa((_primary(view, domain) or [domain])[0], domain, view.serial, ttl)
    apexes = {domain: data}
    for network in view.reverse_zones:
        apexes.update(dict.fromkeys(names.reverse_apexes(network), data))
    return apexes


def _add_apexes(table: Table, apexes: Mapping[bytes, bytes], view: DnsView, domain: bytes, ttl: int) -> None:
    servers = _primary(view, domain)[:8]  # enough for anybody; all of them would not fit an answer
    by_name = {names.label(node.name) + NODE_LABEL + domain: node.address for node in view.nodes}
    glue = tuple(wire.record(wire.A, ttl, by_name[server].packed, server) for server in servers)
    for apex, data in apexes.items():
        sets = {wire.SOA: RecordSet((wire.record(wire.SOA, ttl, data),))}
        if servers:
            sets[wire.NS] = RecordSet(tuple(wire.record(wire.NS, ttl, server) for server in servers), glue)
        table[apex] = {**table.get(apex, {}), **sets}  # a zone of one address has its PTR at its apex


def _add_reverse(table: Table, apexes: Mapping[bytes, bytes], fragments: Iterable[Fragment]) -> None:
    """Add the PTR records of all addresses inside our reverse zones, and the names between them and the apex."""
    called: dict[bytes, list[bytes]] = {}
    for fragment in fragments:
        for reversed_name, data in fragment.pointers:
            called.setdefault(reversed_name, []).append(data)
    for reversed_name, found in called.items():
        between: list[bytes] = []
        for parent in (reversed_name, *names.parents(reversed_name)):
            if parent in apexes:
                table.update((name, {}) for name in between if name not in table)
                table[reversed_name] = {wire.PTR: RecordSet(tuple(dict.fromkeys(found)))}
                break
            between.append(parent)
