"""Revocations: the list of revoked certificates as a file, for programs that read one at each handshake."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from kat_platform.pki.authority import CA_VALIDITY, Authority
from kat_platform.pki.certificates import CLOCK_SKEW, utc_now
from kat_platform.pki.files import PUBLIC, write_whole

REVOCATIONS_FILE: Final = "revoked.crl"


def revocation_list(authority: Authority, serials: Iterable[int]) -> bytes:
    """Make the list (PEM). It names the certificates of every CA of the cluster, and does not end before its signer:
    it is made anew when something changes, not when time passes.
    """
    now = utc_now() - CLOCK_SKEW
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(now).next_update(now + CA_VALIDITY + timedelta(days=1))
    for serial in sorted(serials):
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write_revocations(folder: Path, authority: Authority, serials: Iterable[int]) -> None:
    """Write the list into a folder, whole or not at all."""
    write_whole(folder / REVOCATIONS_FILE, revocation_list(authority, serials), mode=PUBLIC)


def ensure_revocations(folder: Path, authority: Authority) -> None:
    """Write an empty list where there is none yet: who is told to read one refuses everybody without it."""
    if not (folder / REVOCATIONS_FILE).exists():
        write_revocations(folder, authority, ())
