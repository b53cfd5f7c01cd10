"""The zone agrees with the plain fake on every view and every question, however it was built."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from dnslib import QTYPE, RCODE, DNSQuestion, DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from kat_dns import names, wire
from kat_dns.zone import Zone, build

from kat_platform.interfaces.dns import DnsInstance, DnsNode, DnsPort, DnsView, DnsWorkload
from kat_platform.interfaces.network import TransportProtocol
from kat_platform.testing.conformance.dns import example_view
from kat_platform.testing.fakes.dns import facts, lookup

DOMAIN = "kat.cluster.local"
CLUSTER = IPv4Network("10.100.0.0/16")

labels = st.sampled_from(["a", "b", "web", "db", "x-1", "n1", "instances"])
overlay = st.integers(1, 40).map(lambda number: CLUSTER[256 + number])
instances = st.lists(
    st.builds(DnsInstance, st.sampled_from(["i-1", "i-2", "i-3"]), overlay, st.booleans()),
    max_size=3,
    unique_by=(lambda one: one.name, lambda one: one.address),
).map(tuple)
ports = st.lists(
    st.builds(
        DnsPort,
        st.sampled_from(["http", "sql"]),
        st.sampled_from(TransportProtocol),
        st.integers(1, 65535),
        st.integers(1, 65535),
    ),
    max_size=2,
    unique_by=lambda port: (port.name, port.protocol),
).map(tuple)
virtual = st.none() | st.integers(1, 20).map(lambda number: IPv4Address("10.101.0.0") + number)
workloads = st.lists(
    st.builds(DnsWorkload, labels, labels, virtual, ports, instances),
    max_size=4,
    unique_by=lambda one: (one.namespace, one.name),
).map(tuple)
nodes = st.lists(st.builds(DnsNode, labels, overlay), max_size=2, unique_by=lambda one: one.name).map(tuple)
views = st.builds(
    DnsView,
    st.just(DOMAIN),
    st.integers(0, 2**40),
    workloads,
    nodes,
    st.sampled_from([(), (CLUSTER,), (CLUSTER, IPv4Network("10.101.0.0/16"))]),
    st.lists(labels, max_size=2, unique=True).map(tuple),
)


def _ask(zone: Zone, name: str, kind: str) -> tuple[str, set[str]] | None:
    packet = bytes(DNSRecord(q=DNSQuestion(name, getattr(QTYPE, kind))).pack())
    query = wire.parse_query(packet)
    assert isinstance(query, wire.Query)
    answer = zone.find(query)
    if answer is None:
        return None
    assert answer.aa
    reply = DNSRecord.parse(wire.write(query, answer, limit=65535, recursion=False))
    assert len({(str(one.rname), str(one.rdata)) for one in reply.rr}) == len(reply.rr), "a record is there twice"
    if not reply.rr:
        assert [one.rtype for one in reply.auth] == [QTYPE.SOA]
        assert name.endswith(str(reply.auth[0].rname).rstrip("."))
    data = {str(one.rdata).rstrip(".") for one in reply.rr}
    if kind == "SRV":
        data = {f"{one.rdata.port} {str(one.rdata.target).rstrip('.')}" for one in reply.rr}
    return RCODE[reply.header.rcode], data


def _questions(view: DnsView) -> set[str]:
    owners = {fact.owner for fact in facts(view)}
    above = {owner.split(".", cut)[-1] for owner in owners for cut in (1, 2, 3) if owner.count(".") >= cut}
    below = {f"x.{owner}" for owner in owners}
    fixed = {f"node.{DOMAIN}", f"a.{DOMAIN}", f"web.a.{DOMAIN}", f"_tcp.web.a.{DOMAIN}", "example.org", "local"}
    return owners | above | below | fixed | {CLUSTER[9].reverse_pointer, CLUSTER[300].reverse_pointer}


@settings(max_examples=60, deadline=None)
@given(views)
def test_agrees_with_the_plain_fake(view: DnsView) -> None:
    if any(workload.namespace == "node" for workload in view.workloads):
        return
    zone = build(view, 5)
    for name in _questions(view):
        for kind in ("A", "AAAA", "SRV", "PTR"):
            assert _ask(zone, name, kind) == lookup(view, name, kind), (name, kind)


def test_a_workload_called_instances_stands_in_nobodys_way() -> None:
    own = DnsWorkload("instances", "a", None, (), (DnsInstance("instances-x1", CLUSTER[300], True),))
    other = DnsWorkload("web", "a", None, (), (DnsInstance("web-x1", CLUSTER[301], True),))
    zone = build(DnsView(DOMAIN, 1, (own, other), (), (), ()), 5)
    answers = {
        f"instances.a.{DOMAIN}": CLUSTER[300],
        f"instances.instances.a.{DOMAIN}": CLUSTER[300],
        f"instances-x1.instances.a.{DOMAIN}": CLUSTER[300],
        f"instances.web.a.{DOMAIN}": CLUSTER[301],
    }
    for name, address in answers.items():
        assert _ask(zone, name, "A") == ("NOERROR", {str(address)}), name


@settings(max_examples=50, deadline=None)
@given(views, views)
def test_building_on_another_zone_makes_no_difference(before: DnsView, after: DnsView) -> None:
    fresh, built_on = build(after, 5), build(after, 5, build(before, 5))
    assert (built_on.table, built_on.apexes) == (fresh.table, fresh.apexes)


def test_what_did_not_change_is_not_made_again() -> None:
    view = example_view()
    first = build(view, 5)
    moved = replace(view.workloads[0], virtual_ip=IPv4Address("10.101.0.77"))
    second = build(replace(view, serial=2, workloads=(moved, *view.workloads[1:])), 5, first)
    assert second.fragments["shop", "db"][1] is first.fragments["shop", "db"][1]
    assert second.fragments["shop", "web"][1] is not first.fragments["shop", "web"][1]


def _reply(view: DnsView, name: str, kind: str) -> DNSRecord:
    query = wire.parse_query(bytes(DNSRecord.question(name, kind).pack()))
    assert isinstance(query, wire.Query)
    answer = build(view, 5).find(query)
    assert answer is not None
    return DNSRecord.parse(wire.write(query, answer, limit=65535, recursion=False))


def test_apex_has_soa_and_name_servers_with_addresses() -> None:
    view = example_view(serial=7)
    assert "n1.node.kat.cluster.local. hostmaster.kat.cluster.local. 7 " in str(_reply(view, DOMAIN, "SOA").rr[0].rdata)
    servers = _reply(view, DOMAIN, "NS")
    assert {str(one.rdata) for one in servers.rr} == {f"n1.node.{DOMAIN}.", f"n2.node.{DOMAIN}."}
    assert {str(one.rdata) for one in servers.ar} == {"10.100.0.1", "10.100.2.254"}
    assert _reply(view, "100.10.in-addr.arpa", "SOA").rr


def test_any_is_answered_small() -> None:
    reply = _reply(example_view(), f"instances.web.shop.{DOMAIN}", "ANY")
    assert [one.rtype for one in reply.rr] == [QTYPE.HINFO]


def test_services_come_with_the_addresses_of_their_targets() -> None:
    reply = _reply(example_view(), f"_sql._tcp.db.shop.{DOMAIN}", "SRV")
    assert {str(one.rdata) for one in reply.ar} == {"10.100.3.1", "10.100.3.2"}


def test_a_node_stands_above_a_workload_of_a_namespace_called_node() -> None:
    view = replace(example_view(), workloads=(DnsWorkload("n1", "node", IPv4Address("10.101.0.1")),))
    assert {str(one.rdata) for one in _reply(view, f"n1.node.{DOMAIN}", "A").rr} == {"10.100.0.1"}


def test_names_that_nobody_could_ask_for_are_left_out() -> None:
    long = ".".join(["a" * 63, "b" * 63, "c" * 61])
    view = DnsView(long, 1, (DnsWorkload("w" * 63, "default", IPv4Address("10.101.0.1")),), (), (CLUSTER,))
    assert all(len(name) <= names.MAX_NAME for name in build(view, 5).table)


@pytest.mark.parametrize(
    ("network", "count", "first"),
    [
        ("10.0.0.0/8", 1, b"\x0210\x07in-addr\x04arpa\x00"),
        ("10.100.0.0/16", 1, b"\x03100\x0210\x07in-addr\x04arpa\x00"),
        ("172.16.0.0/12", 16, b"\x0216\x03172\x07in-addr\x04arpa\x00"),
        ("10.100.1.0/25", 128, b"\x010\x011\x03100\x0210\x07in-addr\x04arpa\x00"),
    ],
)
def test_reverse_zones_are_exactly_the_network(network: str, count: int, first: bytes) -> None:
    apexes = names.reverse_apexes(IPv4Network(network))
    assert len(set(apexes)) == count
    assert apexes[0] == first


def test_reverse_zones_of_single_addresses_hold_their_own_pointer() -> None:
    view = replace(example_view(), reverse_zones=(IPv4Network("10.100.2.0/25"),))
    reply = _reply(view, IPv4Address("10.100.2.1").reverse_pointer, "PTR")
    assert {str(one.rdata) for one in reply.rr} == {f"web-1.web.shop.{DOMAIN}."}
