"""Hosts in namespaces with real drivers on them, for the tests that need more than one scene of the kit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import cast

from kat_net_wireguard import netlink, rtnetlink
from kat_net_wireguard.config import WireGuardConfig
from kat_net_wireguard.driver import WireGuardNetwork

from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.network import Attachment, Backend, NodeNetwork, Peer, ServicePort
from kat_platform.interfaces.network import TransportProtocol as Protocol
from kat_platform.testing.conformance.network_packets import connect
from kat_platform.testing.netns import Moved, Namespace, NamespaceLoop

CLUSTER, SERVICES = IPv4Network("10.123.0.0/16"), IPv4Network("10.124.0.0/16")
VIRTUAL = IPv4Address("10.124.0.9")


@dataclass
class Node:
    """A host in a namespace, its driver, and the folders that outlive the driver."""

    number: int
    host: Namespace
    place: NamespaceLoop
    context: DriverContext
    driver: WireGuardNetwork
    cleanup: contextlib.AsyncExitStack

    @property
    def network(self) -> NodeNetwork:
        return NodeNetwork(f"n{self.number}", IPv4Network((f"10.123.{self.number}.0", 24)), CLUSTER, SERVICES, 51900)

    @property
    def underlay(self) -> str:
        return f"198.51.100.{self.number}"

    def fresh_driver(self) -> WireGuardNetwork:
        self.driver = cast(WireGuardNetwork, Moved(WireGuardNetwork(WireGuardConfig(), self.context), self.place))
        return self.driver

    async def peer(self) -> Peer:
        key = await self.driver.public_key()
        return Peer(f"n{self.number}", self.network.subnet, key, (self.underlay, 51900), 5)

    def address(self, number: int) -> IPv4Address:
        return self.network.subnet.network_address + number

    async def container(self, number: int) -> Namespace:
        made = self.cleanup.enter_context(Namespace())
        at = IPv4Interface((self.address(number), 24))
        await self.driver.attach(Attachment(f"n{self.number}i{number}", made.path, at))
        return made

    async def serve(self, where: Namespace, name: str, port: int = 80) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                writer.write(f"{name} {writer.get_extra_info('peername')[0]}\n".encode())
                while line := await reader.readline():
                    writer.write(line)
            writer.close()

        listener = where.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        server = await asyncio.start_server(answer, sock=listener)
        self.cleanup.callback(server.close)

    def run(self, *command: str) -> str:
        return self.host.call(lambda: subprocess.run(command, capture_output=True, text=True, check=True)).stdout


def wire(one: Namespace, name: str, other: Namespace, other_name: str) -> None:
    """Join two namespaces by a cable."""

    def make() -> None:
        with rtnetlink.open_here() as kernel:
            near = rtnetlink.VethEnd(name, bytes((2, *os.urandom(5))), 1500)
            far = rtnetlink.VethEnd(other_name, bytes((2, *os.urandom(5))), 1500)
            rtnetlink.add_veth(kernel, near, far, other.descriptor)

    one.call(make)


def address(where: Namespace, name: str, at: str) -> None:
    """Give an interface its address and bring it up."""

    def make() -> None:
        with netlink.Netlink(netlink.ROUTE) as kernel:
            found = rtnetlink.link(kernel, name)
            assert found is not None
            rtnetlink.set_link(kernel, found.index)
            rtnetlink.set_addresses(kernel, found.index, IPv4Interface(at))

    where.call(make)


@contextlib.asynccontextmanager
async def node(number: int) -> AsyncIterator[Node]:
    """Make a started node; nothing of it is left afterwards, however the test ends."""
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kt-wg-"))
        host = stack.enter_context(Namespace())
        place = NamespaceLoop(host)
        stack.push_async_callback(place.close)
        tag = "kt" + secrets.token_hex(2)
        context = DriverContext(f"n{number}", Path(folder, "data"), Path(folder, "run"), tag)
        context.data_dir.mkdir(mode=0o700)
        context.run_dir.mkdir(mode=0o700)
        made = Node(number, host, place, context, cast(WireGuardNetwork, None), stack)
        driver = made.fresh_driver()

        async def away() -> None:
            await made.driver.stop()
            await made.fresh_driver().reset()

        stack.push_async_callback(away)
        await driver.start()
        yield made


@contextlib.asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes on one wire, configured and each other's peers."""
    async with node(1) as one, node(2) as two:
        wire(one.host, "under1", two.host, "under2")
        address(one.host, "under1", f"{one.underlay}/24")
        address(two.host, "under2", f"{two.underlay}/24")
        for each in (one, two):
            await each.driver.configure(each.network)
        await one.driver.apply_peers((await two.peer(),))
        await two.driver.apply_peers((await one.peer(),))
        await shake_hands(one, two)
        yield one, two


async def shake_hands(one: Node, two: Node) -> None:
    """Wait until the tunnel carries packets, first in silence: traffic would make both open a handshake at once."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            while not all(peer.last_handshake_at for peer in await one.driver.peer_status()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    async with asyncio.timeout(40):
        while True:
            try:
                await connect(one.host, str(two.network.gateway.ip), 9, seconds=1)
            except ConnectionRefusedError:
                return
            except OSError:
                await asyncio.sleep(0.05)


def service(*backends: Backend, node_port: int | None = None) -> ServicePort:
    return ServicePort("default/web/lb/http", VIRTUAL, 80, Protocol.TCP, backends, node_port=node_port)
