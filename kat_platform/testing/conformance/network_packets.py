"""The part of the network's kit that sends packets. On a driver without a dataplane there is nothing to see."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from kat_platform.interfaces.network import CountsConnections, IsolatedNamespace, ServiceTable, TransportProtocol
from kat_platform.testing.conformance.kit import Check, Kit, require
from kat_platform.testing.conformance.network_scene import Scene, address, service
from kat_platform.testing.netns import Namespace

PACKETS: Kit[Scene] = Kit("network")
"""Rules that only traffic shows."""

VIRTUAL = str(service().address)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def _with_packets(rule: str) -> Callable[[Callable[[Scene], Awaitable[None]]], Check[Scene]]:
    def register(run: Callable[[Scene], Awaitable[None]]) -> Check[Scene]:
        async def only_with_packets(scene: Scene) -> None:
            if scene.carries_packets:
                await scene.configured()
                await run(scene)

        only_with_packets.__name__ = getattr(run, "__name__", rule)
        return PACKETS.check(rule, timeout=60)(only_with_packets)

    return register


async def connect(where: Namespace, to: str, port: int = 80, seconds: float = 3.0) -> Streams:
    """Open a TCP connection from a namespace."""
    outgoing = where.socket()
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(outgoing, (to, port))
    except BaseException:
        outgoing.close()
        raise
    return await asyncio.open_connection(sock=outgoing)


async def greeting(where: Namespace, to: str, port: int = 80) -> tuple[str, str]:
    """Connect, and give the server's name and the client's address as the server saw it."""
    reader, writer = await connect(where, to, port)
    async with asyncio.timeout(3):
        name, client = (await reader.readline()).decode().split()
    writer.close()
    return name, client


async def _refused(where: Namespace, to: str) -> str:
    begin = time.monotonic()
    try:
        _, writer = await connect(where, to)
    except ConnectionRefusedError:
        return "" if time.monotonic() - begin < 1 else "the refusal took more than a second"
    except OSError as error:  # a timeout is one too
        return f"instead of a refusal: {type(error).__name__} {error}"
    writer.close()
    return "the connection was accepted"


async def _ended(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(3):
            return not await reader.readline()
    except ConnectionError:
        return True


@_with_packets("instances reach each other by address, and the client's address is kept")
async def containers_reach_each_other(scene: Scene) -> None:
    one, two = await scene.container(1), await scene.container(2)
    await scene.serve(one, "one")
    seen = await greeting(two, str(address(1)))
    require(seen == ("one", str(address(2))), f"the server said {seen}")
    require(scene.host is not None and (await greeting(scene.host, str(address(1))))[0] == "one", "the host is cut off")


@_with_packets("the host answers containers on the gateway address, where DNS listens")
async def gateway_answers(scene: Scene) -> None:
    client, host = await scene.container(1), scene.host
    if host is None:
        return
    await scene.serve(host, "host", 8053)
    seen = await greeting(client, str(address(0)), 8053)
    require(seen == ("host", str(address(1))), f"the host said {seen}")


@_with_packets("a virtual IP leads to every backend, evenly, and the client's address is kept")
async def virtual_address_balances(scene: Scene) -> None:
    client = await scene.container(1)
    for number in (2, 3):
        await scene.serve(await scene.container(number), f"s{number}")
    await scene.driver.apply_services(ServiceTable((service(2, 3),)))
    seen = Counter([await greeting(client, VIRTUAL) for _ in range(60)])
    require({who for who, _ in seen} == {"s2", "s3"}, f"only {seen} answered")
    require({source for _, source in seen} == {str(address(1))}, f"the client was seen as {seen}")
    require(min(seen.values()) >= 15, f"uneven: {seen}")


@_with_packets("an instance reaches itself through its virtual IP")
async def hairpin(scene: Scene) -> None:
    alone = await scene.container(1)
    await scene.serve(alone, "alone")
    await scene.driver.apply_services(ServiceTable((service(1),)))
    require((await greeting(alone, VIRTUAL))[0] == "alone", "no answer")


@_with_packets("a virtual IP without backends refuses at once, from a container and from the host")
async def no_backend_refuses(scene: Scene) -> None:
    client = await scene.container(1)
    await scene.driver.apply_services(ServiceTable((service(),)))
    for where in (client, scene.host):
        problem = await _refused(where, VIRTUAL) if where is not None else "no host"
        require(not problem, problem)
    asker = client.socket(socket.SOCK_DGRAM)
    try:
        asker.connect((VIRTUAL, 53))
        asker.send(b"anybody?")
        async with asyncio.timeout(2):
            await asyncio.get_running_loop().sock_recv(asker, 100)
    except ConnectionRefusedError:
        return
    except TimeoutError:
        require(False, "a UDP packet to a port without backends got no ICMP answer")
    finally:
        asker.close()


@_with_packets("a backend that drains keeps its connections and gets no new one")
async def draining_keeps_connections(scene: Scene) -> None:
    client = await scene.container(1)
    for number in (2, 3):
        await scene.serve(await scene.container(number), f"s{number}")
    await scene.driver.apply_services(ServiceTable((service(2),)))
    reader, writer = await connect(client, VIRTUAL)
    await reader.readline()
    await scene.driver.apply_services(ServiceTable((service(3, draining=(2,)),)))
    writer.write(b"still here\n")
    async with asyncio.timeout(3):
        require(await reader.readline() == b"still here\n", "the connection was cut")
    new = {(await greeting(client, VIRTUAL))[0] for _ in range(6)}
    require(new == {"s3"}, f"new connections went to {new}")
    writer.close()


@_with_packets("a driver that counts connections counts those that are open, by virtual IP or not, and only those")
async def open_connections_are_counted(scene: Scene) -> None:
    driver = scene.driver
    if not isinstance(driver, CountsConnections):
        return
    client = await scene.container(1)
    await scene.serve(await scene.container(2), "s2")
    await driver.apply_services(ServiceTable((service(2),)))
    require(await driver.open_connections(address(2)) == 0, "connections were counted before there were any")
    streams = [await connect(client, to) for to in (VIRTUAL, VIRTUAL, str(address(2)))]
    for reader, _ in streams:
        await reader.readline()
    require(await driver.open_connections(address(2)) == len(streams), "not every open connection was counted")
    require(await driver.open_connections(address(1)) == 0, "the client's own connections were counted as to it")
    for left, (_, writer) in reversed(list(enumerate(streams))):
        writer.close()
        await _count_falls_to(driver, left)


async def _count_falls_to(driver: CountsConnections, wanted: int) -> None:
    for _ in range(60):
        if await driver.open_connections(address(2)) == wanted:
            return
        await asyncio.sleep(0.05)
    require(False, "an ended connection is still counted after 3 s")


@_with_packets("no new connection fails while the backends change")
async def changes_refuse_nobody(scene: Scene) -> None:
    client = await scene.container(1)
    for number in range(2, 6):
        await scene.serve(await scene.container(number), f"s{number}")
    await scene.driver.apply_services(ServiceTable((service(2),)))
    changing = True

    async def ask() -> int:
        count = 0
        while changing:
            await greeting(client, VIRTUAL)
            count += 1
        return count

    asking = [asyncio.create_task(ask(), name=f"client {number}") for number in range(3)]
    for turn in range(40):
        kept = [number for number in range(2, 6) if (turn >> (number - 2)) & 1] or [2]
        await scene.driver.apply_services(ServiceTable((service(*kept),)))
    changing = False
    require(min(await asyncio.gather(*asking)) > 0, "a client got no answer at all")


@_with_packets("connections to a vanished instance are reset within two seconds, even when the client only waits")
async def vanished_is_reset(scene: Scene) -> None:
    client, victim = await scene.container(1), await scene.container(2)
    await scene.serve(victim, "s2")
    await scene.serve(await scene.container(3), "s3")
    await scene.driver.apply_services(ServiceTable((service(2),)))
    where = [client, client, scene.host]
    targets = [VIRTUAL, str(address(2)), VIRTUAL]
    streams = [await connect(place, to) for place, to in zip(where, targets, strict=True) if place is not None]
    for reader, _ in streams:
        await reader.readline()
    await scene.driver.apply_services(ServiceTable((service(3),)))
    await scene.driver.detach("i2")
    await scene.driver.reset_connections(frozenset({address(2)}))
    for (reader, writer), to in zip(streams, targets, strict=True):
        try:
            async with asyncio.timeout(2):
                rest = await reader.read()
        except ConnectionError:
            continue
        except TimeoutError:
            require(False, f"a client of {to} hangs")
        else:
            require(False, f"a client of {to} read {rest!r} and an orderly end")
        finally:
            writer.close()


@_with_packets("UDP from one client port follows a change of backends")
async def udp_follows(scene: Scene) -> None:
    client = await scene.container(1)
    listeners: dict[int, socket.socket] = {}
    for number in (2, 3):
        listeners[number] = (await scene.container(number)).socket(socket.SOCK_DGRAM)
        listeners[number].bind(("0.0.0.0", 53))
    loop = asyncio.get_running_loop()
    sender = client.socket(socket.SOCK_DGRAM)
    try:
        for number in (2, 3, 2):
            table = ServiceTable((service(number, port=53, protocol=TransportProtocol.UDP),))
            await scene.driver.apply_services(table)
            for _ in range(3):
                await loop.sock_sendto(sender, b"hello", (VIRTUAL, 53))
                async with asyncio.timeout(2):
                    _, source = await loop.sock_recvfrom(listeners[number], 100)
                    require(source[0] == str(address(1)), f"the client was seen as {source[0]}")
                    await loop.sock_sendto(listeners[number], b"hello", source)
                    _, answered = await loop.sock_recvfrom(sender, 100)
                require(answered[0] == VIRTUAL, f"the answer came from {answered[0]}")
    finally:
        for used in (sender, *listeners.values()):
            used.close()


@_with_packets("a private namespace is reached by its own instances and those allowed, by no other, and reaches others")
async def private_is_private(scene: Scene) -> None:
    inside, friend, allowed, stranger = [await scene.container(number) for number in (1, 2, 3, 4)]
    await scene.serve(inside, "inside")
    await scene.serve(stranger, "stranger")
    private = IsolatedNamespace("secret", frozenset({address(1), address(2)}), frozenset({address(3)}))
    reader, writer = await connect(stranger, str(address(1)))
    await reader.readline()
    await scene.driver.apply_services(ServiceTable((service(1),), isolated=(private,)))
    writer.write(b"ping\n")
    require(await _ended(reader), "a stranger's connection from before goes on")
    writer.close()
    require((await greeting(inside, str(address(4))))[0] == "stranger", "an instance inside got no answer from outside")
    for to in (str(address(1)), VIRTUAL):
        for where in (friend, allowed):
            require((await greeting(where, to))[0] == "inside", "a permitted client was refused")
        problem = await _refused(stranger, to)
        require(not problem, f"a stranger to {to}: {problem}")
    await scene.driver.apply_services(ServiceTable((service(1),)))
    require((await greeting(stranger, VIRTUAL))[0] == "inside", "the namespace did not open again")


@_with_packets("services and attachments go on working while the driver is restarted")
async def traffic_outlives_the_process(scene: Scene) -> None:
    client, server = await scene.container(1), await scene.container(2)
    await scene.serve(server, "s2")
    await scene.driver.apply_services(ServiceTable((service(2),)))
    reader, writer = await connect(client, VIRTUAL)
    await reader.readline()
    for step in (scene.restart, scene.configured, lambda: scene.driver.apply_services(ServiceTable((service(2),)))):
        await step()
        writer.write(b"ping\n")
        async with asyncio.timeout(2):
            require(await reader.readline() == b"ping\n", "the connection was cut")
        require((await greeting(client, VIRTUAL))[0] == "s2", "a new connection failed")
    writer.close()
