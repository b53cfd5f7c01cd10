"""TLS contexts for the API, the agents and their clients.

TLS 1.2 at least, 1.3 where both sides can, and trust in the cluster's own CA only."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509

from kat_platform.errors import InvalidInput, Unauthenticated
from kat_platform.pki.certificates import certificate_pem, fingerprint


def server_context(ca_pem: bytes, certificate: Path, key: Path, *, require_client: bool = False) -> ssl.SSLContext:
    """Make a server's context. A client certificate is checked when one is sent, and must be sent if required.

    Without ``require_client`` a caller may bring a bearer token instead; who has neither is refused by the API.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _common(context, ca_pem)
    context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    reload(context, certificate, key)
    return context


def client_context(ca_pem: bytes, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Make a client's context that trusts only this CA and checks the server's name.

    Connect with ``server_hostname=certificates.API_SERVER_NAME`` to reach the API at whatever address it has.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _common(context, ca_pem)
    context.check_hostname = True
    context.verify_mode = ssl.CERT_REQUIRED
    if certificate is not None and key is not None:
        reload(context, certificate, key)
    return context


def unverified_context() -> ssl.SSLContext:
    """Make a context that trusts anybody: only to fetch a CA that :func:`trust_ca` then checks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def reload(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Take a renewed certificate into use: connections made from now on carry it, open ones go on undisturbed."""
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise InvalidInput(f"cannot use certificate {certificate} with key {key}: {error}") from error


def trust_also(context: ssl.SSLContext, ca_pem: bytes) -> None:
    """Trust a further CA beside the present one, for the time in which a cluster changes its CA."""
    context.load_verify_locations(cadata=ca_pem.decode("ascii"))


def trust_ca(ca_pem: bytes, expected_fingerprint: str) -> bytes:
    """Give the one CA certificate of those in PEM that the join token names; raises ``Unauthenticated`` without it."""
    try:
        found = {fingerprint(each): each for each in x509.load_pem_x509_certificates(ca_pem)}
    except ValueError as error:
        raise InvalidInput("this is not a certificate in PEM") from error
    if expected_fingerprint not in found:
        raise Unauthenticated(
            "the server's CA is not the one the token names: this is another cluster, or somebody in between",
            hint="if the cluster has changed its CA since, make a new token with 'katcall token create'",
            expected=expected_fingerprint,
            found=sorted(found),
        )
    return certificate_pem(found[expected_fingerprint])


def _common(context: ssl.SSLContext, ca_pem: bytes) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise InvalidInput("the CA is not a certificate in PEM") from error
