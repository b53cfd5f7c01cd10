"""Keys, signing requests and what is read from a certificate; everything here is pure.

Every certificate is ECDSA P-256 and names its holder by one URI (``kat_platform.model.identity``). The DNS and IP
names beside it only serve the TLS handshake; nobody's rights come from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kat_platform.errors import InvalidInput, InvalidValue
from kat_platform.model.identity import NodeName, UserName, parse_identity
from kat_platform.model.node import NodeRole
from kat_platform.model.scalars import check_name

VALIDITY: Final = timedelta(days=90)
CLOCK_SKEW: Final = timedelta(minutes=10)
"""How far the clocks of two hosts may differ: a certificate is valid this long before it was made."""
API_SERVER_NAME: Final = "kat-api"
"""DNS name in every control-plane certificate: clients check it instead of an address, which may change."""

CSR_LIMIT: Final = 16 * 1024


def utc_now() -> datetime:
    """Give the time in UTC."""
    return datetime.now(UTC)


def make_key() -> ec.EllipticCurvePrivateKey:
    """Make a private key (P-256). It is meant never to leave this host."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a private key as unencrypted PKCS #8; whoever keeps it must keep it 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read a private key; raises ``InvalidInput`` unless it is an unencrypted P-256 key."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput("this is not an unencrypted private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInput("the private key must be ECDSA P-256")
    return key


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Write a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def load_certificate(pem: bytes) -> x509.Certificate:
    """Read one certificate from PEM; raises ``InvalidInput``."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise InvalidInput("this is not a certificate in PEM") from error


def chain_pem(pem: bytes) -> bytes:
    """Give every certificate in a PEM text, the holder's first, and nothing else that is in it."""
    try:
        return b"".join(map(certificate_pem, x509.load_pem_x509_certificates(pem)))
    except ValueError as error:
        raise InvalidInput("this is not a certificate in PEM") from error


def fingerprint(certificate: x509.Certificate) -> str:
    """Give the SHA-256 of the certificate's DER as 64 hexadecimal digits."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def cluster_of(ca: x509.Certificate) -> str:
    """Read which cluster a CA certificate belongs to; raises ``InvalidInput`` when it is no CA of a KAT cluster."""
    owner = ca.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if len(owner) != 1 or ca.subject != ca.issuer:
        raise InvalidInput("this is not a certificate of a KAT cluster's CA")
    return check_name(str(owner[0].value))


def identity_of(certificate: x509.Certificate) -> NodeName | UserName:
    """Read the one identity a certificate carries; raises ``InvalidInput`` when there is none, or more."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise InvalidInput("the certificate names no KAT identity: it has no readable subjectAltName") from error
    return _one_identity(names.get_values_for_type(x509.UniformResourceIdentifier))


def _one_identity(uris: list[str]) -> NodeName | UserName:
    if len(uris) != 1:
        raise InvalidInput(f"the certificate must name exactly one identity, a kat:// URI; it has {len(uris)}")
    return parse_identity(uris[0])


def renew_at(certificate: x509.Certificate) -> datetime:
    """Tell when to renew: at two thirds of its life, so that a month of trouble is survived."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return start + (end - start) * 2 / 3


def subject(cluster: str, name: str, unit: str) -> x509.Name:
    """Give the distinguished name that people see in ``openssl x509``: CN the name, O the cluster, OU the role."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def node_names(
    node: NodeName, domain: str, addresses: Iterable[IPv4Address | IPv6Address]
) -> x509.SubjectAlternativeName:
    """Give a node's subjectAltName: identity, DNS names and addresses.

    Only a control-plane node answers to :data:`API_SERVER_NAME`: a worker must not pass for the API.
    """
    dns = [node.name, f"{node.name}.node.{domain}"]
    if node.role is NodeRole.CONTROL_PLANE:
        dns.append(API_SERVER_NAME)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(node.uri())]
    names += [x509.DNSName(name) for name in dns]
    names += [x509.IPAddress(address) for address in sorted(set(addresses), key=str)]
    return x509.SubjectAlternativeName(names)


def make_csr(key: ec.EllipticCurvePrivateKey, identity: NodeName | UserName) -> bytes:
    """Ask for a certificate: a signing request in PEM that proves possession of the key and names the wish."""
    unit = identity.role.value if isinstance(identity, NodeName) else "user"
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject(identity.cluster, identity.name, unit))
    wish = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri())])
    made = builder.add_extension(wish, critical=False).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def check_csr(pem: bytes, expected: NodeName | UserName) -> ec.EllipticCurvePublicKey:
    """Check a signing request against the identity its sender has proved, and give its public key.

    Raises ``InvalidInput`` naming what is wrong: form, signature, kind of key, or another's name or role. Whatever
    else the request asks for is ignored: names and rights are the authority's to give.
    """
    if len(pem) > CSR_LIMIT:
        raise InvalidInput(f"the signing request has more than {CSR_LIMIT} bytes")
    try:
        csr = x509.load_pem_x509_csr(pem)
        key = csr.public_key()
        signed = csr.is_signature_valid
        wish = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise InvalidInput("the signing request names no identity") from error
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm, InvalidSignature) as error:
        raise InvalidInput("the signing request is malformed") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInput("the signing request's key must be ECDSA P-256")
    if not signed:
        raise InvalidInput("the signing request is not signed by its own key")
    _check_wish(wish, expected)
    return key


def _check_wish(wish: x509.SubjectAlternativeName, expected: NodeName | UserName) -> None:
    try:
        asked = _one_identity(wish.get_values_for_type(x509.UniformResourceIdentifier))
    except InvalidValue as error:
        raise InvalidInput(f"the signing request names no identity: {error.message}") from error
    if asked != expected:
        raise InvalidInput(f"the signing request asks for {asked.uri()}, but its sender may only be {expected.uri()}")
