"""The authority: what it writes, what it issues and what it refuses to sign."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kat_platform.errors import Conflict, HostNotReady, InvalidInput, NotFound
from kat_platform.model.identity import NodeName, UserName
from kat_platform.model.node import NodeRole
from kat_platform.pki.authority import CERTIFICATE_FILE, KEY_FILE, Authority
from kat_platform.pki.certificates import API_SERVER_NAME, check_csr, identity_of, make_csr, make_key, renew_at

WORKER = NodeName("home", "n1", NodeRole.WORKER)
LEADER = NodeName("home", "n2", NodeRole.CONTROL_PLANE)


def _names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_save_and_load(tmp_path: Path, authority: Authority) -> None:
    folder = tmp_path / "pki"
    authority.save(folder)
    authority.save(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / KEY_FILE).stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == [KEY_FILE, CERTIFICATE_FILE]
    again = Authority.load(folder)
    assert again.fingerprint == authority.fingerprint
    assert again.cluster_id == "home"
    assert "key" not in repr(again).lower().replace("publickey", "")


def test_save_never_overwrites_another_authority(tmp_path: Path, authority: Authority) -> None:
    authority.save(tmp_path)
    with pytest.raises(Conflict):
        Authority.create("home").save(tmp_path)
    assert Authority.load(tmp_path).fingerprint == authority.fingerprint


def test_load_refuses_missing_open_and_mixed_files(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(NotFound):
        Authority.load(tmp_path)
    authority.save(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(HostNotReady, match="chmod 600"):
        Authority.load(tmp_path)
    with pytest.raises(InvalidInput, match="belong together"):
        Authority.from_pem(
            authority.pem(),
            make_key().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


def test_node_certificate(authority: Authority) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    key = make_key()
    made = authority.issue_node(
        key.public_key(), LEADER, domain="kat.cluster.local", addresses=[ip_address("10.100.0.1")], now=now
    )
    assert identity_of(made) == LEADER
    assert _names(made).get_values_for_type(x509.DNSName) == ["n2", "n2.node.kat.cluster.local", API_SERVER_NAME]
    assert _names(made).get_values_for_type(x509.IPAddress) == [ip_address("10.100.0.1")]
    assert made.not_valid_before_utc < now
    assert made.not_valid_after_utc == now + timedelta(days=90)
    assert abs(renew_at(made) - (now + timedelta(days=60))) < timedelta(minutes=10)
    made.verify_directly_issued_by(authority.certificate)


def test_a_worker_cannot_pass_for_the_api(authority: Authority) -> None:
    made = authority.issue_node(make_key().public_key(), WORKER, domain="d")
    assert API_SERVER_NAME not in _names(made).get_values_for_type(x509.DNSName)


def test_user_certificate_is_for_clients_only(authority: Authority) -> None:
    user = UserName("home", "ada@example.org", {"*": "admin"})
    made = authority.issue_user(make_key().public_key(), user)
    assert identity_of(made) == user
    uses = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_serial_numbers_differ(authority: Authority) -> None:
    key = make_key().public_key()
    assert len({authority.issue_node(key, WORKER, domain="d").serial_number for _ in range(20)}) == 20


def test_another_clusters_identity_is_not_issued(authority: Authority) -> None:
    with pytest.raises(InvalidInput, match="not this CA's cluster"):
        authority.issue_node(make_key().public_key(), NodeName("other", "n1", NodeRole.WORKER), domain="d")


def test_sign_csr(authority: Authority) -> None:
    key = make_key()
    made = authority.sign_csr(make_csr(key, WORKER), WORKER, domain="d")
    assert made.public_key() == key.public_key()
    assert identity_of(made) == WORKER


@pytest.mark.parametrize(
    "asked",
    [
        NodeName("home", "n2", NodeRole.WORKER),
        NodeName("home", "n1", NodeRole.CONTROL_PLANE),
        NodeName("away", "n1", NodeRole.WORKER),
        UserName("home", "n1", {"*": "admin"}),
    ],
)
def test_csr_for_another_name_or_role_is_refused(authority: Authority, asked: NodeName | UserName) -> None:
    with pytest.raises(InvalidInput, match="may only be"):
        authority.sign_csr(make_csr(make_key(), asked), WORKER, domain="d")


def _foreign_csr(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n1")])
    wish = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(WORKER.uri())])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(wish, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_csr_with_another_kind_of_key_is_refused() -> None:
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        with pytest.raises(InvalidInput, match="P-256"):
            check_csr(_foreign_csr(key), WORKER)


def test_csr_that_is_tampered_with_is_refused() -> None:
    csr = x509.load_pem_x509_csr(make_csr(make_key(), WORKER))
    der = bytearray(csr.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    bad = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(InvalidInput, match="signed by its own key"):
        check_csr(bad, WORKER)


def test_csr_without_identity_garbage_and_oversize(authority: Authority) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n1")])
    plain = x509.CertificateSigningRequestBuilder().subject_name(name).sign(make_key(), hashes.SHA256())
    for pem in (plain.public_bytes(serialization.Encoding.PEM), b"", b"nonsense", b"x" * 20_000):
        with pytest.raises(InvalidInput):
            check_csr(pem, WORKER)
    with pytest.raises(InvalidInput, match="own key"):
        authority.sign_csr(make_csr(authority.key, WORKER), WORKER, domain="d")
