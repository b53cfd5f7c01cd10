"""Whom members let in: other CAs after `renew_trust`, nobody who was revoked; on real etcds with TLS between them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from kat_store_etcd.driver import EtcdStore

from kat_platform.errors import Unavailable
from kat_platform.interfaces.store import PeerIdentity, TrustsAnew
from kat_platform.model.identity import NodeName
from kat_platform.model.node import NodeRole
from kat_platform.testing.conformance.store import free_port
from kat_platform.testing.credentials import Authority, certificates

from .conftest import MakeStore

pytestmark = [pytest.mark.real, pytest.mark.slow]
HERE = IPv4Address("127.0.0.1")
ROOT = "/kat/v1/kt/"


class Node:
    """One member's files, as an agent would write them."""

    def __init__(self, folder: Path, name: str, authority: Authority) -> None:
        self.folder, self.name = folder / name, name
        self.folder.mkdir()
        self.peer = PeerIdentity(
            address=HERE,
            port=free_port(),
            ca=self.folder / "ca.pem",
            certificate=self.folder / "node.pem",
            key=self.folder / "node.key",
            required_name="kat-api",
            revoked=self.folder / "revoked.crl",
        )
        self.trust(authority)
        self.renew(authority)
        self.revoke(authority)

    def trust(self, *authorities: Authority) -> None:
        self.peer.ca.write_bytes(b"".join(each.pem() for each in authorities))

    def renew(self, authority: Authority) -> x509.Certificate:
        key = certificates.make_key()
        who = NodeName("kt", self.name, NodeRole.CONTROL_PLANE)
        made = authority.issue_node(key.public_key(), who, domain="d", addresses=[HERE])
        self.peer.certificate.write_bytes(certificates.certificate_pem(made))
        self.peer.key.write_bytes(certificates.key_pem(key))
        return made

    def revoke(self, authority: Authority, *serials: int) -> None:
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
        builder = builder.last_update(now).next_update(now + timedelta(days=1))
        for serial in serials:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(one)
        made = builder.sign(authority.key, hashes.SHA256())
        draft = self.folder / "draft"
        draft.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        assert self.peer.revoked is not None
        draft.replace(self.peer.revoked)

    async def answer_to(self, other: Node, *trusted: Authority) -> bool:
        """Tell whether this member answers to another one's certificate."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(cadata=b"".join(each.pem() for each in trusted).decode())
        tls.load_cert_chain(other.peer.certificate, other.peer.key)
        try:
            reader, writer = await asyncio.open_connection(
                str(HERE), self.peer.port, ssl=tls, server_hostname="kat-api"
            )
            writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            said = await asyncio.wait_for(reader.readline(), 5)
            writer.close()
        except (ssl.SSLError, ConnectionError):
            return False
        return said.startswith(b"HTTP/1.1 200")


async def insist(change: Callable[[str], Awaitable[None]], member: str) -> None:
    for _ in range(100):
        try:
            return await change(member)
        except Unavailable:
            await asyncio.sleep(0.1)
    raise AssertionError("the cluster never got ready")


async def test_two_members_go_over_to_another_ca_and_refuse_the_revoked(tmp_path: Path, make_store: MakeStore) -> None:
    former, fresh = Authority.create("kt"), Authority.create("kt")
    one, other = Node(tmp_path, "kt-a", former), Node(tmp_path, "kt-b", former)
    first, second = make_store("kt-a"), make_store("kt-b")
    await start_both(one, other, first, second)
    assert await one.answer_to(other, former)

    stranger = Node(tmp_path, "kt-c", former)
    assert await one.answer_to(stranger, former)
    one.revoke(former, certificates.load_certificate(stranger.peer.certificate.read_bytes()).serial_number)
    assert not await one.answer_to(stranger, former)
    assert await one.answer_to(other, former)

    await first.put(ROOT + "before", b"1")
    for node, store in ((one, first), (other, second)):
        node.trust(former, fresh)
        await store.renew_trust()
        await store.renew_trust()
        await store.put(ROOT + node.name, b"2")
    for node in (one, other):
        node.renew(fresh)
        assert await one.answer_to(node, former, fresh), "both are trusted, and each shows its own"
    for node, store in ((one, first), (other, second)):
        node.trust(fresh)
        await store.renew_trust()
        await store.put(ROOT + node.name, b"3")
    late = Node(tmp_path, "kt-d", former)
    assert not await one.answer_to(late, fresh), "the former CA is trusted no more"
    assert await one.answer_to(other, fresh)
    assert await other.answer_to(one, fresh)
    found = {entry.key: entry.value for entry in (await second.list(ROOT)).entries}
    assert found == {ROOT + "before": b"1", ROOT + "kt-a": b"3", ROOT + "kt-b": b"3"}


async def start_both(one: Node, other: Node, first: EtcdStore, second: EtcdStore) -> None:
    assert isinstance(first, TrustsAnew)
    first.configure_peers(one.peer)
    await first.bootstrap(one.name, one.peer.url)
    await first.start()
    learner = await first.add_member(other.name, other.peer.url)
    second.configure_peers(other.peer)
    await second.join(other.name, other.peer.url, (await first.store_status()).members)
    await second.start()
    await insist(first.promote_member, learner.id)
