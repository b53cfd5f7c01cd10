"""Where the network's kit plays: a driver on a host of its own, and containers it can attach."""

from __future__ import annotations

import asyncio
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, cast

from kat_platform.interfaces.driver import Driver, DriverContext, Resettable
from kat_platform.interfaces.network import (
    Attachment,
    Backend,
    Network,
    NodeNetwork,
    ServicePort,
    TransportProtocol,
)
from kat_platform.testing.conformance.kit import Subject
from kat_platform.testing.netns import Moved, Namespace, NamespaceLoop

NODE = NodeNetwork(
    "kt-node", IPv4Network("10.123.4.0/24"), IPv4Network("10.123.0.0/16"), IPv4Network("10.124.0.0/16"), 51999
)
"""The node the kit configures: on a host of its own, so that nothing real has these addresses."""


@dataclass(slots=True)
class Scene:
    """A started driver, the host it runs on (for one that carries packets), and what the check has made so far."""

    driver: Network
    make: Callable[[], Network]
    host: Namespace | None
    containers: list[Namespace] = field(default_factory=list)
    servers: list[asyncio.Server] = field(default_factory=list)
    _pretended: int = 0

    @property
    def carries_packets(self) -> bool:
        """Whether the driver says that it moves real packets."""
        return self.host is not None

    async def configured(self) -> None:
        """Give the node its place in the overlay."""
        await self.driver.configure(NODE)

    async def restart(self) -> None:
        """End the driver's process, as far as the driver can tell, and start another in its place."""
        await self.driver.stop()
        self.driver = self.make()
        await self.driver.start()

    def namespace(self) -> Namespace:
        """Make a container's network namespace (only on a host that carries packets)."""
        made = Namespace()
        self.containers.append(made)
        return made

    def path(self) -> str:
        """Give the path of a fresh container's network namespace."""
        if self.carries_packets:
            return self.namespace().path
        self._pretended += 1
        return f"/run/netns/kt-pretended-{self._pretended}"

    async def container(self, number: int) -> Namespace:
        """Make a container and attach it as ``iNUMBER`` with the address of that number."""
        made = self.namespace()
        await self.driver.attach(attachment(number, made.path))
        return made

    async def serve(self, where: Namespace, name: str, port: int = 80) -> asyncio.Server:
        """Answer TCP connections in ``where`` with ``name CLIENT-ADDRESS`` and then echo lines."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                writer.write(f"{name} {writer.get_extra_info('peername')[0]}\n".encode())
                while line := await reader.readline():
                    writer.write(line)
            except ConnectionError:
                pass
            finally:
                writer.close()

        listener = where.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        server = await asyncio.start_server(answer, sock=listener)
        self.servers.append(server)
        return server


def address(number: int) -> IPv4Address:
    """Give the address of the ``number``-th instance (1 is the first)."""
    return NODE.gateway.ip + number


def attachment(number: int, path: str, *, at: int | None = None) -> Attachment:
    """Describe instance ``iNUMBER`` in the namespace at ``path``, with its own address or that of ``at``."""
    return Attachment(f"i{number}", path, IPv4Interface((address(at or number), NODE.subnet.prefixlen)))


def service(*numbers: int, draining: tuple[int, ...] = (), port: int = 80, **more: Any) -> ServicePort:
    """Describe the kit's service, 10.124.0.1, with the instances of these numbers behind it."""
    return ServicePort(
        f"default/web/lb/{port}",
        NODE.service_cidr.network_address + 1,
        port,
        more.pop("protocol", TransportProtocol.TCP),
        tuple(Backend(address(number), port, local=True) for number in numbers),
        tuple(Backend(address(number), port, local=True) for number in draining),
        **more,
    )


def subject(factory: Callable[[DriverContext], Driver]) -> Subject[Scene]:
    """Start a fresh driver for each check; one that carries packets gets a network namespace for a host."""

    @asynccontextmanager
    async def make() -> AsyncIterator[Scene]:
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kt-net-"))
            tag = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(4))
            context = DriverContext("kt-node", Path(folder, "data"), Path(folder, "run"), f"kt{tag}")
            context.data_dir.mkdir(mode=0o700)
            context.run_dir.mkdir(mode=0o700)
            host, place = None, None
            if factory(context).info.capabilities.get("dataplane"):
                host = stack.enter_context(Namespace())
                place = NamespaceLoop(host)
                stack.push_async_callback(place.close)

            def construct() -> Network:
                return cast(Network, factory(context) if place is None else Moved(factory(context), place))

            scene = Scene(construct(), construct, host)
            await scene.driver.start()
            try:
                yield scene
            finally:
                for server in scene.servers:
                    server.close()
                await scene.driver.stop()
                if isinstance(factory(context), Resettable):
                    await cast(Any, construct()).reset()
                for container in scene.containers:
                    container.close()

    return make
