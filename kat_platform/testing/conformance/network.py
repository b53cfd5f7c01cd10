"""The conformance kit of the network contract: what can be seen without a packet, then what packets show."""

from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import IPv4Network

from kat_platform.errors import Conflict, InvalidInput, KatError
from kat_platform.interfaces.driver import Resettable
from kat_platform.interfaces.network import Peer, ServiceTable
from kat_platform.testing.conformance.kit import Kit, require
from kat_platform.testing.conformance.network_packets import PACKETS
from kat_platform.testing.conformance.network_scene import Scene, address, attachment, service, subject

KIT: Kit[Scene] = Kit("network")
"""The rules of ``docs/contracts/network.md``."""

__all__ = ["KIT", "subject"]


async def _attached(scene: Scene) -> dict[str, str]:
    listed = await scene.driver.attachments()
    require(len(dict(listed)) == len(listed), f"an instance is listed twice: {listed}")
    return {name: str(at) for name, at in listed}


def _expected(*numbers: int) -> dict[str, str]:
    return {f"i{number}": str(address(number)) for number in numbers}


def _peer(number: int) -> Peer:
    key = base64.b64encode(bytes([number]) * 32).decode()
    subnet = IPv4Network((f"10.123.{100 + number}.0", 24))
    return Peer(f"n{number}", subnet, key, (f"192.0.2.{number}", 51820), 25)


@KIT.check("the node's public key is 32 bytes in base64 and stays the same, over a restart too")
async def public_key_is_stable(scene: Scene) -> None:
    key = await scene.driver.public_key()
    require(len(base64.b64decode(key, validate=True)) == 32, f"{key!r} is not 32 bytes in base64")
    require(await scene.driver.public_key() == key, "a second call gave another key")
    await scene.restart()
    require(await scene.driver.public_key() == key, "a restart changed the key")


@KIT.check("attaching before the node has its subnet is an error and attaches nothing")
async def attach_needs_configure(scene: Scene) -> None:
    try:
        await scene.driver.attach(attachment(1, scene.path()))
    except KatError:
        require(not await _attached(scene), "the refused instance is attached all the same")
        return
    require(False, "attach was accepted before configure")


@KIT.check("attach is listed with its address, and doing it again changes nothing")
async def attach_is_idempotent(scene: Scene) -> None:
    await scene.configured()
    first, second = attachment(1, scene.path()), attachment(2, scene.path())
    for _ in range(2):
        await scene.driver.attach(first)
        await scene.driver.attach(second)
        require(await _attached(scene) == _expected(1, 2), f"attached: {await _attached(scene)}")


@KIT.check("configuring again disturbs no attachment")
async def configure_is_idempotent(scene: Scene) -> None:
    await scene.configured()
    await scene.driver.attach(attachment(1, scene.path()))
    await scene.configured()
    require(await _attached(scene) == _expected(1), "the attachment did not outlive configure")


@KIT.check("attaching an instance elsewhere (its container was restarted) replaces the old attachment")
async def attach_moves(scene: Scene) -> None:
    await scene.configured()
    await scene.driver.attach(attachment(1, scene.path()))
    elsewhere = scene.path()
    await scene.driver.attach(attachment(1, elsewhere))
    require(await _attached(scene) == _expected(1), "the instance is not attached exactly once")
    await scene.driver.attach(attachment(1, elsewhere, at=7))
    require(await _attached(scene) == {"i1": str(address(7))}, "the new address did not replace the old one")


@KIT.check("an address outside the node's subnet, or the gateway's, is refused as invalid")
async def attach_checks_the_subnet(scene: Scene) -> None:
    await scene.configured()
    for wrong in (300, 0):
        bad = attachment(1, scene.path())
        bad = replace(bad, address=type(bad.address)((address(0) + wrong, 24)))
        try:
            await scene.driver.attach(bad)
        except InvalidInput:
            continue
        require(False, f"{bad.address} was accepted")
    require(not await _attached(scene), "a refused instance is attached")


@KIT.check("an address another instance holds is refused as a conflict, and the holder keeps it")
async def attach_refuses_a_taken_address(scene: Scene) -> None:
    await scene.configured()
    await scene.driver.attach(attachment(1, scene.path()))
    try:
        await scene.driver.attach(attachment(2, scene.path(), at=1))
    except Conflict:
        require(await _attached(scene) == _expected(1), "the holder lost its address")
        return
    require(False, "two instances got one address")


