"""Tokens: what people paste. Only hashes of their secrets are ever stored.

API tokens (``kat_ID_SECRET``) are a caller's credential. Join tokens (``katjoin1_...``) admit a new node: they carry
the CA's fingerprint, so that the joining node trusts nothing else, and their hash covers it, so that a token of another
cluster or with another role never matches. The functions are pure; atomic counting down is the store's compare-and-set.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import Field

from kat_platform.errors import InvalidValue, Unauthenticated
from kat_platform.interfaces.auth import Role, TokenRecord
from kat_platform.model.base import Model
from kat_platform.model.identity import check_binding, check_user, join_bearer
from kat_platform.model.node import NodeRole

JOIN_PREFIX: Final = "katjoin1_"
_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 24
_CHECK_BYTES: Final = 4
_ROLES: Final = (NodeRole.WORKER, NodeRole.CONTROL_PLANE)


def make_api_token(
    identity: str, bindings: Mapping[str, Role], *, now: float, ttl: float | None
) -> tuple[str, TokenRecord]:
    """Make a bearer token: the text, shown once, and the record to store. ``now`` and ``ttl`` in seconds."""
    check_user(identity)
    for namespace, role in bindings.items():
        check_binding(namespace, role.value)
    token_id, secret = secrets.token_hex(6), secrets.token_hex(24)
    expires = None if ttl is None else now + ttl
    record = TokenRecord(token_id, hashlib.sha256(secret.encode()).hexdigest(), identity, dict(bindings), expires)
    return join_bearer(token_id, secret), record


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A decoded join token: for whom it is, which CA it trusts, and the secret."""

    id: str
    fingerprint: str
    role: NodeRole
    secret: bytes = field(repr=False)

    def encode(self) -> str:
        """Write it as one word without characters that a shell or a double click would split."""
        body = bytes([_ROLES.index(self.role)]) + bytes.fromhex(self.id) + bytes.fromhex(self.fingerprint) + self.secret
        return JOIN_PREFIX + base64.b32encode(body + _checksum(body)).decode("ascii").rstrip("=").lower()

    @classmethod
    def decode(cls, text: str) -> JoinToken:
        """Read a token; raises ``InvalidValue`` when it is no token or was cut or mistyped. Never repeats the text."""
        word = text.strip()
        size = 1 + _ID_BYTES + hashlib.sha256().digest_size + _SECRET_BYTES
        if not word.startswith(JOIN_PREFIX):
            raise InvalidValue(f"this is not a join token: it starts with {JOIN_PREFIX}")
        try:
            code = word.removeprefix(JOIN_PREFIX)
            raw = base64.b32decode(code.upper() + "=" * (-len(code) % 8))
        except (ValueError, binascii.Error):
            raw = b""
        body, check = raw[:size], raw[size:]
        if len(body) != size or check != _checksum(body) or body[0] >= len(_ROLES):
            raise InvalidValue("the join token is damaged: copy the whole line that 'katcall token create' printed")
        at_print, at_secret = 1 + _ID_BYTES, size - _SECRET_BYTES
        token = cls(body[1:at_print].hex(), body[at_print:at_secret].hex(), _ROLES[body[0]], body[at_secret:])
        if token.encode() != word:
            raise InvalidValue("the join token is damaged: it is not in its usual spelling")
        return token

    def sha256(self) -> str:
        """Give the hash that is stored: over the secret and over all that the token promises."""
        parts = ("kat-join-1", self.id, self.fingerprint, self.role.value, self.secret.hex())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class JoinTokenRecord(Model):
    """A join token as kept in the store. Times in seconds since the epoch."""

    id: str
    sha256: str
    role: NodeRole
    created_at: float
    expires_at: float
    uses_left: int = Field(ge=0)
    created_by: str = ""
    authority: str = ""
    """Fingerprint of the CA that the token trusts; once that is replaced, nobody joins with it any more."""
    used_by: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the certified key of each node that joined with it, by node name."""


def make_join_token(
    fingerprint: str, role: NodeRole, *, now: float, ttl: float, uses: int = 1
) -> tuple[JoinToken, JoinTokenRecord]:
    """Make a join token and the record to store; ``ttl`` in seconds, both it and ``uses`` at least 1."""
    if ttl < 1 or uses < 1:
        raise InvalidValue("a join token lives at least 1 s and serves at least 1 node")
    token = JoinToken(secrets.token_hex(_ID_BYTES), fingerprint, role, secrets.token_bytes(_SECRET_BYTES))
    record = JoinTokenRecord(
        id=token.id,
        sha256=token.sha256(),
        role=role,
        created_at=now,
        expires_at=now + ttl,
        uses_left=uses,
        authority=fingerprint,
    )
    return token, record


def redeem(
    record: JoinTokenRecord | None, token: JoinToken, *, fingerprint: str, now: float, node: str = "", key: str = ""
) -> JoinTokenRecord:
    """Use a token once: the record with one use less, to be written with a comparison on the old one's revision.

    ``node`` and ``key`` (SHA-256 of the key to be certified) say who uses it. The same node with the same key may come
    again, because its first answer may have been lost: that counts once. Nobody else has that private key.

    ``fingerprint`` is this cluster's own CA. Raises ``Unauthenticated`` with the reason; a caller without the right
    secret learns nothing about the record, not even whether it exists.
    """
    if token.fingerprint != fingerprint:
        raise Unauthenticated("the join token is for another cluster")
    known = "" if record is None else record.sha256
    if not hmac.compare_digest(known, token.sha256()) or record is None:
        raise Unauthenticated("the join token is unknown or was withdrawn", hint="make one with 'katcall token create'")
    if now >= record.expires_at:
        raise Unauthenticated("the join token has expired", hint="make one with 'katcall token create'")
    if key and record.used_by.get(node) == key:
        return record
    if record.uses_left < 1:
        raise Unauthenticated("the join token has been used up", hint="make one with 'katcall token create'")
    used_by = {**record.used_by, node: key} if key else record.used_by
    return record.model_copy(update={"uses_left": record.uses_left - 1, "used_by": used_by})


def _checksum(body: bytes) -> bytes:
    """Catch typing errors. It protects against accidents only: what is trusted is the hash in the store."""
    return hashlib.sha256(b"kat-join-check" + body).digest()[:_CHECK_BYTES]
