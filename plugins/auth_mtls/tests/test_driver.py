"""Certificates from a real authority, and everything that ends their validity."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from kat_auth_mtls.driver import MtlsAuth, MtlsConfig

from kat_platform.errors import Unauthenticated
from kat_platform.interfaces.auth import Credentials, Role
from kat_platform.interfaces.driver import DriverContext
from kat_platform.model.identity import NodeName, UserName
from kat_platform.model.node import NodeRole
from kat_platform.testing.credentials import Authority, make_api_token

NOW = datetime(2026, 6, 1, tzinfo=UTC)
T = NOW.timestamp()
DAY = 86400.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("home", now=NOW)


def _driver(size: int = 8) -> MtlsAuth:
    return MtlsAuth(MtlsConfig(certificate_cache_size=size), DriverContext("n1", Path(), Path(), "kt1"))


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _user(authority: Authority, name: str = "ada") -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    user = UserName("home", name, {"*": "view", "shop": "edit"})
    return authority.issue_user(key.public_key(), user, now=NOW)


def test_user_and_node(authority: Authority) -> None:
    driver = _driver()
    ada = driver.authenticate(Credentials(certificate=_der(_user(authority))), now=T)
    assert (ada.name, dict(ada.bindings), ada.method) == ("ada", {"*": Role.VIEW, "shop": Role.EDIT}, "certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    made = authority.issue_node(key.public_key(), NodeName("home", "n2", NodeRole.CONTROL_PLANE), domain="d", now=NOW)
    node = driver.authenticate(Credentials(certificate=_der(made)), now=T)
    assert (node.node, node.control_plane) == ("n2", True)


async def test_revocation_and_dates_are_looked_at_each_time(authority: Authority) -> None:
    driver, made = _driver(), _user(authority)
    mine = Credentials(certificate=_der(made))
    driver.authenticate(mine, now=T)
    with pytest.raises(Unauthenticated, match="expired"):
        driver.authenticate(mine, now=T + 91 * DAY)
    with pytest.raises(Unauthenticated, match="not valid yet"):
        driver.authenticate(mine, now=T - DAY)
    await driver.load((), frozenset({made.serial_number}))
    with pytest.raises(Unauthenticated, match="revoked"):
        driver.authenticate(mine, now=T)
    await driver.load((), frozenset())
    driver.authenticate(mine, now=T)


async def test_the_cache_is_bounded(authority: Authority) -> None:
    driver = _driver(size=2)
    for name in ("a", "b", "c", "d"):
        driver.authenticate(Credentials(certificate=_der(_user(authority, name))), now=T)
    assert (await driver.status()).facts["cached"] == 2


@pytest.mark.parametrize(
    "uris", [[], ["https://example.org"], ["kat://home/user/a", "kat://home/user/b"], ["kat://home/node/n1"]]
)
def test_certificates_without_one_clear_identity(uris: list[str]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW.replace(year=2027))
    if uris:
        alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(alternative, critical=False)
    with pytest.raises(Unauthenticated, match="identity"):
        _driver().authenticate(Credentials(certificate=_der(builder.sign(key, hashes.SHA256()))), now=T)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_refused_and_not_remembered(der: bytes) -> None:
    driver = _driver()
    with pytest.raises(Unauthenticated):
        driver.authenticate(Credentials(certificate=der), now=T)
    assert not driver._seen


async def test_a_token_goes_before_the_certificate(authority: Authority) -> None:
    driver = _driver()
    text, record = make_api_token("bot", {"shop": Role.VIEW}, now=T, ttl=60)
    await driver.load((record,), frozenset())
    mine = _der(_user(authority))
    assert driver.authenticate(Credentials(certificate=mine, bearer=text), now=T).name == "bot"
    with pytest.raises(Unauthenticated):  # a bad token is an error, not an occasion to fall back
        driver.authenticate(Credentials(certificate=mine, bearer=text + "0"), now=T)
