"""A name server written for plainness: it looks every question up in the view anew. Slow, and easy to believe."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from dnslib import CLASS, EDNS0, NS, OPCODE, PTR, QTYPE, RCODE, RR, SOA, SRV, A, DNSError, DNSHeader, DNSRecord
from pydantic import BaseModel, ConfigDict

from kat_platform.errors import DriverError
from kat_platform.interfaces.dns import DnsView, ListenAddress
from kat_platform.interfaces.driver import Capability, DriverContext, DriverInfo, DriverStatus, Health

TTL = 5

FREE_PORT_TRIES = 20
"""A port the system chose for UDP may be taken for TCP: then it is asked for another."""


class FakeDnsConfig(BaseModel):
    """The fake has nothing to configure."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Fact:
    """One record of the zone as text: owner without the final dot, type, and data (SRV: port and target)."""

    owner: str
    kind: str
    data: str


def facts(view: DnsView) -> Iterator[Fact]:
    """Give every record the view stands for: the table of SPEC section 5, line by line."""
    for node in view.nodes:
        name = f"{node.name}.node.{view.domain}"
        yield Fact(name, "A", str(node.address))
        yield Fact(node.address.reverse_pointer, "PTR", name)
    for workload in view.workloads:
        own = f"{workload.name}.{workload.namespace}.{view.domain}"
        ready = [one for one in workload.instances if one.ready]
        balanced = workload.virtual_ip
        for address in [one.address for one in ready] if balanced is None else [balanced]:
            yield Fact(own, "A", str(address))
        if balanced is not None:
            yield Fact(balanced.reverse_pointer, "PTR", own)
        for one in workload.instances:
            yield Fact(f"{one.name}.{own}", "A", str(one.address))
            yield Fact(one.address.reverse_pointer, "PTR", f"{one.name}.{own}")
        for one in ready:
            yield Fact(f"instances.{own}", "A", str(one.address))
        for port in workload.ports:
            service = f"_{port.name}._{port.protocol.value.lower()}.{own}"
            if balanced is not None:
                yield Fact(service, "SRV", f"{port.port} {own}")
            else:
                yield from (Fact(service, "SRV", f"{port.target_port} {one.name}.{own}") for one in ready)


def empty_names(view: DnsView) -> Iterator[str]:
    """Give the names that exist whether or not they have a record."""
    yield view.domain
    yield f"node.{view.domain}"
    for space in view.namespaces:
        yield f"{space}.{view.domain}"
    for workload in view.workloads:
        own = f"{workload.name}.{workload.namespace}.{view.domain}"
        yield own
        yield f"instances.{own}"
        for port in workload.ports:
            yield f"_{port.name}._{port.protocol.value.lower()}.{own}"


