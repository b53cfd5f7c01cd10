"""Sealing: a new CA's key, encrypted for those who have the former CA's key, so that it may lie in the store.

AES-256-GCM under a key derived (HKDF-SHA-256) from the former CA's private key; bound to the new CA's certificate. All
control-plane nodes have that key and nobody else does, so none of them is needed for the others to get the new one.
"""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding

from kat_platform.errors import InvalidInput
from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority

_NONCE: Final = 12
_PURPOSE: Final = b"kat: key of the next CA"


def seal(fresh: Authority, former: Authority) -> bytes:
    """Encrypt a CA's key so that only who has the former CA's key can read it."""
    nonce = secrets.token_bytes(_NONCE)
    bound = fresh.certificate.public_bytes(Encoding.DER)
    return nonce + _cipher(former).encrypt(nonce, certificates.key_pem(fresh.key), bound)


def unseal(sealed: bytes, certificate: bytes, former: Authority) -> Authority:
    """Read what :func:`seal` made for the CA with this certificate (PEM); raises ``InvalidInput``."""
    bound = certificates.load_certificate(certificate).public_bytes(Encoding.DER)
    try:
        key = _cipher(former).decrypt(sealed[:_NONCE], sealed[_NONCE:], bound)
    except (InvalidTag, ValueError) as error:
        raise InvalidInput("the key of the new CA was not sealed for the CA's key that this node has") from error
    return Authority.from_pem(certificate, key)


def _cipher(former: Authority) -> AESGCM:
    secret = former.key.private_numbers().private_value.to_bytes(32, "big")
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret))
