"""A node's part in a change of the CA: what it keeps, what it reports, and that no crash in between locks it out."""

from __future__ import annotations

import asyncio
import base64
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
from cryptography import x509

from kat_platform.agent.endpoint import AgentEndpoint
from kat_platform.agent.identity import OwnTls
from kat_platform.agent.local import Places
from kat_platform.agent.renewal import Renewal
from kat_platform.agent.trust import NodeTrustKeeper
from kat_platform.errors import InvalidInput, StoreError
from kat_platform.interfaces.runtime import LogLine
from kat_platform.model.identity import NodeName
from kat_platform.model.node import NodeRole
from kat_platform.model.trust import RotationPhase, TrustRecord
from kat_platform.model.view import TrustItem
from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority
from kat_platform.pki.files import private_folder, write_whole
from kat_platform.pki.keyring import Keyring
from kat_platform.pki.revocations import ensure_revocations
from kat_platform.pki.sealing import seal
from kat_platform.pki.tls import client_context
from kat_platform.pki.trust import described
from kat_platform.testing.fakes.runtime import FakeRuntime
from kat_platform.testing.fakes.store import MemoryStore

NAME = NodeName("kt", "n1", NodeRole.CONTROL_PLANE)


class Scene:
    """A control-plane node of a cluster with CA ``former``, which is to become ``fresh``."""

    def __init__(self, folder):
        self.places = Places(folder)
        self.former, self.fresh = Authority.create("kt"), Authority.create("kt")
        private_folder(self.places.pki)
        self.former.save(self.places.pki)
        ensure_revocations(self.places.pki, self.former)
        self.mine = self.issue(self.former, self.places.certificate, self.places.key)
        self.reports = []
        self.restart()

    def restart(self):
        self.own = OwnTls(self.places)
        self.keeper = NodeTrustKeeper("n1", self.places, self.own)
        self.keeper.use_keyring(Keyring.load(self.places.pki))
        self.keeper.listeners.append(lambda: self.reports.append(self.keeper.facts()))

    def issue(self, authority, certificate, key_file, name=NAME):
        key = certificates.make_key()
        made = authority.issue_node(key.public_key(), name, domain="d")
        write_whole(certificate, certificates.certificate_pem(made))
        write_whole(key_file, certificates.key_pem(key))
        return made

    def record(self):
        return TrustRecord(
            phase=RotationPhase.SPREADING,
            authorities=(described(self.former.certificate), described(self.fresh.certificate)),
            signer=self.former.fingerprint,
            sealed_key=base64.b64encode(seal(self.fresh, self.former)).decode(),
        )

    def item(self, *authorities, signer=None, turn="", revoked=()):
        return TrustItem(
            authorities=tuple(each.pem().decode() for each in authorities),
            signer=(signer or authorities[0]).fingerprint if authorities else "",
            store_turn=turn,
            revoked=revoked,
        )


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def test_what_is_trusted_is_on_disk_before_it_is_reported(scene):
    both = (scene.former.fingerprint, scene.fresh.fingerprint)
    scene.keeper.take(scene.item(scene.former, scene.fresh), complete=True)
    assert scene.reports[-1].trusts == both
    scene.restart()
    assert scene.keeper.facts().trusts == both
    assert scene.keeper.facts().holds == both[:1]
    scene.keeper.hold(scene.record())
    assert scene.reports[-1].holds == both
    scene.restart()
    assert scene.keeper.facts().holds == both
    scene.keeper.take(scene.item(scene.fresh), complete=True)
    scene.restart()
    assert (scene.keeper.facts().trusts, scene.keeper.facts().holds) == (both[1:], both[1:])


def test_a_view_from_disk_takes_nothing_back(scene):
    scene.keeper.take(scene.item(scene.former, scene.fresh), complete=True)
    scene.restart()
    scene.keeper.take(scene.item(scene.former, revoked=("0x7",)), complete=False)
    assert len(scene.keeper.facts().trusts) == 2
    assert scene.own.trust.revoked == {7}