def is_ours(view: DnsView, name: str) -> bool:
    """Tell whether a name lies in the domain or in a reverse zone (networks of whole octets only)."""
    zones = [view.domain]
    for network in view.reverse_zones:
        octets = str(network.network_address).split(".")[: network.prefixlen // 8]
        zones.append(".".join([*reversed(octets), "in-addr.arpa"]))
    return any(name == zone or name.endswith(f".{zone}") for zone in zones)


def lookup(view: DnsView, name: str, kind: str) -> tuple[str, set[str]] | None:
    """Answer from the view: response code and data; ``None`` when the name is not ours."""
    if not is_ours(view, name):
        return None
    known = [fact for fact in facts(view) if is_ours(view, fact.owner)]
    found = {fact.data for fact in known if fact.owner == name and fact.kind == kind}
    existing = {*empty_names(view), *(fact.owner for fact in known)}
    exists = any(other == name or other.endswith(f".{name}") for other in existing)
    return ("NOERROR" if exists else "NXDOMAIN"), found


class FakeDns:
    """The dns contract over :func:`lookup`, on real sockets; tests may read ``views`` and ``upstreams``."""

    info: ClassVar[DriverInfo] = DriverInfo(
        "fake", "1.0.0", Capability.DNS, capabilities={"udp": True, "tcp": True}, summary="plain name server for tests"
    )
    Config: ClassVar[type[BaseModel]] = FakeDnsConfig

    def __init__(self, config: FakeDnsConfig | None, context: DriverContext) -> None:
        """Keep nothing; no I/O."""
        self.views: list[DnsView] = []
        self.upstreams: tuple[tuple[str, int], ...] = ()
        self._open: dict[ListenAddress, tuple[asyncio.BaseTransport, asyncio.Server]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """Close the sockets."""
        await self.listen(())

    async def status(self) -> DriverStatus:
        """Always well."""
        return DriverStatus(Health.OK, facts={"views": len(self.views)})

    async def publish(self, view: DnsView) -> None:
        """Answer from this view."""
        self.views.append(view)

    async def set_upstreams(self, servers: tuple[tuple[str, int], ...]) -> None:
        """Forward to the first of these."""
        self.upstreams = servers

    async def listen(self, addresses: tuple[ListenAddress, ...]) -> tuple[ListenAddress, ...]:
        """Answer on exactly these addresses."""
        opened: dict[ListenAddress, tuple[asyncio.BaseTransport, asyncio.Server]] = {}
        for address in addresses:
            if address in self._open:
                opened[address] = self._open[address]
                continue
            real, pair = await self._bind(address)
            opened[real] = pair
        for address in self._open.keys() - opened.keys():
            transport, server = self._open[address]
            transport.close()
            server.close()
        self._open = opened
        return tuple(opened)

    async def _bind(self, asked: ListenAddress) -> tuple[ListenAddress, tuple[asyncio.BaseTransport, asyncio.Server]]:
        loop = asyncio.get_running_loop()
        host = str(asked.address)
        tries = 1 if asked.port else FREE_PORT_TRIES
        while True:
            tries -= 1
            transport: asyncio.BaseTransport | None = None
            try:
                local = (host, asked.port)
                transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), local_addr=local)
                port = int(transport.get_extra_info("sockname")[1])
                server = await asyncio.start_server(self._stream, host, port)
                break
            except OSError as error:
                if transport is not None:
                    transport.close()
                if not tries:
                    raise DriverError(f"cannot answer on {host} port {asked.port}: {error}") from error
        return ListenAddress(asked.address, port), (transport, server)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        answer = await self.answer(packet, 65535)
        if answer is not None:
            writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()

    async def answer(self, packet: bytes, size: int) -> bytes | None:
        """Answer one packet, with at most ``size`` bytes."""
        try:
            query = DNSRecord.parse(packet)
        except DNSError:
            return bytes(DNSRecord(DNSHeader(qr=1, rcode=RCODE.FORMERR)).pack()) if len(packet) >= 12 else None
        if query.header.qr:
            return None
        reply = query.reply(ra=0, aa=0)
        reply.header.rcode = self._refusal(query)
        if len(query.questions) != 1 or len(query.pack()) != len(packet):
            reply = DNSRecord(DNSHeader(id=query.header.id, qr=1, rcode=RCODE.FORMERR))
        elif not reply.header.rcode and not self._fill(reply, str(query.q.qname).rstrip(".").lower()):
            if self.upstreams:
                return await self._forward(query)
            reply.header.rcode = RCODE.REFUSED
        if any(record.rtype == QTYPE.OPT for record in query.ar):
            version = query.ar[0].ttl >> 16 & 0xFF
            reply.add_ar(EDNS0(udp_len=1232, ext_rcode=1 if version else 0))
        whole = bytes(reply.pack())
        return whole if len(whole) <= size else bytes(reply.truncate().pack())

    async def _forward(self, query: DNSRecord) -> bytes:
        host, port = self.upstreams[0]
        found = DNSRecord.parse(await asyncio.to_thread(query.send, host, port, timeout=3))
        found.header.aa = 0
        return bytes(found.pack())

    def _refusal(self, query: DNSRecord) -> int:
        if query.header.opcode != OPCODE.QUERY:
            return cast(int, RCODE.NOTIMP)
        if query.questions and (query.q.qclass != CLASS.IN or query.q.qtype in (QTYPE.AXFR, QTYPE.IXFR)):
            return cast(int, RCODE.REFUSED)
        return cast(int, RCODE.NOERROR)

    def _fill(self, reply: DNSRecord, name: str) -> bool:
        view = self.views[-1] if self.views else DnsView("invalid", 0)
        kind = QTYPE[reply.q.qtype]
        found = lookup(view, name, kind)
        if found is None:
            return False
        reply.header.aa = 1
        reply.header.rcode = getattr(RCODE, found[0])
        data = [_data(kind, text) for text in found[1]]
        apex = SOA(view.domain, f"hostmaster.{view.domain}", (view.serial, 3600, 600, 86400, TTL))
        if name == view.domain and kind in ("SOA", "NS"):
            data = [apex if kind == "SOA" else NS(view.domain)]
        random.shuffle(data)
        for one in data:
            reply.add_answer(RR(reply.q.qname, reply.q.qtype, rdata=one, ttl=TTL))
        if not data:
            reply.add_auth(RR(view.domain, QTYPE.SOA, rdata=apex, ttl=TTL))
        return True


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, owner: FakeDns) -> None:
        self._owner = owner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._send(data, addr))
        self._owner._tasks.add(task)
        task.add_done_callback(self._owner._tasks.discard)

    async def _send(self, data: bytes, addr: Any) -> None:
        answer = await self._owner.answer(data, 512)
        if answer is not None and not self._transport.is_closing():
            self._transport.sendto(answer, addr)


def _data(kind: str, text: str) -> A | PTR | SRV:
    if kind == "A":
        return A(text)
    if kind == "SRV":
        port, target = text.split(" ")
        return SRV(priority=10, weight=10, port=int(port), target=target)
    return PTR(text)
