"""Trust: which CAs' certificates are accepted, and which of these are refused all the same. Pure, but for TLS contexts.

A TLS context can be given a further CA while it is in use, but cannot be made to forget one, and knows nothing of
revocations. So what it let in is held against a :class:`Trust` once more: at the handshake where a server is called
(:func:`checked`), at each request where one is served (connections outlive both).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from kat_platform.errors import InvalidInput
from kat_platform.model.trust import TrustedAuthority
from kat_platform.pki.certificates import certificate_pem, cluster_of, fingerprint


@dataclass(frozen=True, slots=True)
class Trust:
    """The CAs that are trusted, the oldest first, and the serial numbers that were revoked."""

    authorities: tuple[x509.Certificate, ...]
    revoked: frozenset[int] = frozenset()

    @classmethod
    def read(cls, bundle: bytes, revoked: frozenset[int] = frozenset()) -> Self:
        """Read CA certificates from PEM; raises ``InvalidInput`` unless all are CAs of one and the same cluster."""
        try:
            found = tuple(x509.load_pem_x509_certificates(bundle))
        except ValueError as error:
            raise InvalidInput("the CA is not a certificate in PEM") from error
        if len({cluster_of(each) for each in found}) != 1:
            raise InvalidInput("these are not the CAs of one cluster")
        return cls(found, revoked)

    def pem(self) -> bytes:
        """Give the CA certificates as PEM."""
        return b"".join(certificate_pem(each) for each in self.authorities)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The CAs' fingerprints, the oldest first."""
        return tuple(fingerprint(each) for each in self.authorities)

    def issuer(self, certificate: x509.Certificate) -> str:
        """Give the fingerprint of the CA that issued a certificate; empty when none of these did."""
        return _issuer(certificate, self.authorities)

    def is_revoked(self, der: bytes) -> bool:
        """Tell whether a certificate was revoked."""
        return x509.load_der_x509_certificate(der).serial_number in self.revoked

    def refusal(self, der: bytes) -> str:
        """Say why a certificate is refused; empty when it is not. Its dates are the TLS layer's to look at."""
        certificate = x509.load_der_x509_certificate(der)
        if certificate.serial_number in self.revoked:
            return "the certificate was revoked: its node was removed from the cluster"
        if not self.issuer(certificate):
            return "the certificate is of a CA that the cluster does not trust any more"
        return ""


@lru_cache(maxsize=1024)
def _issuer(certificate: x509.Certificate, authorities: tuple[x509.Certificate, ...]) -> str:
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return fingerprint(authority)
    return ""


@lru_cache(maxsize=4)
def trust_of(authorities: tuple[TrustedAuthority, ...]) -> Trust:
    """Give the trust that a record of the store stands for, revocations left aside."""
    return Trust.read("".join(each.certificate for each in authorities).encode())


def described(certificate: x509.Certificate) -> TrustedAuthority:
    """Describe a CA as the store and the API do."""
    return TrustedAuthority(
        fingerprint=fingerprint(certificate),
        certificate=certificate_pem(certificate).decode(),
        expires_at=certificate.not_valid_after_utc.timestamp(),
    )


def serials(texts: Iterable[str]) -> frozenset[int]:
    """Read serial numbers as they are written in the store (``0x...``); what is none is left out."""
    found = set()
    for text in texts:
        try:
            found.add(int(text, 16))
        except ValueError:
            continue  # said where revocations are read from the store
    return frozenset(found)


def checked(context: ssl.SSLContext, refusal: Callable[[bytes], str]) -> ssl.SSLContext:
    """Have every handshake of a context fail when ``refusal`` gives a reason against the other side's certificate."""

    class Checked(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            der = self.getpeercert(binary_form=True)
            reason = refusal(der) if der is not None else ""
            if reason:
                error = ssl.SSLCertVerificationError(1, reason)
                error.verify_code, error.verify_message = 0, reason
                raise error

    context.sslobject_class = Checked
    return context