def test_what_cannot_be_read_changes_nothing(scene):
    scene.keeper.take(TrustItem(authorities=("nonsense",)), complete=True)
    assert scene.keeper.facts().trusts == (scene.former.fingerprint,)
    scene.keeper.hold(scene.record().model_copy(update={"sealed_key": "bm9uc2Vuc2U="}))
    assert scene.keeper.facts().holds == (scene.former.fingerprint,)


def test_a_full_disk_is_tried_again_before_the_next_report(scene, monkeypatch):
    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        for module in ("kat_platform.agent.identity", "kat_platform.pki.keyring", "kat_platform.pki.revocations"):
            patch.setattr(f"{module}.write_whole", full)
        scene.keeper.take(scene.item(scene.former, scene.fresh, revoked=("0x5",)), complete=True)
        scene.keeper.hold(scene.record())
        assert scene.keeper.facts().trusts == scene.keeper.facts().holds == (scene.former.fingerprint,)
    facts = scene.keeper.facts()
    assert facts.trusts == facts.holds == (scene.former.fingerprint, scene.fresh.fingerprint)
    scene.restart()
    assert scene.keeper.facts().holds == facts.holds
    assert len(list(x509.load_pem_x509_crl((scene.places.pki / "revoked.crl").read_bytes()))) == 1


def test_the_revoked_are_listed_for_the_store(scene):
    scene.keeper.take(scene.item(revoked=("0x7", "0xff")), complete=True)
    found = x509.load_pem_x509_crl((scene.places.pki / "revoked.crl").read_bytes())
    assert sorted(each.serial_number for each in found) == [7, 255]


async def test_a_certificate_of_the_former_ca_is_renewed_as_soon_as_another_one_signs(scene):
    answers = [scene.former, scene.fresh]

    async def sign(csr):
        return certificates.certificate_pem(answers.pop(0).sign_csr(csr.encode(), NAME, domain="d")).decode()

    renewal = Renewal(NAME, scene.own, sign, stale=scene.keeper.stale)
    scene.keeper.listeners.append(renewal.look)
    replaced = []
    scene.own.on_replace(lambda: replaced.append(scene.own.issuer()))
    task = asyncio.create_task(renewal.run())
    await asyncio.sleep(0)
    scene.keeper.take(scene.item(scene.former, scene.fresh), complete=True)
    await asyncio.sleep(0.05)
    assert replaced == [], "as long as the former one signs there is nothing to renew"
    scene.keeper.take(scene.item(scene.former, scene.fresh, signer=scene.fresh), complete=True)
    async with asyncio.timeout(10):
        while scene.own.issuer() != scene.fresh.fingerprint:  # noqa: ASYNC110 - one server had not heard of it
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert replaced == [scene.former.fingerprint, scene.fresh.fingerprint]
    assert not scene.keeper.stale()


def test_a_certificate_of_a_ca_that_is_not_trusted_is_not_taken(scene):
    key = certificates.make_key()
    made = scene.fresh.issue_node(key.public_key(), NAME, domain="d")
    before = scene.places.certificate.read_bytes()
    with pytest.raises(InvalidInput, match="does not trust"):
        scene.own.replace(certificates.key_pem(key), certificates.certificate_pem(made))
    assert scene.places.certificate.read_bytes() == before


class Restarting(MemoryStore):
    """A store that has to start anew, and fails at it now and then."""

    failures = 0
    renewed = 0

    async def renew_trust(self):
        if self.failures:
            self.failures -= 1
            raise StoreError("no quorum")
        self.renewed += 1


