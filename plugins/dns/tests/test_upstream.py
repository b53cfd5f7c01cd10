"""Forwarding against name servers that are slow, wrong, lying, truncating or dead."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, SOA, A, DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from kat_dns import reply, wire
from kat_dns.cache import ReplyCache, key_of
from kat_dns.config import DnsConfig
from kat_dns.upstream import Forwarder

NAME = "www.example.org"
Handler = Callable[[DNSRecord], list[bytes]]
Server = tuple[str, int]


def _query(name: str = NAME, *, edns: bool = True, kind: str = "A") -> wire.Query:
    asked = DNSRecord.question(name, kind)
    if edns:
        asked.add_ar(EDNS0(udp_len=4096))
    parsed = wire.parse_query(bytes(asked.pack()))
    assert isinstance(parsed, wire.Query)
    return parsed


def _good(query: DNSRecord, address: str = "192.0.2.1", ttl: int = 60, count: int = 1) -> DNSRecord:
    answer = query.reply(ra=1, aa=0)
    for _ in range(count):
        answer.add_answer(RR(query.q.qname, rdata=A(address), ttl=ttl))
    answer.add_ar(EDNS0(udp_len=1232))
    return answer


@asynccontextmanager
async def _server(handle: Handler, stream: Handler | None = None) -> AsyncIterator[Server]:
    class Datagrams(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.DatagramTransport, transport)

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            for answer in handle(DNSRecord.parse(data)):
                self.transport.sendto(answer, addr)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        for answer in (stream or handle)(DNSRecord.parse(packet)):
            writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()

    loop = asyncio.get_running_loop()
    while True:
        transport, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
        where = transport.get_extra_info("sockname")
        try:
            server = await asyncio.start_server(connected, *where)
            break
        except OSError:  # somebody else has this number for TCP: take another one
            transport.close()
    try:
        yield where
    finally:
        transport.close()
        server.close()


@asynccontextmanager
async def _forwarder(*servers: Server, **settings: float) -> AsyncIterator[Forwarder]:
    config = {"try_timeout": 0.2, "forward_timeout": 1.0} | settings
    forwarder = Forwarder(DnsConfig.model_validate(config))
    forwarder.set_servers(servers)
    try:
        yield forwarder
    finally:
        await forwarder.close()


async def _ask(forwarder: Forwarder, query: wire.Query, limit: int = 1232) -> DNSRecord:
    return DNSRecord.parse(await forwarder.resolve(query, limit=limit))


async def test_answer_comes_back_with_the_clients_id_case_and_our_own_edns() -> None:
    async with _server(lambda query: [_good(query).pack()]) as where, _forwarder(where) as forwarder:
        query = _query("wWw.Example.org")
        answer = await _ask(forwarder, query)
        assert (answer.header.id, str(answer.q.qname)) == (query.id, "wWw.Example.org.")
        assert [str(one.rdata) for one in answer.rr] == ["192.0.2.1"]
        assert (answer.header.aa, answer.header.ra, len(answer.ar)) == (0, 1, 1)
        assert not (await _ask(forwarder, _query("other.example", edns=False))).ar


async def test_kept_answers_grow_old_and_are_shared_across_case() -> None:
    async with _server(lambda query: [_good(query).pack()]) as where, _forwarder(where) as forwarder:
        assert forwarder.remembered(_query(), limit=1232) is None
        await _ask(forwarder, _query())
        again = forwarder.remembered(_query("WWW.example.ORG"), limit=1232)
        assert again is not None
        assert str(DNSRecord.parse(again).q.qname) == "WWW.example.ORG."
        assert (forwarder.forwarded, forwarder.hits) == (1, 1)
        forwarder.set_servers((("127.0.0.1", 1),))
        assert forwarder.remembered(_query(), limit=1232) is None


async def test_equal_questions_at_once_are_asked_once() -> None:
    asked: list[str] = []

    def handle(query: DNSRecord) -> list[bytes]:
        asked.append(str(query.q.qname))
        return [_good(query).pack()]

    async with _server(handle) as where, _forwarder(where) as forwarder:
        answers = await asyncio.gather(*(_ask(forwarder, _query()) for _ in range(50)))
        assert all(answer.rr for answer in answers)
        assert len(asked) == 1


async def test_one_who_goes_away_does_not_take_the_answer_from_the_others() -> None:
    async with _server(lambda query: [_good(query).pack()]) as where, _forwarder(where) as forwarder:
        first = asyncio.create_task(_ask(forwarder, _query()))
        second = asyncio.create_task(_ask(forwarder, _query()))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).rr


async def test_forged_answers_are_passed_over() -> None:
    def handle(query: DNSRecord) -> list[bytes]:
        wrong_id, wrong_name = _good(query, "203.0.113.1"), _good(DNSRecord.question("evil.example"), "203.0.113.2")
        wrong_id.header.id = (query.header.id + 1) & 0xFFFF
        wrong_name.header.id = query.header.id
        question = _good(query, "203.0.113.3")
        question.header.qr = 0
        return [wrong_id.pack(), wrong_name.pack(), question.pack(), b"\x00", _good(query).pack()]

    async with _server(handle) as where, _forwarder(where) as forwarder:
        assert [str(one.rdata) for one in (await _ask(forwarder, _query())).rr] == ["192.0.2.1"]


async def test_truncated_answers_are_asked_again_by_tcp() -> None:
    def short(query: DNSRecord) -> list[bytes]:
        answer = query.reply()
        answer.header.tc = 1
        return [answer.pack()]

    async with _server(short, lambda query: [_good(query, count=60).pack()]) as where, _forwarder(where) as forwarder:
        assert len((await _ask(forwarder, _query(), limit=65535)).rr) == 60
        cut = forwarder.remembered(_query(edns=False), limit=512)
        assert cut is not None
        assert len(cut) <= 512
        assert DNSRecord.parse(cut).header.tc
        assert DNSRecord.parse(cut).rr


async def test_a_dead_server_costs_its_timeout_once() -> None:
    dead: list[DNSRecord] = []

    def silent(query: DNSRecord) -> list[bytes]:
        dead.append(query)
        return []

    async with (
        _server(silent) as first,
        _server(lambda query: [_good(query).pack()]) as second,
        _forwarder(first, second) as forwarder,
    ):
        assert (await _ask(forwarder, _query("a.example"))).rr
        assert (await _ask(forwarder, _query("b.example"))).rr
        assert len(dead) == 1


@pytest.mark.parametrize("rcode", [RCODE.SERVFAIL, RCODE.REFUSED])
async def test_a_server_that_fails_is_passed_over(rcode: int) -> None:
    def failing(query: DNSRecord) -> list[bytes]:
        answer = query.reply()
        answer.header.rcode = rcode
        return [answer.pack()]

    async with (
        _server(failing) as first,
        _server(lambda query: [_good(query).pack()]) as second,
        _forwarder(first, second) as forwarder,
    ):
        assert (await _ask(forwarder, _query())).rr


async def test_servfail_when_all_fail_and_nothing_is_kept() -> None:
    async with _forwarder(("127.0.0.1", 1), ("127.0.0.1", 2)) as forwarder:
        answer = await _ask(forwarder, _query())
        assert answer.header.rcode == RCODE.SERVFAIL
        assert forwarder.cached == 0
        assert forwarder.failed == 1


async def test_a_server_that_refuses_edns_is_asked_without() -> None:
    def old(query: DNSRecord) -> list[bytes]:
        if query.ar:
            answer = query.reply()
            answer.ar.clear()
            answer.header.rcode = RCODE.FORMERR
            return [answer.pack()]
        answer = _good(query)
        answer.ar.clear()
        return [answer.pack()]

    async with _server(old) as where, _forwarder(where) as forwarder:
        assert (await _ask(forwarder, _query())).rr


async def test_too_much_under_way_is_servfail() -> None:
    async with _server(lambda _: []) as where, _forwarder(where, max_forwarded=1) as forwarder:
        first = asyncio.create_task(_ask(forwarder, _query("a.example")))
        await asyncio.sleep(0)
        second = await _ask(forwarder, _query("b.example"))
        assert second.header.rcode == RCODE.SERVFAIL
        assert not first.done()
        await first


async def test_no_such_name_is_kept_as_long_as_its_soa_says() -> None:
    def handle(query: DNSRecord) -> list[bytes]:
        answer = query.reply()
        answer.header.rcode = RCODE.NXDOMAIN
        answer.add_auth(
            RR("example.org", QTYPE.SOA, ttl=900, rdata=SOA("ns.example.org", "h.example.org", (1, 2, 3, 4, 30)))
        )
        return [answer.pack()]

    async with _server(handle) as where, _forwarder(where) as forwarder:
        assert (await _ask(forwarder, _query())).header.rcode == RCODE.NXDOMAIN
        assert forwarder.cached == 1
    query = _query()
    found = reply.read(handle(DNSRecord.parse(reply.ask(query, 7, edns=True)))[0], query, 7)
    assert (found.lifetime, found.negative) == (30, True)


def _read(ttl: int) -> tuple[wire.Query, reply.Reply]:
    query = _query()
    packet = bytes(_good(DNSRecord.parse(reply.ask(query, 7, edns=True)), ttl=ttl).pack())
    return query, reply.read(packet, query, 7)


def test_cache_honours_ttl_and_bounds() -> None:
    cache = ReplyCache(entries=2, max_ttl=100, negative_ttl=10)
    query, found = _read(ttl=60)
    cache.put(key_of(query), found, now=0.0)
    assert cache.get(key_of(query), 59.9) == (found, 59)
    assert DNSRecord.parse(reply.write(query, found, age=59, limit=1232)).rr[0].ttl == 1
    assert cache.get(key_of(query), 60.0) is None
    assert len(cache) == 0
    _, long = _read(ttl=10_000)
    cache.put(key_of(query), long, now=0.0)
    assert cache.get(key_of(query), 100.0) is None
    _, never = _read(ttl=0)
    cache.put(key_of(query), never, now=0.0)
    assert len(cache) == 0
    for name in ("a.example", "b.example", "c.example"):
        cache.put(key_of(_query(name)), found, now=0.0)
    assert len(cache) == 2
    assert cache.get(key_of(_query("a.example")), 1.0) is None


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_garbage_from_upstream_is_malformed_and_nothing_else(packet: bytes) -> None:
    query = _query()
    for raw in (packet, b"\x00\x07\x80\x00\x00\x01\x00\x02\x00\x01\x00\x01" + query.question + packet):
        try:
            found = reply.read(raw, query, 7)
        except wire.Malformed:
            continue
        for limit in (512, 1232):
            written = reply.write(query, found, age=random.randint(0, 99), limit=limit)
            assert len(written) <= limit
