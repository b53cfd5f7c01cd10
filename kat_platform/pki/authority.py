"""The cluster's certificate authority: made once by ``init``, kept only on control-plane nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kat_platform.errors import Conflict, InvalidInput
from kat_platform.model.identity import NodeName, UserName
from kat_platform.model.scalars import check_name
from kat_platform.pki import certificates
from kat_platform.pki.files import PUBLIC, private_folder, read_private, read_public, write_whole

CA_VALIDITY: Final = timedelta(days=3650)
CERTIFICATE_FILE: Final = "ca.pem"
KEY_FILE: Final = "ca.key"

_LEAF_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_CA_USAGE: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA certificate with its key: issues certificates to this cluster's nodes and users, to nobody else."""

    cluster_id: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, cluster_id: str, *, now: datetime | None = None) -> Self:
        """Make a new authority for a cluster, valid ten years."""
        now = now or certificates.utc_now()
        key = certificates.make_key()
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, check_name(cluster_id)),
                x509.NameAttribute(NameOID.COMMON_NAME, "KAT cluster CA"),
            ]
        )
        builder = _builder(name, name, key.public_key(), now, CA_VALIDITY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_CA_USAGE, critical=True)
        own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(own_id, critical=False)
        return cls(cluster_id, builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def from_pem(cls, certificate: bytes, key: bytes) -> Self:
        """Read an authority from PEM; raises ``InvalidInput`` when the two do not belong together."""
        cert, private = certificates.load_certificate(certificate), certificates.load_key(key)
        if cert.public_key() != private.public_key():
            raise InvalidInput("the CA's certificate and private key do not belong together")
        return cls(certificates.cluster_of(cert), cert, private)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an authority that :meth:`save` wrote; raises ``NotFound``, ``HostNotReady`` or ``InvalidInput``."""
        return cls.from_pem(read_public(folder / CERTIFICATE_FILE), read_private(folder / KEY_FILE))

    def save(self, folder: Path) -> None:
        """Write ``ca.key`` (0600) and ``ca.pem`` into a folder (0700).

        Repeating it changes nothing; a folder that holds another authority raises ``Conflict``.
        """
        private_folder(folder)
        if (folder / CERTIFICATE_FILE).exists() and read_public(folder / CERTIFICATE_FILE) != self.pem():
            raise Conflict(f"{folder} already holds another cluster's CA", hint="nothing was overwritten")
        write_whole(folder / KEY_FILE, certificates.key_pem(self.key))
        write_whole(folder / CERTIFICATE_FILE, self.pem(), mode=PUBLIC)

    def pem(self) -> bytes:
        """Give the CA certificate as PEM: what every node and user trusts."""
        return certificates.certificate_pem(self.certificate)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the CA certificate's DER, 64 hexadecimal digits; join tokens carry it."""
        return certificates.fingerprint(self.certificate)

    def link(self, successor: x509.Certificate) -> x509.Certificate:
        """Issue another CA's certificate with this one's key: sent along with a certificate of the successor's, it is
        accepted by who trusts only this one.

        Both have one name, so it is self-issued and does not count against the path length (RFC 5280, 4.2.1.9).
        """
        certificate = self.certificate
        ends = min(successor.not_valid_after_utc, certificate.not_valid_after_utc)
        made = x509.CertificateBuilder().subject_name(successor.subject).issuer_name(certificate.subject)
        made = made.public_key(successor.public_key()).serial_number(x509.random_serial_number())
        made = made.not_valid_before(successor.not_valid_before_utc).not_valid_after(ends)
        for each in successor.extensions:
            made = made.add_extension(each.value, critical=each.critical)
        own_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id)
        return made.add_extension(issuer, critical=False).sign(self.key, hashes.SHA256())

    def issue_node(
        self,
        public_key: ec.EllipticCurvePublicKey,
        node: NodeName,
        *,
        domain: str,
        addresses: Iterable[IPv4Address | IPv6Address] = (),
        now: datetime | None = None,
        validity: timedelta = certificates.VALIDITY,
    ) -> x509.Certificate:
        """Issue a node's certificate, good as TLS server and client."""
        names = certificates.node_names(node, domain, addresses)
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(public_key, node, node.role.value, names, uses, now, validity)

    def issue_user(
        self,
        public_key: ec.EllipticCurvePublicKey,
        user: UserName,
        *,
        now: datetime | None = None,
        validity: timedelta = certificates.VALIDITY,
    ) -> x509.Certificate:
        """Issue a certificate to a person or program, good as TLS client only."""
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(user.uri())])
        return self._issue(public_key, user, "user", names, [ExtendedKeyUsageOID.CLIENT_AUTH], now, validity)

    def sign_csr(
        self,
        csr: bytes,
        node: NodeName,
        *,
        domain: str,
        addresses: Iterable[IPv4Address | IPv6Address] = (),
        now: datetime | None = None,
    ) -> x509.Certificate:
        """Sign a node's request, after its name, role, key and signature were checked against ``node``.

        ``node`` is who the sender has proved to be (by token or by its current certificate). Raises ``InvalidInput``.
        """
        key = certificates.check_csr(csr, node)
        if key == self.certificate.public_key():
            raise InvalidInput("the signing request carries the CA's own key")
        return self.issue_node(key, node, domain=domain, addresses=addresses, now=now)

    def _issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        holder: NodeName | UserName,
        unit: str,
        names: x509.SubjectAlternativeName,
        uses: list[x509.ObjectIdentifier],
        now: datetime | None,
        validity: timedelta,
    ) -> x509.Certificate:
        if holder.cluster != self.cluster_id:
            raise InvalidInput(f"'{holder.cluster}' is not this CA's cluster, which is '{self.cluster_id}'")
        name = certificates.subject(holder.cluster, holder.name, unit)
        builder = _builder(name, self.certificate.subject, public_key, now or certificates.utc_now(), validity)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_LEAF_USAGE, critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        ca_id = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id)
        return builder.add_extension(issuer, critical=False).sign(self.key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, validity: timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - certificates.CLOCK_SKEW).not_valid_after(now + validity)