async def test_the_stores_member_starts_anew_in_its_turn_only(scene, monkeypatch):
    monkeypatch.setattr("kat_platform.agent.trust.RETRY_SECONDS", 0.01)
    store = Restarting()
    store.failures = 1
    scene.keeper.store_starts(store)
    task = asyncio.create_task(scene.keeper.follow_turns(store))
    scene.keeper.take(scene.item(scene.former, scene.fresh), complete=True)
    scene.keeper.take(scene.item(scene.former, scene.fresh, turn="n2"), complete=True)
    await asyncio.sleep(0.05)
    assert store.renewed == 0
    assert scene.keeper.facts().store_trusts == (scene.former.fingerprint,)
    scene.keeper.take(scene.item(scene.former, scene.fresh, turn="n1"), complete=True)
    async with asyncio.timeout(5):
        while len(scene.keeper.facts().store_trusts or ()) != 2:  # noqa: ASYNC110 - it is tried again
            await asyncio.sleep(0.01)
    scene.keeper.take(scene.item(scene.former, scene.fresh, turn="n1", revoked=("0x1",)), complete=True)
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert store.renewed == 1


async def test_a_store_that_needs_nothing_is_not_waited_for(scene):
    scene.keeper.store_starts(MemoryStore())
    assert scene.keeper.facts().store_trusts is None
    await asyncio.wait_for(scene.keeper.follow_turns(MemoryStore()), 5)


@asynccontextmanager
async def endpoint(scene, port):
    served = AgentEndpoint(FakeRuntime(), lambda key: None, scene.own.server(require_client=True), scene.own.refusal)
    await served.start("127.0.0.1", port)
    try:
        yield
    finally:
        await served.stop()


async def test_the_agents_endpoint_refuses_who_was_revoked_or_replaced_on_open_connections_too(
    scene, tmp_path, unused_tcp_port
):
    files = tmp_path / "other.pem", tmp_path / "other.key"
    made = scene.issue(scene.former, *files, name=NodeName("kt", "n2", NodeRole.CONTROL_PLANE))
    tls = client_context(scene.former.pem(), *files)
    url = f"https://127.0.0.1:{unused_tcp_port}/agent/v1/instances/default/none/logs"
    async with endpoint(scene, unused_tcp_port), aiohttp.ClientSession() as session:

        async def said():
            async with session.get(url, ssl=tls, server_hostname="kat-api") as answer:
                return answer.status, (await answer.json(content_type=None))["detail"]

        assert (await said())[0] == 404
        scene.keeper.take(scene.item(revoked=(f"{made.serial_number:#x}",)), complete=True)
        status, detail = await said()
        assert status == 403
        assert "revoked" in detail
        scene.keeper.take(scene.item(scene.former, scene.fresh), complete=True)
        assert (await said())[0] == 404
        scene.keeper.take(scene.item(scene.fresh), complete=True)
        status, detail = await said()
        assert status == 403
        assert "does not trust any more" in detail


class Talkative(FakeRuntime):
    """A runtime whose containers say one thing, and then nothing more."""

    async def logs(self, name, *, follow=False, tail=None, since=None):
        yield LogLine(at=1.0, stream="stdout", text="hello")
        await asyncio.Event().wait()


async def test_what_a_revoked_node_has_open_ends_and_nothing_else(scene, tmp_path, unused_tcp_port):
    endpoint = AgentEndpoint(Talkative(), lambda key: "c", scene.own.server(require_client=True), scene.own.refusal)
    scene.keeper.listeners.append(lambda: endpoint.end_revoked(scene.own.trust.is_revoked))
    await endpoint.start("127.0.0.1", unused_tcp_port)
    url = f"https://127.0.0.1:{unused_tcp_port}/agent/v1/instances/default/web/logs"
    made, answers = {}, {}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(endpoint.stop)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        for name in ("n2", "n3"):
            files = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
            made[name] = scene.issue(scene.former, *files, name=NodeName("kt", name, NodeRole.CONTROL_PLANE))
            tls = client_context(scene.former.pem(), *files)
            answers[name] = await session.get(url, ssl=tls, server_hostname="kat-api")
            assert b"hello" in await answers[name].content.readline()
        scene.keeper.take(scene.item(revoked=(f"{made['n2'].serial_number:#x}",)), complete=True)
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(answers["n2"].content.readline(), 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answers["n3"].content.readline(), 0.2)
        for answer in answers.values():
            answer.close()
