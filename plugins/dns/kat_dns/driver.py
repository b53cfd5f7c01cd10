"""The driver: what the agent calls, and who of the other modules does it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Coroutine
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, ClassVar, Final

import structlog
from pydantic import BaseModel

from kat_dns import __version__
from kat_dns.config import DnsConfig
from kat_dns.responder import Responder
from kat_dns.server import TcpServer, UdpServer
from kat_dns.upstream import Forwarder
from kat_dns.zone import build
from kat_platform.errors import DriverError
from kat_platform.interfaces.dns import DnsView, ListenAddress
from kat_platform.interfaces.driver import Capability, DriverContext, DriverInfo, DriverStatus, Health

log = structlog.get_logger(__name__)

_TRIES: Final = 20
"""How often a free port is looked for that is free for both UDP and TCP."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both servers of one address."""

    asked: ListenAddress
    real: ListenAddress
    udp: UdpServer
    tcp: TcpServer


class KatDns:
    """Answers the cluster's names on this node; implements ``interfaces.dns.Dns``."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="kat",
        version=__version__,
        capability=Capability.DNS,
        capabilities={"udp": True, "tcp": True, "edns": True, "forwarding": True, "reverse": True},
        summary="authoritative for the cluster domain and its reverse zones, forwards the rest",
    )
    Config: ClassVar[type[BaseModel]] = DnsConfig

    def __init__(self, config: DnsConfig, context: DriverContext) -> None:
        """Keep the parts; no I/O."""
        self._config = config
        self._responder = Responder()
        self._forwarder = Forwarder(config)
        self._asked_upstreams: tuple[tuple[str, int], ...] = ()
        self._pairs: tuple[_Pair, ...] = ()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Nothing to prepare: sockets come with :meth:`listen`."""

    async def stop(self) -> None:
        """Close the sockets and give up what is being forwarded."""
        pairs, self._pairs = self._pairs, ()
        for pair in pairs:
            await self._close(pair)
        for task in list(self._tasks):
            task.cancel()
        await self._forwarder.close()

    async def status(self) -> DriverStatus:
        """Tell what is listened on and how much was asked, by how it was answered."""
        facts: dict[str, Any] = {
            "listening": [f"{pair.real.address}:{pair.real.port}" for pair in self._pairs],
            "upstreams": [server[0] for server in self._forwarder.servers],
            "names": len(self._responder.zone.table),
            "udpQueries": sum(pair.udp.queries for pair in self._pairs),
            "tcpQueries": sum(pair.tcp.queries for pair in self._pairs),
            "dropped": sum(pair.udp.dropped + pair.tcp.dropped for pair in self._pairs),
            "forwarded": self._forwarder.forwarded,
            "forwardCacheHits": self._forwarder.hits,
            "forwardFailed": self._forwarder.failed,
            "forwardCached": self._forwarder.cached,
        }
        if self._pairs and not self._forwarder.servers:
            return DriverStatus(Health.DEGRADED, "no upstream name server: only the cluster's names resolve", facts)
        return DriverStatus(Health.OK, facts=facts)

    async def listen(self, addresses: tuple[ListenAddress, ...]) -> tuple[ListenAddress, ...]:
        """Answer on exactly these addresses: what is open stays open, and if one fails nothing has changed."""
        # A port that the system chose may be named by 0 or by what it was.
        present = {pair.real: pair for pair in self._pairs} | {pair.asked: pair for pair in self._pairs}
        wanted: dict[ListenAddress, _Pair] = {}
        opened: list[_Pair] = []
        try:
            for address in dict.fromkeys(addresses):
                pair = present.get(address)
                if pair is None:
                    pair = await self._open(address)
                    opened.append(pair)
                wanted[address] = pair
        except DriverError:
            for pair in opened:
                await self._close(pair)
            raise
        pairs = tuple(wanted.values())
        gone = [pair for pair in self._pairs if pair not in pairs]
        self._pairs = pairs
        for pair in gone:
            await self._close(pair)
        await self.set_upstreams(self._asked_upstreams)
        return tuple(pair.real for pair in self._pairs)

    async def publish(self, view: DnsView) -> None:
        """Answer from this view from now on; sources that are equal to the last view's cost nothing."""
        self._responder.swap(build(view, self._config.ttl, self._responder.zone))

    async def set_upstreams(self, servers: tuple[tuple[str, int], ...]) -> None:
        """Forward other names to these; our own addresses are left out, for they would ask us in a circle."""
        self._asked_upstreams = servers
        own = {(str(pair.real.address), pair.real.port) for pair in self._pairs}
        usable = tuple(server for server in dict.fromkeys(servers) if server not in own)
        if len(usable) < len(servers):
            log.warning("upstreams left out", given=len(servers), used=len(usable), reason="own address or repeated")
        self._forwarder.set_servers(usable)
        self._responder.set_recursion(bool(usable))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="dns-answer")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, asked: ListenAddress) -> _Pair:
        udp, tcp = _bind(asked)
        config = self._config
        streams = TcpServer(
            self._responder, self._forwarder, connections=config.tcp_connections, idle=config.tcp_idle_timeout
        )
        await streams.start(tcp)
        real = ListenAddress(asked.address, udp.getsockname()[1])
        log.info("listening", address=str(real.address), port=real.port)
        return _Pair(asked, real, UdpServer(udp, self._responder, self._forwarder, self._spawn), streams)

    async def _close(self, pair: _Pair) -> None:
        pair.udp.close()
        await pair.tcp.close()


def _bind(asked: ListenAddress) -> tuple[socket.socket, socket.socket]:
    """Bind both sockets to one port; raises ``DriverError``."""
    for attempt in range(_TRIES):
        udp = _socket(socket.SOCK_DGRAM, asked.address, asked.port)
        try:
            return udp, _socket(socket.SOCK_STREAM, asked.address, udp.getsockname()[1])
        except DriverError:
            udp.close()
            if asked.port or attempt == _TRIES - 1:
                raise
    raise AssertionError("the loop above returns or raises")


def _socket(kind: socket.SocketKind, address: IPv4Address, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((str(address), port))
    except OSError as error:
        made.close()
        transport = "TCP" if kind == socket.SOCK_STREAM else "UDP"
        raise DriverError(
            f"cannot answer DNS on {address} port {port}/{transport}: {error.strerror}",
            hint=_remedy(error.errno, port),
            driver="kat",
            operation="listen",
            object=f"{address}:{port}",
        ) from error
    return made


def _remedy(number: int | None, port: int) -> str:
    if number == errno.EADDRINUSE:
        return f"another name server has it (dnsmasq, unbound, systemd-resolved?): see 'ss -lntup sport = :{port}'"
    if number == errno.EADDRNOTAVAIL:
        return "no interface of this host has that address: is the bridge there?"
    return "ports below 1024 need root or CAP_NET_BIND_SERVICE"