@KIT.check("detach removes exactly that instance; one that is gone or unknown is no error")
async def detach_is_idempotent(scene: Scene) -> None:
    await scene.configured()
    for number in (1, 2):
        await scene.driver.attach(attachment(number, scene.path()))
    for _ in range(2):
        await scene.driver.detach("i1")
        require(await _attached(scene) == _expected(2), f"attached: {await _attached(scene)}")
    await scene.driver.detach("never-seen")
    await scene.driver.attach(attachment(1, scene.path()))
    require(await _attached(scene) == _expected(1, 2), "a detached instance cannot be attached again")


@KIT.check("collect drops exactly what is not valid, tells what, and does nothing the second time")
async def collect_drops_the_rest(scene: Scene) -> None:
    await scene.configured()
    for number in (1, 2, 3):
        await scene.driver.attach(attachment(number, scene.path()))
    dropped = await scene.driver.collect(frozenset({"i2", "never-seen"}))
    require(dropped == {"i1", "i3"}, f"collect says it dropped {sorted(dropped)}")
    require(await _attached(scene) == _expected(2), f"attached: {await _attached(scene)}")
    require(not await scene.driver.collect(frozenset({"i2"})), "the second collect dropped something")
    require(await scene.driver.collect(frozenset()) == {"i2"}, "with nothing valid, something was kept")


@KIT.check("a restarted driver lists what an earlier process attached, before and after configure")
async def attachments_outlive_the_process(scene: Scene) -> None:
    await scene.configured()
    for number in (1, 2):
        await scene.driver.attach(attachment(number, scene.path()))
    await scene.restart()
    require(await _attached(scene) == _expected(1, 2), f"after the restart: {await _attached(scene)}")
    await scene.configured()
    require(await _attached(scene) == _expected(1, 2), f"after configure: {await _attached(scene)}")
    await scene.driver.detach("i1")
    require(await _attached(scene) == _expected(2), "an adopted attachment cannot be detached")


@KIT.check("apply_peers makes exactly these the peers, however often")
async def peers_are_exact(scene: Scene) -> None:
    await scene.configured()
    for numbers in ((1, 2), (1, 2), (2, 3), ()):
        await scene.driver.apply_peers(tuple(map(_peer, numbers)))
        names = sorted(peer.node_name for peer in await scene.driver.peer_status())
        require(names == [f"n{number}" for number in numbers], f"peers are {names}, not n{numbers}")


@KIT.check("peers with one key, or with overlapping subnets, are refused and the old peers stay")
async def peers_are_checked(scene: Scene) -> None:
    await scene.configured()
    await scene.driver.apply_peers((_peer(1),))
    for wrong in (replace(_peer(2), public_key=_peer(1).public_key), replace(_peer(2), subnet=_peer(1).subnet)):
        try:
            await scene.driver.apply_peers((_peer(1), wrong))
        except InvalidInput:
            names = [peer.node_name for peer in await scene.driver.peer_status()]
            require(names == ["n1"], f"after a refusal the peers are {names}")
            continue
        require(False, "contradicting peers were accepted")


@KIT.check("services may be applied before anything is attached; a table that contradicts itself is refused")
async def services_are_checked(scene: Scene) -> None:
    await scene.configured()
    await scene.driver.apply_services(ServiceTable((service(1, 2), service(1, port=81))))
    twice = ServiceTable((service(1), replace(service(2), name="default/other/lb/80")))
    same_node_port = ServiceTable((service(1, node_port=30080), service(1, port=81, node_port=30080)))
    for wrong in (twice, same_node_port):
        try:
            await scene.driver.apply_services(wrong)
        except InvalidInput:
            continue
        require(False, "two services got one port")
    await scene.driver.apply_services(ServiceTable())


@KIT.check("resetting connections of addresses that never had any is no error")
async def reset_of_nothing(scene: Scene) -> None:
    await scene.configured()
    await scene.driver.reset_connections(frozenset())
    await scene.driver.reset_connections(frozenset({address(9)}))


@KIT.check("reset leaves nothing, works without start, and twice", timeout=60)
async def reset_leaves_nothing(scene: Scene) -> None:
    await scene.configured()
    await scene.driver.attach(attachment(1, scene.path()))
    other = scene.make()
    reset = getattr(other, "reset", None)
    if reset is None or not isinstance(getattr(other, "_driver", other), Resettable):
        return
    await scene.driver.stop()
    await reset()
    await reset()
    scene.driver = scene.make()
    await scene.driver.start()
    require(not await _attached(scene), "an attachment outlived reset")


KIT.checks.extend(PACKETS.checks)
