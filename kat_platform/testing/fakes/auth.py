"""Auth by a table of rights: for tests that need somebody to be let in, and somebody not to be."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict

from kat_platform.errors import InvalidValue, Unauthenticated
from kat_platform.interfaces.auth import Credentials, Decision, Identity, Request, Role, TokenRecord, Verb
from kat_platform.interfaces.driver import Capability, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.model.identity import split_bearer

_CHANGES: Final = frozenset({Verb.WRITE, Verb.DELETE, Verb.EXEC})


class FakeAuthConfig(BaseModel):
    """The fake has nothing to configure."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FakeAuth:
    """The auth contract in its plainest form: bearer tokens, and the certificates a test enters in ``holders``."""

    info: ClassVar[DriverInfo] = DriverInfo(
        "fake", "1.0.0", Capability.AUTH, capabilities={"bearerTokens": True}, summary="plain auth for tests"
    )
    Config: ClassVar[type[BaseModel]] = FakeAuthConfig

    def __init__(self, config: FakeAuthConfig | None, context: DriverContext) -> None:
        """Know nobody; no I/O."""
        self.holders: dict[bytes, Identity] = {}
        self.tokens: tuple[TokenRecord, ...] = ()

    async def start(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """Nothing to let go of."""

    async def status(self) -> DriverStatus:
        """Always well."""
        return DriverStatus(Health.OK, facts={"tokens": len(self.tokens)})

    async def load(self, tokens: tuple[TokenRecord, ...], revoked_serials: frozenset[int]) -> None:
        """Take the tokens; the fake's certificates have no serial numbers to revoke."""
        self.tokens = tokens

    def authenticate(self, credentials: Credentials, *, now: float) -> Identity:
        """Look the token or the certificate up."""
        if credentials.bearer is not None:
            return self._by_token(credentials.bearer, now)
        holder = self.holders.get(credentials.certificate or b"")
        if holder is None:
            raise Unauthenticated("no credential that is known here")
        return holder

    def authorize(self, identity: Identity, request: Request) -> Decision:
        """Decide by role: admin all, edit in its namespace, view by reading, a node about itself."""
        role = identity.bindings.get("*")
        if role is None and request.namespace is not None:
            role = identity.bindings.get(request.namespace)
        return Decision(self.may(role, identity, request), f"role {role.value if role else 'none'}")

    def may(self, role: Role | None, identity: Identity, request: Request) -> bool:
        """Tell whether a role allows a request."""
        if role is Role.NODE or request.verb is Verb.REPORT:
            own = identity.node is not None and request.resource == "nodes" and request.name == identity.node
            return own and request.verb not in _CHANGES
        if role is Role.ADMIN:
            return True
        if role is Role.EDIT:
            return request.namespace is not None or request.verb is Verb.READ
        return role is Role.VIEW and request.verb is Verb.READ and request.resource not in ("secrets", "tokens")

    def _by_token(self, text: str, now: float) -> Identity:
        try:
            token_id, secret = split_bearer(text)
        except InvalidValue as error:
            raise Unauthenticated("the bearer token is malformed") from error
        digest = hashlib.sha256(secret.encode()).hexdigest()
        for record in self.tokens:
            if (record.id, record.sha256) == (token_id, digest) and now < (record.expires_at or float("inf")):
                return Identity(record.identity, dict(record.bindings), method="token")
        raise Unauthenticated("the bearer token is unknown or has expired")
