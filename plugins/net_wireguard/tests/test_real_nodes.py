"""Two nodes with real tunnels, an outside world, and a driver that is killed: what one scene of the kit cannot show."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest
from kat_net_wireguard import rtnetlink, userspace
from kat_net_wireguard.names import Names

from kat_platform.interfaces.network import Attachment, Backend, Peer, ServiceTable
from kat_platform.testing.conformance.network_packets import connect, greeting
from kat_platform.testing.netns import Namespace

from .nodes import CLUSTER, SERVICES, VIRTUAL, Node, address, node, service, shake_hands, two_nodes, wire

pytestmark = pytest.mark.real


async def test_two_nodes_over_the_tunnel() -> None:
    async with two_nodes() as (one, two):
        client, server = await one.container(5), await two.container(6)
        await two.serve(server, "far")
        wiretap = one.host.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        wiretap.bind(("under1", 0))
        wiretap.setblocking(False)
        assert await greeting(client, str(two.address(6))) == ("far", str(one.address(5)))

        table = ServiceTable((service(Backend(two.address(6), 80)),))
        await one.driver.apply_services(table)
        assert await greeting(client, str(VIRTUAL)) == ("far", str(one.address(5)))
        assert await greeting(one.host, str(VIRTUAL)) == ("far", str(one.network.gateway.ip))
        assert await greeting(one.host, str(two.address(6))) == ("far", str(one.network.gateway.ip))

        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(wiretap.recv(65535))
        wiretap.close()
        assert len(frames) > 10
        assert not any(b"far 10.123" in frame for frame in frames), "plaintext on the wire"
        udp = sum(1 for frame in frames if frame[12:14] == b"\x08\x00" and frame[23] == 17)
        assert udp >= len(frames) - 6, "something besides the tunnel's UDP (and ARP) was sent"

        (status,) = await one.driver.peer_status()
        assert status.node_name == "n2"
        assert status.last_handshake_at is not None
        assert status.received_bytes > 0
        assert status.sent_bytes > 0


async def test_a_remote_instance_that_vanishes_resets_waiting_clients() -> None:
    async with two_nodes() as (one, two):
        client, server = await one.container(5), await two.container(6)
        await two.serve(server, "far")
        await one.driver.apply_services(ServiceTable((service(Backend(two.address(6), 80)),)))
        streams = [await connect(client, to) for to in (str(VIRTUAL), str(two.address(6)))]
        for reader, _ in streams:
            await reader.readline()
        await one.driver.apply_services(ServiceTable((service(),)))
        await two.driver.stop()  # the node is gone: nobody on the other side answers any more
        two.run("ip", "link", "set", "under2", "down")
        await one.driver.reset_connections(frozenset({two.address(6)}))
        for reader, writer in streams:
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(2):
                    await reader.read()
            writer.close()
        two.fresh_driver()


async def test_outside_traffic_is_masqueraded_and_node_ports_keep_the_source() -> None:
    async with node(1) as one, contextlib.AsyncExitStack() as stack:
        outside = stack.enter_context(Namespace())
        wire(one.host, "under1", outside, "out0")
        address(one.host, "under1", f"{one.underlay}/24")
        address(outside, "out0", "198.51.100.99/24")
        await one.driver.configure(one.network)
        inside = await one.container(5)
        await one.serve(outside, "outside", 8080)
        await one.serve(inside, "inside")
        assert await greeting(inside, "198.51.100.99", 8080) == ("outside", one.underlay)

        table = ServiceTable(
            (service(Backend(one.address(5), 80, True), node_port=30080),),
            node_addresses=(IPv4Address(one.underlay),),
        )
        await one.driver.apply_services(table)
        assert await greeting(outside, one.underlay, 30080) == ("inside", "198.51.100.99")
        assert (await greeting(one.host, one.underlay, 30080))[0] == "inside"
        listeners = one.run("ss", "-ltnH")
        assert "30080" not in listeners, "something listens on the node port"

        outside.call(lambda: _route(outside, "out0", one.underlay))
        for closed in (str(one.address(5)), str(VIRTUAL)):
            with pytest.raises(OSError):
                await connect(outside, closed, seconds=1)


def _route(where: Namespace, name: str, via: str) -> None:
    with rtnetlink.open_here() as kernel:
        found = rtnetlink.link(kernel, name)
        assert found is not None
        for network in (CLUSTER, SERVICES):
            rtnetlink.set_route(kernel, network, found.index, via=IPv4Address(via))


CHILD = """
import asyncio, json, sys
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from kat_net_wireguard.config import WireGuardConfig
from kat_net_wireguard.driver import WireGuardNetwork
from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.network import *
what = json.loads(sys.argv[1])
async def main():
    context = DriverContext("n1", Path(what["data"]), Path(what["run"]), what["tag"])
    driver = WireGuardNetwork(WireGuardConfig(), context)
    await driver.start()
    await driver.configure(NodeNetwork("n1", IPv4Network("10.123.1.0/24"), IPv4Network("10.123.0.0/16"),
                                       IPv4Network("10.124.0.0/16"), 51900))
    await driver.apply_peers((Peer("n2", IPv4Network("10.123.2.0/24"), what["key"], ("198.51.100.2", 51900), 5),))
    await driver.attach(Attachment("n1i5", what["netns"], IPv4Interface("10.123.1.5/24")))
    backend = Backend(IPv4Address("10.123.2.6"), 80)
    port = ServicePort("a/b/c/d", IPv4Address("10.124.0.9"), 80, TransportProtocol.TCP, (backend,))
    await driver.apply_services(ServiceTable((port,)))
    print(await driver.public_key(), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def _child(one: Node, container: Namespace, key: str) -> tuple[asyncio.subprocess.Process, str]:
    what = {
        "data": str(one.context.data_dir),
        "run": str(one.context.run_dir),
        "tag": one.context.instance_tag,
        "netns": container.path,
        "key": key,
    }
    child = await asyncio.create_subprocess_exec(
        "nsenter",
        f"--net={one.host.path}",
        sys.executable,
        "-c",
        CHILD,
        json.dumps(what),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert child.stdout is not None
    async with asyncio.timeout(20):
        while len(line := (await child.stdout.readline()).decode().strip()) != 44:
            assert line, "the child ended early"
    return child, line


async def test_a_killed_driver_is_adopted_without_losing_a_packet() -> None:
    async with node(1) as one, node(2) as two:
        wire(one.host, "under1", two.host, "under2")
        address(one.host, "under1", f"{one.underlay}/24")
        address(two.host, "under2", f"{two.underlay}/24")
        await two.driver.configure(two.network)
        server = await two.container(6)
        await two.serve(server, "far")
        container = one.cleanup.enter_context(Namespace())
        child, key = await _child(one, container, await two.driver.public_key())
        try:
            await two.driver.apply_peers((Peer("n1", one.network.subnet, key, (one.underlay, 51900), 5),))
            await shake_hands(two, one)
            reader, writer = await connect(container, str(VIRTUAL))
            await reader.readline()
            carrier = userspace.listener(userspace.SOCKETS / f"{Names(one.context.instance_tag).tunnel}.sock")
        finally:
            child.send_signal(signal.SIGKILL)
            await child.wait()

        lost = 0

        async def chatter() -> None:
            nonlocal lost
            for turn in itertools.count():
                writer.write(b"%d\n" % turn)
                async with asyncio.timeout(2):
                    if await reader.readline() != b"%d\n" % turn:
                        lost += 1
                await asyncio.sleep(0.005)

        talk = asyncio.create_task(chatter())
        driver = one.driver
        assert dict(await driver.attachments()) == {"n1i5": one.address(5)}
        await driver.configure(one.network)
        await driver.apply_peers((await two.peer(),))
        await driver.attach(Attachment("n1i5", container.path, IPv4Interface("10.123.1.5/24")))
        await driver.apply_services(ServiceTable((service(Backend(two.address(6), 80)),)))
        await asyncio.sleep(0.1)
        assert not talk.done(), talk.exception()
        talk.cancel()
        assert lost == 0
        assert await driver.public_key() == key
        assert carrier is not None
        assert userspace.listener(userspace.SOCKETS / f"{Names(one.context.instance_tag).tunnel}.sock") == carrier
        assert (await greeting(container, str(VIRTUAL)))[0] == "far"
        writer.close()


async def test_a_tunnel_that_dies_comes_back_with_its_peers() -> None:
    async with two_nodes() as (one, two):
        client, server = await one.container(5), await two.container(6)
        await two.serve(server, "far")
        assert (await greeting(client, str(two.address(6))))[0] == "far"
        tunnel = userspace.SOCKETS / f"{Names(one.context.instance_tag).tunnel}.sock"
        carrier = userspace.listener(tunnel)
        assert carrier is not None
        os.kill(carrier, signal.SIGKILL)
        async with asyncio.timeout(15):
            while True:
                await asyncio.sleep(0.02)
                with contextlib.suppress(OSError):
                    back = (await greeting(client, str(two.address(6))))[0] == "far"
                    if back and userspace.listener(tunnel) not in (None, carrier):
                        break
        assert not (await one.driver.status()).message


async def test_nodes_that_spoke_into_the_void_shake_hands_as_soon_as_they_know_better() -> None:
    async with node(1) as one, node(2) as two:
        wire(one.host, "under1", two.host, "under2")
        for each, other, name in ((one, two, "under1"), (two, one, "under2")):
            address(each.host, name, f"{each.underlay}/24")
            await each.driver.configure(each.network)
            void = replace(await other.peer(), endpoint=("198.51.100.77", 51900))
            await each.driver.apply_peers((void,))
        await asyncio.sleep(1)  # both have sent a handshake by now, and WireGuard sends the next one after 5 s
        began = asyncio.get_running_loop().time()
        for each, other in ((one, two), (two, one)):
            await each.driver.apply_peers((await other.peer(),))
        async with asyncio.timeout(10):
            while not all([(await e.driver.peer_status())[0].last_handshake_at for e in (one, two)]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert asyncio.get_running_loop().time() - began < 3.5, "nobody waited for WireGuard's own next try"


async def test_a_rootless_containers_namespace_is_attached() -> None:
    async with node(1) as one:
        await one.driver.configure(one.network)
        holder = await asyncio.create_subprocess_exec(
            "unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo in; exec sleep 60", stdout=-1
        )
        try:
            assert holder.stdout is not None
            await holder.stdout.readline()
            where = IPv4Interface((one.address(7), 24))
            await one.driver.attach(Attachment("rootless", f"/proc/{holder.pid}/ns/net", where))
            seen = subprocess.run(
                ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "ip", "-br", "address", "show", "eth0"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            assert f"{one.address(7)}/32" in seen
            assert "UP" in seen
        finally:
            holder.kill()
            await holder.wait()
        async with asyncio.timeout(5):
            while await one.driver.attachments():  # noqa: ASYNC110 - the kernel takes the cable away with the namespace
                await asyncio.sleep(0.02)


async def test_a_container_cannot_send_from_another_address() -> None:
    async with node(1) as one:
        await one.driver.configure(one.network)
        liar, server = await one.container(5), await one.container(6)
        await one.serve(server, "near")
        liar.call(lambda: subprocess.run(["ip", "address", "add", "10.123.1.9/32", "dev", "lo"], check=True))
        honest, false = liar.socket(), liar.socket()
        loop = asyncio.get_running_loop()
        await loop.sock_connect(honest, (str(one.address(6)), 80))
        false.bind(("10.123.1.9", 0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await loop.sock_connect(false, (str(one.address(6)), 80))
        honest.close()
        false.close()


def _trace(one: Node) -> dict[str, Any]:
    forward = one.host.call(lambda: Path("/proc/sys/net/ipv4/ip_forward").read_text().strip())
    return {
        "links": sorted(line.split()[0] for line in one.run("ip", "-br", "link").splitlines()),
        "routes": one.run("ip", "route", "show", "table", "all"),
        "rules": one.run("nft", "list", "ruleset"),
        "forward": forward,
        "files": sorted(str(path) for path in one.context.data_dir.rglob("*")),
        "logs": sorted(str(path) for path in one.context.run_dir.rglob("*")),
    }


async def test_reset_leaves_nothing_and_touches_nobody_else() -> None:
    async with node(1) as one:
        one.host.call(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("0"))
        one.run("nft", "add table ip neighbour; add chain ip neighbour c { type filter hook forward priority 0; }")
        before = _trace(one)
        await one.driver.configure(one.network)
        await one.container(5)
        await one.driver.apply_services(ServiceTable((service(Backend(one.address(5), 80)),)))
        key = one.context.data_dir / "private.key"
        assert key.stat().st_mode & 0o777 == 0o600
        assert userspace.SOCKETS.stat().st_mode & 0o777 == 0o700
        assert _trace(one)["forward"] == "1"
        carrier = userspace.listener(userspace.SOCKETS / f"{Names(one.context.instance_tag).tunnel}.sock")
        assert carrier is not None
        await one.driver.stop()
        await one.fresh_driver().reset()
        assert _trace(one) == before
        assert not (userspace.SOCKETS / f"{Names(one.context.instance_tag).tunnel}.sock").exists()
        assert not Path(f"/proc/{carrier}").exists()


async def test_another_firewalls_drop_policy_is_opened_for_the_overlay_only() -> None:
    async with node(1) as one:
        one.run("iptables", "-P", "FORWARD", "DROP")
        before = one.run("iptables", "-S")
        await one.driver.configure(one.network)
        client, server = await one.container(5), await one.container(6)
        await one.serve(server, "near")
        assert (await greeting(client, str(one.address(6))))[0] == "near"
        await one.driver.configure(one.network)
        assert one.run("iptables", "-S", "FORWARD").count(f"kat_{one.context.instance_tag}") == 2
        await one.driver.reset()
        assert one.run("iptables", "-S") == before
