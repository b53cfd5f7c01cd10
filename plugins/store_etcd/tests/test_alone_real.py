"""A quorum lost for good, and members that know each other by certificates: on real etcds."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kat_platform.interfaces.store import PeerIdentity
from kat_platform.model.identity import NodeName
from kat_platform.model.node import NodeRole
from kat_platform.testing.conformance.store import free_port
from kat_platform.testing.credentials import Authority, certificates

from .conftest import MakeStore, peer_url
from .test_members_real import insist

pytestmark = pytest.mark.real
ROOT = "/kat/v1/kt/"
LOOPBACK = IPv4Address("127.0.0.1")


def identity(authority: Authority, folder: Path, name: str, role: NodeRole = NodeRole.CONTROL_PLANE) -> PeerIdentity:
    """Make a node's certificate and where its member listens."""
    folder.mkdir(exist_ok=True)
    key = certificates.make_key()
    node = NodeName(authority.cluster_id, name, role)
    certificate = authority.issue_node(key.public_key(), node, domain="kt.local", addresses=[LOOPBACK])
    files = {"ca": authority.pem(), "crt": certificates.certificate_pem(certificate), "key": certificates.key_pem(key)}
    for suffix, content in files.items():
        (folder / f"{name}.{suffix}").write_bytes(content)
    ca, crt, own = (folder / f"{name}.{suffix}" for suffix in files)
    return PeerIdentity(LOOPBACK, free_port(), ca, crt, own, certificates.API_SERVER_NAME)


async def test_the_first_start_needs_no_overlay_and_the_next_is_called_by_its_address(
    make_store: MakeStore, tmp_path: Path
) -> None:
    authority = Authority.create("kt")
    peer = identity(authority, tmp_path / "pki", "kt-a")
    nowhere = PeerIdentity(
        IPv4Address("192.0.2.7"), peer.port, peer.ca, peer.certificate, peer.key, peer.required_name, reachable=False
    )
    store = make_store("kt-a")
    await store.bootstrap("kt-a", nowhere.url)
    store.configure_peers(nowhere)
    await store.start()
    await store.put(ROOT + "a", b"1")
    status = await store.store_status()
    assert [member.peer_urls for member in status.members] == [(nowhere.url,)]


@pytest.mark.slow
@pytest.mark.parametrize("role", [NodeRole.CONTROL_PLANE, NodeRole.WORKER])
async def test_only_a_control_plane_certificate_makes_a_member(
    make_store: MakeStore, tmp_path: Path, role: NodeRole
) -> None:
    authority = Authority.create("kt")
    own, other = identity(authority, tmp_path, "kt-a"), identity(authority, tmp_path, "kt-b", role)
    store, second = make_store("kt-a"), make_store("kt-b", start_timeout_seconds=3.0)
    await store.bootstrap("kt-a", own.url)
    store.configure_peers(own)
    await store.start()
    learner = await store.add_member("kt-b", other.url)
    await second.join("kt-b", other.url, (await store.store_status()).members)
    second.configure_peers(other)
    if role is NodeRole.WORKER:
        await asyncio.sleep(0)
        starting = asyncio.create_task(second.start())
        await asyncio.sleep(4)
        assert [member.name for member in (await store.store_status()).members if member.learner] == [""]
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    await second.start()
    await insist(store.promote_member, learner.id)
    await second.put(ROOT + "b", b"2")


@pytest.mark.slow
async def test_one_member_goes_on_alone_with_all_its_data(make_store: MakeStore) -> None:
    store, second = make_store("kt-a", retry_seconds=0.5), make_store("kt-b")
    await store.bootstrap("kt-a", peer_url())
    await store.start()
    url = peer_url()
    learner = await store.add_member("kt-b", url)
    await second.join("kt-b", url, (await store.store_status()).members)
    await second.start()
    await insist(store.promote_member, learner.id)
    for number in range(50):
        await second.put(f"{ROOT}{number:02}", b"x")
    await second.reset()  # lost for good
    assert not (await store.store_status()).available
    await store.stop()
    await store.forget_members()
    await store.start()
    status = await store.store_status()
    assert status.available
    assert [member.name for member in status.members] == ["kt-a"]
    assert len((await store.list(ROOT)).entries) == 50
    await store.put(ROOT + "after", b"")
    await store.stop()
    await store.start()
    assert await store.get(ROOT + "after") is not None
