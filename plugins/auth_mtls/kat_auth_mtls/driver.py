"""The driver: remembers tokens and revocations, and asks the pure modules."""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field

from kat_auth_mtls import __version__
from kat_auth_mtls.access import decide
from kat_auth_mtls.certificate import Holder, read_certificate
from kat_platform.errors import InvalidValue, Unauthenticated
from kat_platform.interfaces.auth import Credentials, Decision, Identity, Request, TokenRecord
from kat_platform.interfaces.driver import Capability, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.model.base import Model
from kat_platform.model.identity import split_bearer

_NOBODY: Final = "0" * 64
"""Compared when there is no such token, so that unknown and wrong take the same time."""


class MtlsConfig(Model):
    """``pluginConfig.mtls``."""

    model_config = ConfigDict(title="mtls")

    certificate_cache_size: int = Field(
        default=1024, ge=1, le=1_000_000, description="How many parsed client certificates are remembered."
    )


class MtlsAuth:
    """Knows callers by a certificate of the cluster's CA, or by a bearer token; implements ``interfaces.auth.Auth``."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="mtls",
        version=__version__,
        capability=Capability.AUTH,
        capabilities={"certificates": True, "bearerTokens": True, "revocation": True},
        summary="client certificates of the cluster's CA and bearer tokens",
    )
    Config: ClassVar[type[BaseModel]] = MtlsConfig

    def __init__(self, config: MtlsConfig, context: DriverContext) -> None:
        """Keep the parts; no I/O."""
        self._limit = config.certificate_cache_size
        self._seen: OrderedDict[bytes, Holder] = OrderedDict()
        self._tokens: Mapping[str, TokenRecord] = MappingProxyType({})
        self._revoked: frozenset[int] = frozenset()

    async def start(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """Forget what was parsed."""
        self._seen.clear()

    async def status(self) -> DriverStatus:
        """Tell how many tokens and revocations are loaded."""
        facts = {"tokens": len(self._tokens), "revoked": len(self._revoked), "cached": len(self._seen)}
        return DriverStatus(Health.OK, facts=facts)

    async def load(self, tokens: tuple[TokenRecord, ...], revoked_serials: frozenset[int]) -> None:
        """Replace tokens and revocations; takes effect on the next request of every caller."""
        self._tokens = MappingProxyType({token.id: token for token in tokens})
        self._revoked = frozenset(revoked_serials)

    def authenticate(self, credentials: Credentials, *, now: float) -> Identity:
        """Tell who this is; a bearer token, which was sent on purpose, goes before the certificate.

        Raises ``Unauthenticated``. Dates and revocation are looked at each time: connections outlive both.
        """
        if credentials.bearer is not None:
            return self._by_token(credentials.bearer, now)
        if credentials.certificate is not None:
            return self._by_certificate(credentials.certificate, now)
        raise Unauthenticated("no credential was sent: use a client certificate or a bearer token")

    def authorize(self, identity: Identity, request: Request) -> Decision:
        """Decide by the matrix in ``access``."""
        return decide(identity, request)

    def _by_certificate(self, der: bytes, now: float) -> Identity:
        key = hashlib.sha256(der).digest()
        holder = self._seen.get(key)
        if holder is None:
            holder = self._seen[key] = read_certificate(der)
            if len(self._seen) > self._limit:
                self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(key)
        if holder.serial in self._revoked:
            raise Unauthenticated(f"the certificate of {holder.identity.name} was revoked")
        if now >= holder.valid_to:
            raise Unauthenticated(f"the certificate of {holder.identity.name} has expired")
        if now < holder.valid_from:
            raise Unauthenticated(f"the certificate of {holder.identity.name} is not valid yet: compare the clocks")
        return holder.identity

    def _by_token(self, text: str, now: float) -> Identity:
        try:
            token_id, secret = split_bearer(text)
        except InvalidValue as error:
            raise Unauthenticated(error.message) from error
        record = self._tokens.get(token_id)
        known = _NOBODY if record is None else record.sha256
        if not hmac.compare_digest(known, hashlib.sha256(secret.encode()).hexdigest()) or record is None:
            raise Unauthenticated("the bearer token is unknown or was withdrawn")
        if record.expires_at is not None and now >= record.expires_at:
            raise Unauthenticated("the bearer token has expired")
        return Identity(name=record.identity, bindings=MappingProxyType(dict(record.bindings)), method="token")
