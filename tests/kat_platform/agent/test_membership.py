"""Becoming a member of the store: every step may be interrupted, and is then gone on with."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from kat_platform.agent import membership
from kat_platform.agent.journal import Journal
from kat_platform.agent.local import LocalNode, Membership, Places
from kat_platform.agent.membership import StoreMember
from kat_platform.agent.recover import refuse_unfit
from kat_platform.backup.key import RecoveryKey, load_or_derive
from kat_platform.errors import Conflict, InvalidInput, Unavailable
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.meta import Metadata
from kat_platform.model.node import NodeRole
from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority
from kat_platform.pki.files import private_folder, read_private
from kat_platform.pki.keyring import Keyring
from kat_platform.testing.fakes.store import MemoryStore

OWN = IPv4Address("10.100.2.1")
URL = "https://10.100.2.1:2380"


class Link:
    """The API, as a node that has joined sees it; ``refusals`` are answered first."""

    def __init__(self, authority: Authority, *refusals: Exception) -> None:
        self.authority, self.refusals = authority, list(refusals)
        self.asked: list[str] = []
        self.more: dict[str, str] = {}

    async def enrol(self):
        self.asked.append("enrol")
        self._maybe_refuse()
        members = [
            {"id": "a", "name": "n1", "peerUrls": ["https://10.100.0.1:2380"], "learner": False},
            {"id": "b", "name": "", "peerUrls": [URL], "learner": True},
        ]
        return {"members": members, "caKey": certificates.key_pem(self.authority.key).decode(), **self.more}

    async def promote(self):
        self.asked.append("promote")
        self._maybe_refuse()

    def _maybe_refuse(self):
        if self.refusals:
            raise self.refusals.pop(0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(membership, "PAUSES", (0.0, 0.0))


@pytest.fixture
def authority():
    return Authority.create("kt")


@pytest.fixture
def places(tmp_path, authority):
    made = Places(tmp_path)
    private_folder(made.pki)
    (made.pki / "ca.pem").write_bytes(authority.pem())
    return made


def node(state, role=NodeRole.CONTROL_PLANE):
    configuration = ClusterConfiguration(metadata=Metadata(name="cluster"))
    return LocalNode(
        cluster_id="kt", node_name="n2", role=role, tag="kt0", configuration=configuration, membership=state
    )


async def test_a_new_node_is_taken_in_before_its_store_starts_and_gets_its_vote_after(places, authority):
    store, kept = MemoryStore(), []
    link = Link(authority, Unavailable("n3 is away"), Conflict("too many learners"))
    member = StoreMember(node(Membership.ABSENT), places, store, link, OWN, kept.append)
    await member.prepare()
    assert store.peer is not None
    assert (store.peer.url, store.peer.required_name) == (URL, certificates.API_SERVER_NAME)
    assert sorted(store.members) == ["a", "b"]
    assert kept == [Membership.LEARNER]
    assert Authority.load(places.pki).fingerprint == authority.fingerprint
    assert (places.pki / "ca.key").stat().st_mode & 0o777 == 0o600
    link.refusals = [Unavailable("it has not caught up")]
    await member.complete()
    assert kept == [Membership.LEARNER, Membership.VOTER]
    assert link.asked == ["enrol"] * 3 + ["promote"] * 2


async def test_a_learner_that_was_interrupted_only_asks_for_its_vote(places, authority):
    authority.save(places.pki)
    store, kept, link = MemoryStore(), [], Link(authority)
    member = StoreMember(node(Membership.LEARNER), places, store, link, OWN, kept.append)
    await member.prepare()
    await member.complete()
    assert link.asked == ["promote"]
    assert kept == [Membership.VOTER]
    assert store.peer is not None


async def test_a_member_asks_nobody(places, authority):
    authority.save(places.pki)
    store, link = MemoryStore(), Link(authority)
    member = StoreMember(node(Membership.VOTER), places, store, link, OWN, lambda state: None)
    await member.prepare()
    await member.complete()
    assert link.asked == []
    assert store.peer is not None, "each start needs the address"


async def test_the_key_of_another_ca_is_not_kept(places):
    member = StoreMember(
        node(Membership.ABSENT), places, MemoryStore(), Link(Authority.create("kt")), OWN, lambda state: None
    )
    with pytest.raises(InvalidInput, match="do not belong together"):
        await member.prepare()
    assert not (places.pki / "ca.key").exists()


def test_the_mesh_outlives_a_view_that_was_half_written(tmp_path):
    items = {"cluster": {"a": 1}, "node/n1": {"b": 2}, "service/default/web": {"c": 3}, "instance/default/x": {}}
    Journal(tmp_path).save_view(items)
    assert Journal(tmp_path).load_view() == {k: v for k, v in items.items() if not k.startswith("instance/")}
    (tmp_path / "view.json").write_bytes(b"")  # as a power cut leaves what was not flushed
    assert Journal(tmp_path).load_view() == {"cluster": {"a": 1}, "node/n1": {"b": 2}}
    assert read_private(tmp_path / "mesh.json")


@pytest.mark.parametrize(
    ("state", "role", "words"),
    [
        (Membership.VOTER, NodeRole.WORKER, "is a worker"),
        (Membership.LEARNER, NodeRole.CONTROL_PLANE, "not become a full member"),
        (Membership.ABSENT, NodeRole.CONTROL_PLANE, "not become a full member"),
    ],
)
def test_only_a_full_member_can_go_on_alone(state, role, words):
    with pytest.raises(Conflict, match=words):
        refuse_unfit(node(state, role))
    refuse_unfit(node(Membership.VOTER))


@pytest.mark.parametrize("given", [True, False])
async def test_the_recovery_key_comes_with_the_cas_key(places, authority, given):
    """A control plane of an older version gives none: the node then makes the same as the others do."""
    link, key = Link(authority), RecoveryKey.create()
    link.more = {"backupKey": key.text} if given else {}
    await StoreMember(node(Membership.ABSENT), places, MemoryStore(), link, OWN, lambda _: None).prepare()
    assert load_or_derive(places.pki, Keyring([authority])) == (key if given else RecoveryKey.of_authority(authority))
    assert RecoveryKey.load(places.pki) == load_or_derive(places.pki, Keyring([authority]))
