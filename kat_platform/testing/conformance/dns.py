"""What any DNS driver must do: the table of SPEC section 5, asked over real sockets on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from dnslib import CLASS, EDNS0, OPCODE, QTYPE, RCODE, RR, A, DNSHeader, DNSQuestion, DNSRecord

from kat_platform.errors import DriverError
from kat_platform.interfaces.dns import Dns, DnsInstance, DnsNode, DnsPort, DnsView, DnsWorkload, ListenAddress
from kat_platform.interfaces.driver import Driver, DriverContext
from kat_platform.interfaces.network import TransportProtocol
from kat_platform.testing.conformance.kit import CheckFailed, Kit, Subject, require
from kat_platform.testing.conformance.started import started

KIT: Final[Kit[Dns]] = Kit("dns")
LOOPBACK: Final = IPv4Address("127.0.0.1")
DOMAIN: Final = "kat.cluster.local"


def subject(factory: Callable[[DriverContext], Driver]) -> Subject[Dns]:
    """Make the kit's subject out of a driver's factory."""

    def checked(context: DriverContext) -> Dns:
        driver = factory(context)
        require(isinstance(driver, Dns), "the driver does not have every operation of the dns contract")
        assert isinstance(driver, Dns)
        return driver

    return started(checked)


def example_view(serial: int = 1) -> DnsView:
    """Give a small cluster: ``web`` with a virtual IP, ``db`` without (one of three not ready), two nodes."""
    http = DnsPort("http", TransportProtocol.TCP, 80, 8080)
    web = [DnsInstance(f"web-{index}", IPv4Address(f"10.100.2.{index}"), True) for index in (1, 2)]
    db = [DnsInstance(f"db-{index}", IPv4Address(f"10.100.3.{index}"), index < 3) for index in (1, 2, 3)]
    workloads = (
        DnsWorkload("web", "shop", IPv4Address("10.101.0.5"), (http,), tuple(web)),
        DnsWorkload("db", "shop", None, (DnsPort("sql", TransportProtocol.TCP, 5432, 5433),), tuple(db)),
        DnsWorkload("idle", "shop"),
    )
    nodes = (DnsNode("n1", IPv4Address("10.100.0.1")), DnsNode("n2", IPv4Address("10.100.2.254")))
    networks = (IPv4Network("10.100.0.0/16"), IPv4Network("10.101.0.0/16"))
    return DnsView(DOMAIN, serial, workloads, nodes, networks, ("shop", "empty"))


class _Once(asyncio.DatagramProtocol):
    """Waits for one datagram."""

    def __init__(self) -> None:
        self.found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.found.done():
            self.found.set_result(data)


async def ask_raw(where: ListenAddress, packet: bytes, *, wait: float = 3.0) -> bytes:
    """Send one datagram and give the answer; raises ``TimeoutError`` when none comes."""
    loop = asyncio.get_running_loop()
    remote = (str(where.address), where.port)
    transport, listener = await loop.create_datagram_endpoint(_Once, remote_addr=remote)
    try:
        transport.sendto(packet)
        async with asyncio.timeout(wait):
            return await listener.found
    finally:
        transport.close()


async def ask_stream(where: ListenAddress, packet: bytes) -> bytes:
    """Ask over TCP."""
    reader, writer = await asyncio.open_connection(str(where.address), where.port)
    try:
        async with asyncio.timeout(3):
            writer.write(len(packet).to_bytes(2, "big") + packet)
            return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()


async def _ask(where: ListenAddress, name: str, kind: str = "A") -> DNSRecord:
    return DNSRecord.parse(await ask_raw(where, DNSRecord.question(name, kind).pack()))


async def _ready(driver: Dns) -> ListenAddress:
    (where,) = await driver.listen((ListenAddress(LOOPBACK, 0),))
    require(where.port > 0, "listen gave no real port for port 0")
    await driver.publish(example_view())
    return where


def _data(answer: DNSRecord) -> set[str]:
    return {str(record.rdata) for record in answer.rr}


def _expect(answer: DNSRecord, expected: set[str]) -> None:
    question = answer.q.qname
    require(answer.header.rcode == RCODE.NOERROR, f"{question} answers {RCODE[answer.header.rcode]}, not NOERROR")
    require(answer.header.aa, f"{question} is answered without authority")
    require(_data(answer) == expected, f"{question} answers {sorted(_data(answer))}, not {sorted(expected)}")


def _expect_none(answer: DNSRecord, rcode: str) -> None:
    question = f"{answer.q.qname} {QTYPE[answer.q.qtype]}"
    found = RCODE[answer.header.rcode]
    require(found == rcode, f"{question} answers {found}, not {rcode}")
    require(not answer.rr, f"{question} has records")
    require([record.rtype for record in answer.auth] == [QTYPE.SOA], f"{question} has no SOA in its authority section")


@KIT.check("a workload with a virtual IP answers it, one without answers its ready instances")
async def workloads(driver: Dns) -> None:
    where = await _ready(driver)
    _expect(await _ask(where, f"web.shop.{DOMAIN}"), {"10.101.0.5"})
    _expect(await _ask(where, f"db.shop.{DOMAIN}"), {"10.100.3.1", "10.100.3.2"})
    _expect(await _ask(where, f"instances.web.shop.{DOMAIN}"), {"10.100.2.1", "10.100.2.2"})
    _expect(await _ask(where, f"instances.db.shop.{DOMAIN}"), {"10.100.3.1", "10.100.3.2"})


@KIT.check("an instance and a node answer their own address, an instance also while it is not ready")
async def single_names(driver: Dns) -> None:
    where = await _ready(driver)
    _expect(await _ask(where, f"web-2.web.shop.{DOMAIN}"), {"10.100.2.2"})
    _expect(await _ask(where, f"db-3.db.shop.{DOMAIN}"), {"10.100.3.3"})
    _expect(await _ask(where, f"n1.node.{DOMAIN}"), {"10.100.0.1"})


@KIT.check("SRV gives the service and its port, or each ready instance and the instances' own port")
async def services(driver: Dns) -> None:
    where = await _ready(driver)
    for name, expected in (
        (f"_http._tcp.web.shop.{DOMAIN}", {(80, f"web.shop.{DOMAIN}.")}),
        (f"_sql._tcp.db.shop.{DOMAIN}", {(5433, f"db-{index}.db.shop.{DOMAIN}.") for index in (1, 2)}),
    ):
        answer = await _ask(where, name, "SRV")
        found = {(record.rdata.port, str(record.rdata.target)) for record in answer.rr}
        require(found == expected, f"{name} answers {sorted(found)}, not {sorted(expected)}")


@KIT.check("reverse names of instances, virtual IPs and nodes give their names")
async def pointers(driver: Dns) -> None:
    where = await _ready(driver)
    for address, name in (
        ("10.100.2.1", f"web-1.web.shop.{DOMAIN}."),
        ("10.101.0.5", f"web.shop.{DOMAIN}."),
        ("10.100.0.1", f"n1.node.{DOMAIN}."),
    ):
        _expect(await _ask(where, IPv4Address(address).reverse_pointer, "PTR"), {name})
    _expect_none(await _ask(where, IPv4Address("10.100.9.9").reverse_pointer, "PTR"), "NXDOMAIN")


@KIT.check("a name that does not exist is NXDOMAIN with SOA, a type that does not is NODATA with SOA")
async def negatives(driver: Dns) -> None:
    where = await _ready(driver)
    for name in ("nothing.shop", "shop.shop", "web.elsewhere", "elsewhere", "n9.node", "_http._udp.web.shop"):
        _expect_none(await _ask(where, f"{name}.{DOMAIN}"), "NXDOMAIN")
    _expect_none(await _ask(where, f"web.shop.{DOMAIN}", "AAAA"), "NOERROR")
    for name in ("shop", "empty", "node", "_tcp.web.shop", "idle.shop", "instances.idle.shop"):
        _expect_none(await _ask(where, f"{name}.{DOMAIN}"), "NOERROR")
    _expect_none(await _ask(where, DOMAIN), "NOERROR")
    soa = await _ask(where, DOMAIN, "SOA")
    require([record.rtype for record in soa.rr] == [QTYPE.SOA], "the domain itself has no SOA record")


@KIT.check("the letters' case does not matter, and comes back as it was sent; TTLs are short")
async def case_is_preserved(driver: Dns) -> None:
    where = await _ready(driver)
    for name in (f"wEb.ShOp.{DOMAIN}", f"WEB.shop.{DOMAIN.upper()}", f"web.shop.{DOMAIN}"):
        answer = await _ask(where, name)
        _expect(answer, {"10.101.0.5"})
        require(str(answer.q.qname) == f"{name}.", f"the question came back as {answer.q.qname}, not {name}.")
        require(all(record.ttl <= 30 for record in answer.rr), "the TTL is over 30 s: changes would go unnoticed")


@KIT.check("several addresses come in random order: each is first about equally often")
async def random_order(driver: Dns) -> None:
    where = await _ready(driver)
    firsts = [str((await _ask(where, f"db.shop.{DOMAIN}")).rr[0].rdata) for _ in range(100)]
    share = firsts.count("10.100.3.1")
    require(20 <= share <= 80, f"of 100 answers {share} began with the same one of two addresses")


@KIT.check("EDNS is answered with EDNS, an unknown version with BADVERS; without EDNS there is none")
async def edns(driver: Dns) -> None:
    where = await _ready(driver)
    for version, rcode in ((0, 0), (1, 16)):
        query = DNSRecord.question(f"web.shop.{DOMAIN}")
        query.add_ar(EDNS0(version=version, udp_len=4096))
        answer = DNSRecord.parse(await ask_raw(where, query.pack()))
        options = [record for record in answer.ar if record.rtype == QTYPE.OPT]
        require(len(options) == 1, f"{len(options)} OPT records answer one")
        found = answer.header.rcode | (options[0].ttl >> 24) << 4
        require(found == rcode, f"EDNS version {version} is answered with {found}, not {rcode}")
    require(not (await _ask(where, f"web.shop.{DOMAIN}")).ar, "EDNS is sent to a client that did not use it")


@KIT.check("TCP gives what UDP gives; what does not fit a datagram is marked as truncated and whole over TCP")
async def streams(driver: Dns) -> None:
    where = await _ready(driver)
    many = tuple(DnsInstance(f"big-{index}", IPv4Address("10.100.4.0") + index, True) for index in range(1, 101))
    await driver.publish(DnsView(DOMAIN, 2, (DnsWorkload("big", "shop", None, (), many),), (), (), ("shop",)))
    query = DNSRecord.question(f"big.shop.{DOMAIN}").pack()
    short = await ask_raw(where, query)
    require(len(short) <= 512, f"a client without EDNS got {len(short)} bytes, more than 512")
    require(DNSRecord.parse(short).header.tc, "an answer that did not fit is not marked as truncated")
    whole = DNSRecord.parse(await ask_stream(where, query))
    require(len(whole.rr) == 100 and not whole.header.tc, f"TCP gave {len(whole.rr)} of 100 addresses")


@KIT.check("publish replaces the view at once and whole")
async def swap(driver: Dns) -> None:
    where = await _ready(driver)
    await _ask(where, f"web.shop.{DOMAIN}")
    moved = DnsWorkload("web", "shop", IPv4Address("10.101.0.9"))
    await driver.publish(DnsView(DOMAIN, 2, (moved,), (), (IPv4Network("10.101.0.0/16"),), ("shop",)))
    _expect(await _ask(where, f"web.shop.{DOMAIN}"), {"10.101.0.9"})
    _expect_none(await _ask(where, f"db.shop.{DOMAIN}"), "NXDOMAIN")
    _expect_none(await _ask(where, IPv4Address("10.101.0.5").reverse_pointer, "PTR"), "NXDOMAIN")


@KIT.check("malformed and hostile packets do no harm and are never answered with more than was sent")
async def hostile_packets(driver: Dns) -> None:
    where = await _ready(driver)
    good = DNSRecord.question(f"web.shop.{DOMAIN}").pack()
    two = DNSRecord(DNSHeader(), questions=[DNSQuestion("a.b"), DNSQuestion("c.d")]).pack()
    loop = good[:12] + b"\xc0\x0c\x00\x01\x00\x01"
    for packet in (b"", b"\0", good[:11], good[:20], good + b"x", two, loop, bytes(12), b"\xff" * 600):
        try:
            answer = await ask_raw(where, packet, wait=0.1)
        except TimeoutError:
            continue
        require(len(answer) <= len(packet), f"{len(packet)} malformed bytes were answered with {len(answer)}")
    _expect(await _ask(where, f"web.shop.{DOMAIN}"), {"10.101.0.5"})


@KIT.check("an answer is not answered; other classes, transfers and operations are refused")
async def not_ours_to_do(driver: Dns) -> None:
    where = await _ready(driver)
    reply = DNSRecord.question(f"web.shop.{DOMAIN}").reply().pack()
    try:
        await ask_raw(where, reply, wait=0.2)
    except TimeoutError:
        pass
    else:
        raise CheckFailed("an answer was answered: two servers could go on for ever")
    chaos = DNSRecord(DNSHeader(), q=DNSQuestion(f"web.shop.{DOMAIN}", QTYPE.A, CLASS.CH))
    update = DNSRecord(DNSHeader(opcode=OPCODE.UPDATE), q=DNSQuestion(DOMAIN, QTYPE.SOA))
    transfer = DNSRecord.question(DOMAIN, "AXFR")
    for query, rcode in ((chaos, "REFUSED"), (update, "NOTIMP"), (transfer, "REFUSED")):
        found = RCODE[DNSRecord.parse(await ask_raw(where, query.pack())).header.rcode]
        require(found == rcode, f"expected {rcode}, found {found}")


@asynccontextmanager
async def _upstream(asked: list[str]) -> AsyncIterator[tuple[str, int]]:
    """Run a name server that knows one address for every name, and writes down what it is asked."""

    class Server(asyncio.DatagramProtocol):
        transport: asyncio.DatagramTransport

        def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            query = DNSRecord.parse(data)
            asked.append(str(query.q.qname).lower())
            reply = query.reply()
            reply.add_answer(RR(query.q.qname, rdata=A("192.0.2.7"), ttl=60))
            self.transport.sendto(reply.pack(), addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Server, local_addr=(str(LOOPBACK), 0))
    try:
        yield transport.get_extra_info("sockname")
    finally:
        transport.close()


@KIT.check("other names go upstream, ours and our reverse names never; without an upstream they are REFUSED")
async def forwarding(driver: Dns) -> None:
    where = await _ready(driver)
    refused = await _ask(where, "www.example.org")
    require(RCODE[refused.header.rcode] == "REFUSED", "without an upstream other names must be REFUSED")
    asked: list[str] = []
    async with _upstream(asked) as server:
        await driver.set_upstreams((server,))
        answer = await _ask(where, "www.example.org")
        require(_data(answer) == {"192.0.2.7"}, "the upstream's answer did not come back")
        require(not answer.header.aa, "a forwarded answer claims authority")
        _expect_none(await _ask(where, f"secret.shop.{DOMAIN}"), "NXDOMAIN")
        _expect_none(await _ask(where, IPv4Address("10.100.77.7").reverse_pointer, "PTR"), "NXDOMAIN")
    require(set(asked) == {"www.example.org."}, f"the upstream was asked for {sorted(set(asked))}")


@KIT.check("listen is exact: what is no longer named is closed, and an address in use is a clear DriverError")
async def listening(driver: Dns) -> None:
    first = await _ready(driver)
    (second,) = await driver.listen((ListenAddress(IPv4Address("127.0.0.2"), 0),))
    _expect(await _ask(second, f"web.shop.{DOMAIN}"), {"10.101.0.5"})
    try:
        await ask_raw(first, DNSRecord.question(DOMAIN).pack(), wait=0.2)
    except (TimeoutError, ConnectionError):
        pass
    else:
        raise CheckFailed("an address that is no longer listened on still answers")
    loop = asyncio.get_running_loop()
    taken, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(str(LOOPBACK), 0))
    port = taken.get_extra_info("sockname")[1]
    try:
        await driver.listen((second, ListenAddress(LOOPBACK, port)))
    except DriverError as error:
        require(str(port) in str(error) and str(LOOPBACK) in str(error), "the error does not name the address")
    else:
        raise CheckFailed("an address in use did not raise DriverError")
    finally:
        taken.close()
    _expect(await _ask(second, f"web.shop.{DOMAIN}"), {"10.101.0.5"})
