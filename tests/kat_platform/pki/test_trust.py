"""Trust: two CAs of one cluster, links between them, revocations; keys that lie sealed; all with real handshakes."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from kat_platform.errors import InvalidInput
from kat_platform.model.identity import NodeName
from kat_platform.model.node import NodeRole
from kat_platform.pki import certificates, tls
from kat_platform.pki.authority import Authority
from kat_platform.pki.files import private_folder, write_whole
from kat_platform.pki.keyring import Keyring, matching
from kat_platform.pki.revocations import ensure_revocations, revocation_list, write_revocations
from kat_platform.pki.sealing import seal, unseal
from kat_platform.pki.trust import Trust, checked, serials

LEADER = NodeName("home", "n1", NodeRole.CONTROL_PLANE)


@pytest.fixture
def former() -> Authority:
    return Authority.create("home")


@pytest.fixture
def fresh() -> Authority:
    return Authority.create("home")


def issue(folder: Path, authority: Authority, *links: x509.Certificate) -> tuple[Path, Path, x509.Certificate]:
    key = certificates.make_key()
    made = authority.issue_node(key.public_key(), LEADER, domain="d")
    chain = b"".join(map(certificates.certificate_pem, (made, *links)))
    write_whole(folder / "node.pem", chain)
    write_whole(folder / "node.key", certificates.key_pem(key))
    return folder / "node.pem", folder / "node.key", made


async def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=server)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="kat-api")
        assert await reader.read() == b"hello"
        writer.close()


async def test_who_knows_only_the_former_ca_accepts_the_new_one_by_the_link(
    tmp_path: Path, former: Authority, fresh: Authority
) -> None:
    certificate, key, _ = issue(tmp_path, fresh)
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(tls.server_context(fresh.pem(), certificate, key), tls.client_context(former.pem()))
    certificate, key, _ = issue(tmp_path, fresh, former.link(fresh.certificate))
    strict = tls.client_context(former.pem())
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    for client in (tls.client_context(former.pem()), strict, tls.client_context(fresh.pem())):
        await handshake(tls.server_context(fresh.pem(), certificate, key), client)
    stranger = tls.client_context(Authority.create("home").pem())
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(tls.server_context(fresh.pem(), certificate, key), stranger)


async def test_a_client_refuses_at_the_handshake_what_is_not_trusted_any_more(
    tmp_path: Path, former: Authority, fresh: Authority
) -> None:
    certificate, key, made = issue(tmp_path, former)
    server = tls.server_context(former.pem(), certificate, key)
    trust = Trust.read(former.pem() + fresh.pem())
    client = checked(tls.client_context(trust.pem()), lambda der: trust.refusal(der))
    await handshake(server, client)
    trust = Trust(trust.authorities, frozenset({made.serial_number}))
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        await handshake(server, client)
    trust = Trust.read(fresh.pem())
    with pytest.raises(ssl.SSLCertVerificationError, match="does not trust any more"):
        await handshake(server, client)


def test_the_issuer_is_who_signed_and_not_who_is_named(tmp_path: Path, former: Authority, fresh: Authority) -> None:
    _, _, made = issue(tmp_path, former)
    assert former.certificate.subject == fresh.certificate.subject
    both = Trust.read(former.pem() + fresh.pem())
    assert both.issuer(made) == former.fingerprint
    assert both.fingerprints == (former.fingerprint, fresh.fingerprint)
    assert Trust.read(fresh.pem()).issuer(made) == ""


@pytest.mark.parametrize("bundle", [b"", b"nonsense"])
def test_what_is_no_ca_is_not_trusted(bundle: bytes, former: Authority) -> None:
    with pytest.raises(InvalidInput):
        Trust.read(bundle)
    with pytest.raises(InvalidInput, match="one cluster"):
        Trust.read(former.pem() + Authority.create("other").pem())


def test_a_sealed_key_is_for_who_has_the_former_ones(former: Authority, fresh: Authority) -> None:
    sealed = seal(fresh, former)
    assert certificates.key_pem(fresh.key) not in sealed
    assert unseal(sealed, fresh.pem(), former).key.private_numbers() == fresh.key.private_numbers()
    assert seal(fresh, former) != sealed
    damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for text, certificate, by in (
        (sealed, fresh.pem(), Authority.create("home")),
        (sealed, former.pem(), former),
        (damaged, fresh.pem(), former),
        (b"", fresh.pem(), former),
    ):
        with pytest.raises(InvalidInput, match="not sealed"):
            unseal(text, certificate, by)


def test_a_keyring_finds_again_what_belongs_together(tmp_path: Path, former: Authority, fresh: Authority) -> None:
    private_folder(tmp_path)
    former.save(tmp_path)
    ring = Keyring.load(tmp_path)
    assert ring.held == (former.fingerprint,)
    ring.add(fresh)
    assert Keyring.load(tmp_path).held == (former.fingerprint,), "a key without its certificate is not used yet"
    for bundle in (former.pem() + fresh.pem(), fresh.pem() + former.pem()):
        write_whole(tmp_path / "ca.pem", bundle)
        again = Keyring.load(tmp_path)
        assert set(again.held) == {former.fingerprint, fresh.fingerprint}
        for one in (former, fresh):
            found = again.get(one.fingerprint)
            assert found is not None
            assert found.key.private_numbers() == one.key.private_numbers()
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    ring.keep_only((fresh.fingerprint,))
    write_whole(tmp_path / "ca.pem", fresh.pem())
    assert Keyring.load(tmp_path).held == (fresh.fingerprint,)
    assert certificates.key_pem(former.key) not in (tmp_path / "ca.key").read_bytes()
    ring.keep_only(("somebody's",))
    assert ring.held == (fresh.fingerprint,), "the last one is kept in any case"
    with pytest.raises(InvalidInput, match="do not belong together"):
        matching(former.pem(), certificates.key_pem(fresh.key))


def test_the_list_of_revoked_certificates(tmp_path: Path, former: Authority) -> None:
    ensure_revocations(tmp_path, former)
    empty = (tmp_path / "revoked.crl").read_bytes()
    assert list(x509.load_pem_x509_crl(empty)) == []
    write_revocations(tmp_path, former, {7, 5})
    ensure_revocations(tmp_path, former)
    found = x509.load_pem_x509_crl((tmp_path / "revoked.crl").read_bytes())
    assert sorted(each.serial_number for each in found) == [5, 7]
    assert found.is_signature_valid(former.certificate.public_key())
    assert found.next_update_utc is not None
    assert found.next_update_utc > former.certificate.not_valid_after_utc
    assert x509.load_pem_x509_crl(revocation_list(former, {5})).get_revoked_certificate_by_serial_number(5)
    assert serials(["0x1f", "nonsense", "0x2"]) == {31, 2}
