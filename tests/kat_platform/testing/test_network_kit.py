"""The network's kit passes the fake and fails every driver that breaks one rule."""

from __future__ import annotations

import base64
import os
from ipaddress import IPv4Address

import pytest

from kat_platform.errors import KatError, NotFound
from kat_platform.interfaces.network import Attachment, NodeNetwork, Peer, ServiceTable
from kat_platform.testing.conformance.kit import Check
from kat_platform.testing.conformance.network import KIT, subject
from kat_platform.testing.conformance.network_scene import Scene
from kat_platform.testing.fakes.network import FakeNetwork, PretendKernel


@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
async def test_the_fake_keeps_the_contract(check: Check[Scene]) -> None:
    outcome = await KIT.run_one(check, subject(lambda context: FakeNetwork(None, context)))
    assert outcome.passed, f"{outcome.rule}: {outcome.failure}"


class NewKeyEachTime(FakeNetwork):
    async def public_key(self) -> str:
        return base64.b64encode(os.urandom(32)).decode()


class AttachesTooEarly(FakeNetwork):
    async def attach(self, attachment: Attachment) -> None:
        self.kernel.attached[attachment.instance_id] = attachment


class RefusesTheSecondAttach(FakeNetwork):
    async def attach(self, attachment: Attachment) -> None:
        if attachment.instance_id in self.kernel.attached:
            raise KatError("attached already")
        await super().attach(attachment)


class ListsTwice(FakeNetwork):
    async def attachments(self) -> tuple[tuple[str, IPv4Address], ...]:
        return await super().attachments() * 2


class ConfigureStartsOver(FakeNetwork):
    async def configure(self, network: NodeNetwork) -> None:
        await super().configure(network)
        self.kernel.attached.clear()


class KeepsTheOldAddress(FakeNetwork):
    async def attach(self, attachment: Attachment) -> None:
        if attachment.instance_id not in self.kernel.attached:
            await super().attach(attachment)


class TakesAnyAddress(FakeNetwork):
    async def attach(self, attachment: Attachment) -> None:
        self._ready()
        self.kernel.attached[attachment.instance_id] = attachment


class GivesOneAddressToTwo(FakeNetwork):
    async def attach(self, attachment: Attachment) -> None:
        others = {name: held for name, held in self.kernel.attached.items() if name != attachment.instance_id}
        self.kernel.attached = {}
        await super().attach(attachment)
        self.kernel.attached |= others


class StealsTheAddress(FakeNetwork):
    async def attach(self, attachment: Attachment) -> None:
        for name, held in list(self.kernel.attached.items()):
            if held.address == attachment.address:
                del self.kernel.attached[name]
        await super().attach(attachment)


class DetachesOnlyTheKnown(FakeNetwork):
    async def detach(self, instance_id: str) -> None:
        if instance_id not in self.kernel.attached:
            raise NotFound(instance_id)
        await super().detach(instance_id)


class DetachesNothing(FakeNetwork):
    async def detach(self, instance_id: str) -> None:
        self._ready()


class CollectsEverything(FakeNetwork):
    async def collect(self, valid: frozenset[str]) -> frozenset[str]:
        return await super().collect(frozenset())


class CollectsInSilence(FakeNetwork):
    async def collect(self, valid: frozenset[str]) -> frozenset[str]:
        await super().collect(valid)
        return frozenset()


class ForgetsOnRestart(FakeNetwork):
    async def start(self) -> None:
        self.kernel = PretendKernel()


class NeverForgetsAPeer(FakeNetwork):
    async def apply_peers(self, peers: tuple[Peer, ...]) -> None:
        await super().apply_peers(tuple({peer.node_name: peer for peer in (*self.kernel.peers, *peers)}.values()))


class TakesAnyPeer(FakeNetwork):
    async def apply_peers(self, peers: tuple[Peer, ...]) -> None:
        self.kernel.peers = peers


class DropsPeersOnRefusal(FakeNetwork):
    async def apply_peers(self, peers: tuple[Peer, ...]) -> None:
        self.kernel.peers = ()
        await super().apply_peers(peers)


class TakesAnyTable(FakeNetwork):
    async def apply_services(self, table: ServiceTable) -> None:
        self.kernel.table = table


class NeedsAnAttachmentForServices(FakeNetwork):
    async def apply_services(self, table: ServiceTable) -> None:
        if not self.kernel.attached:
            raise KatError("nothing is attached")
        await super().apply_services(table)


class ResetsOnlyTheKnown(FakeNetwork):
    async def reset_connections(self, addresses: frozenset[IPv4Address]) -> None:
        if not addresses <= {held.address.ip for held in self.kernel.attached.values()}:
            raise NotFound("no such connection")


class LeavesThingsBehind(FakeNetwork):
    async def reset(self) -> None:
        self.network = None


@pytest.mark.parametrize(
    ("driver", "caught_by"),
    [
        (NewKeyEachTime, "public_key_is_stable"),
        (AttachesTooEarly, "attach_needs_configure"),
        (RefusesTheSecondAttach, "attach_is_idempotent"),
        (ListsTwice, "attach_is_idempotent"),
        (ConfigureStartsOver, "configure_is_idempotent"),
        (KeepsTheOldAddress, "attach_moves"),
        (TakesAnyAddress, "attach_checks_the_subnet"),
        (GivesOneAddressToTwo, "attach_refuses_a_taken_address"),
        (StealsTheAddress, "attach_refuses_a_taken_address"),
        (DetachesOnlyTheKnown, "detach_is_idempotent"),
        (DetachesNothing, "detach_is_idempotent"),
        (CollectsEverything, "collect_drops_the_rest"),
        (CollectsInSilence, "collect_drops_the_rest"),
        (ForgetsOnRestart, "attachments_outlive_the_process"),
        (NeverForgetsAPeer, "peers_are_exact"),
        (TakesAnyPeer, "peers_are_checked"),
        (DropsPeersOnRefusal, "peers_are_checked"),
        (TakesAnyTable, "services_are_checked"),
        (NeedsAnAttachmentForServices, "services_are_checked"),
        (ResetsOnlyTheKnown, "reset_of_nothing"),
        (LeavesThingsBehind, "reset_leaves_nothing"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_a_broken_network_is_caught(driver: type[FakeNetwork], caught_by: str) -> None:
    check = next(check for check in KIT.checks if check.name == caught_by)
    outcome = await KIT.run_one(check, subject(lambda context: driver(None, context)))
    assert not outcome.passed, f"{driver.__name__} passed {caught_by}"
