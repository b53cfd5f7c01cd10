"""Packets in, bytes out: nothing raises, nothing amplifies, and the prepared path says what the slow one says."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address

import pytest
from dnslib import EDNS0, QTYPE, DNSQuestion, DNSRecord, EDNSOption
from hypothesis import given, settings
from hypothesis import strategies as st
from kat_dns import wire
from kat_dns.responder import Responder
from kat_dns.zone import build

from kat_platform.interfaces.dns import DnsInstance, DnsView, DnsWorkload
from kat_platform.testing.conformance.dns import example_view

DOMAIN = "kat.cluster.local"


def _responder(view: DnsView | None = None) -> Responder:
    responder = Responder()
    responder.swap(build(view or example_view(), 5))
    return responder


RESPONDER = _responder()


def _headless(count: int) -> DnsView:
    made = tuple(DnsInstance(f"i-{index}", IPv4Address("10.100.4.0") + index, True) for index in range(count))
    return DnsView(DOMAIN, 1, (DnsWorkload("w", "s", None, (), made),))


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_arbitrary_bytes(packet: bytes) -> None:
    for stream in (False, True):
        answer = RESPONDER.respond(packet, stream=stream)
        if isinstance(answer, bytes):
            assert answer[:2] == packet[:2]
            assert answer[2] & 0x80


@settings(deadline=None)
@given(
    st.binary(min_size=2, max_size=2),
    st.sampled_from([b"\x00\x00", b"\x01\x00", b"\x01\x20"]),
    st.integers(0, 3),
    st.binary(max_size=300),
)
def test_packets_that_are_almost_questions(ident: bytes, flags: bytes, additional: int, rest: bytes) -> None:
    packet = ident + flags + b"\x00\x01\x00\x00\x00\x00\x00" + bytes([additional]) + rest
    parsed = wire.parse_query(packet)
    if isinstance(parsed, bytes):
        assert len(parsed) == 12 <= len(packet)
    RESPONDER.respond(packet)


@settings(deadline=None)
@given(st.data())
def test_changed_bytes_of_a_good_question(data: st.DataObject) -> None:
    query = DNSRecord.question(f"web.shop.{DOMAIN}")
    query.add_ar(EDNS0(udp_len=1232))
    packet = bytearray(query.pack())
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    answer = RESPONDER.respond(bytes(packet))
    if isinstance(answer, bytes):
        assert len(answer) <= 1232
        assert answer[2] & 0x80


@pytest.mark.parametrize("edns", [False, True])
@pytest.mark.parametrize("kind", ["A", "SRV", "PTR", "AAAA", "ANY"])
def test_the_prepared_answer_is_the_first_one_again(kind: str, edns: bool) -> None:
    responder = _responder()
    for name in (f"web.shop.{DOMAIN}", f"_http._tcp.web.shop.{DOMAIN}", "5.0.101.10.in-addr.arpa"):
        query = DNSRecord(q=DNSQuestion(name, getattr(QTYPE, kind)))
        if edns:
            query.add_ar(EDNS0(udp_len=1400))
        packet = bytes(query.pack())
        first, second = responder.respond(packet), responder.respond(b"\x12\x34" + packet[2:])
        assert isinstance(first, bytes)
        assert isinstance(second, bytes)
        assert second == b"\x12\x34" + first[2:]


def test_only_what_many_will_ask_is_kept() -> None:
    responder = _responder()
    odd = DNSRecord.question(f"web.shop.{DOMAIN}")
    odd.add_ar(EDNS0(opts=[EDNSOption(10, b"cookie!!")]))
    for packet in (
        bytes(DNSRecord.question(f"WEB.shop.{DOMAIN}").pack()),
        bytes(DNSRecord.question(f"nothing.shop.{DOMAIN}").pack()),
        bytes(odd.pack()),
    ):
        assert isinstance(responder.respond(packet), bytes)
        assert not responder.ready
    for kind in ("A", "AAAA", "TXT"):
        responder.respond(bytes(DNSRecord.question(f"web.shop.{DOMAIN}", kind).pack()))
    assert len(responder.ready) == 2
    responder.swap(responder.zone)
    assert not responder.ready


def test_the_number_of_prepared_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kat_dns.responder.MAX_READY", 3)
    responder = _responder()
    for size in range(512, 522):
        query = DNSRecord.question(f"web.shop.{DOMAIN}")
        query.add_ar(EDNS0(udp_len=size))
        responder.respond(bytes(query.pack()))
        assert len(responder.ready) <= 3


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("case", ["w.s", "W.s"])
def test_every_place_is_equally_likely_for_every_address(count: int, case: str) -> None:
    responder = _responder(_headless(count))
    packet = bytes(DNSRecord.question(f"{case}.{DOMAIN}").pack())
    rounds = 1200
    seen: Counter[tuple[int, str]] = Counter()
    for _ in range(rounds):
        answer = responder.respond(packet)
        assert isinstance(answer, bytes)
        order = [str(one.rdata) for one in DNSRecord.parse(answer).rr]
        assert len(set(order)) == count
        seen.update(enumerate(order))
    expected = rounds / count
    assert len(seen) == count * count
    assert all(abs(times - expected) < 6 * expected**0.5 for times in seen.values())  # six standard deviations


@pytest.mark.parametrize(("payload", "limit"), [(None, 512), (100, 512), (700, 700), (4096, 1232), (65535, 1232)])
def test_size_and_truncation(payload: int | None, limit: int) -> None:
    responder = _responder(_headless(120))
    query = DNSRecord.question(f"w.s.{DOMAIN}")
    if payload is not None:
        query.add_ar(EDNS0(udp_len=payload))
    packet = bytes(query.pack())
    for _ in range(2):
        answer = responder.respond(packet)
        assert isinstance(answer, bytes)
        reply = DNSRecord.parse(answer)
        assert limit - 16 < len(answer) <= limit
        assert reply.header.tc
        assert len([one for one in reply.ar if one.rtype == QTYPE.OPT]) == (payload is not None)
    whole = responder.respond(packet, stream=True)
    assert isinstance(whole, bytes)
    assert len(DNSRecord.parse(whole).rr) == 120


def test_header_flags() -> None:
    responder = _responder()
    for recursion in (False, True):
        responder.set_recursion(recursion)
        for rd in (0, 1):
            query = DNSRecord.question(f"web.shop.{DOMAIN}")
            query.header.rd = rd
            answer = responder.respond(bytes(query.pack()))
            assert isinstance(answer, bytes)
            header = DNSRecord.parse(answer).header
            assert (header.qr, header.aa, header.rd, header.ra, header.ad) == (1, 1, rd, recursion, 0)


def test_do_is_echoed_and_versions_are_refused() -> None:
    for flags, version, rcode in (("do", 0, 0), ("", 0, 0), ("do", 3, 1)):
        query = DNSRecord.question(f"web.shop.{DOMAIN}")
        query.add_ar(EDNS0(flags=flags, version=version, udp_len=4096))
        answer = RESPONDER.respond(bytes(query.pack()))
        assert isinstance(answer, bytes)
        (option,) = [one for one in DNSRecord.parse(answer).ar if one.rtype == QTYPE.OPT]
        assert (option.rclass, option.ttl >> 24, option.ttl >> 16 & 0xFF) == (1232, rcode, 0)
        assert bool(option.ttl & 0x8000) == (flags == "do")


def test_two_options_records_are_malformed() -> None:
    query = DNSRecord.question(f"web.shop.{DOMAIN}")
    query.add_ar(EDNS0(), EDNS0())
    answer = RESPONDER.respond(bytes(query.pack()))
    assert isinstance(answer, bytes)
    assert (len(answer), answer[3] & 0xF) == (12, wire.FORMERR)
