"""Access: who is calling and whether they may. Credentials are looked at here and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog
from aiohttp import hdrs, web
from cryptography import x509

from kat_platform.errors import Denied, KatError, Unauthenticated
from kat_platform.interfaces.auth import Auth, Credentials, Identity, Request, Role, TokenRecord, Verb
from kat_platform.interfaces.store import Change, ChangeType, Store
from kat_platform.model.base import Model
from kat_platform.model.trust import TrustRecord
from kat_platform.pki.trust import trust_of
from kat_platform.state import keys
from kat_platform.state.cache import StateCache
from kat_platform.state.cluster import ClusterState

log = structlog.get_logger(__name__)

IDENTITY: Final = web.RequestKey("identity", Identity)
"""Where a request carries its caller."""
_SCHEME: Final = "bearer "


class StoredToken(Model):
    """A bearer token as kept in the store: only its hash. Times in seconds since the epoch."""

    id: str
    sha256: str
    identity: str
    bindings: dict[str, Role]
    created_at: float = 0.0
    created_by: str = ""
    expires_at: float | None = None

    def record(self) -> TokenRecord:
        """Give what the auth driver needs of it."""
        return TokenRecord(self.id, self.sha256, self.identity, self.bindings, self.expires_at)


def credentials_of(request: web.BaseRequest) -> Credentials:
    """Take the credentials out of a request; raises ``Unauthenticated`` for an Authorization header of another kind."""
    bearer: str | None = None
    header = request.headers.get(hdrs.AUTHORIZATION)
    if header is not None:
        if header[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated("the Authorization header must be 'Bearer TOKEN'")
        bearer = header[len(_SCHEME) :].strip()
    certificate: bytes | None = None
    transport = request.transport
    if transport is not None:
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            certificate = tls.getpeercert(binary_form=True)
    return Credentials(certificate, bearer, request.remote or "")


class Access:
    """Asks the auth driver; keeps it supplied with tokens and revocations."""

    def __init__(
        self, auth: Auth, now: Callable[[], float], trust: Callable[[], TrustRecord | None] = lambda: None
    ) -> None:
        self._auth, self._now, self._trust = auth, now, trust
        self._tokens: dict[str, TokenRecord] = {}
        self._revoked: set[int] = set()
        self._moved = asyncio.Event()

    def identify(self, request: web.BaseRequest) -> Identity:
        """Tell who is calling; raises ``Unauthenticated``."""
        credentials, record = credentials_of(request), self._trust()
        if credentials.bearer is None and credentials.certificate is not None and record is not None:
            refuse_former(credentials.certificate, record)
        return self._auth.authenticate(credentials, now=self._now())

    def check(self, identity: Identity, verb: Verb, resource: str, namespace: str | None, name: str) -> None:
        """Raise ``Denied`` unless the caller may. No driver can let a node speak for another one."""
        if verb is Verb.REPORT and identity.node != name:
            who = f"node '{identity.node}'" if identity.node else f"'{identity.name}', which is no node,"
            raise Denied(f"{who} may not speak for node '{name}'", verb=verb.value, resource=resource)
        decision = self._auth.authorize(identity, Request(verb, resource, namespace, name))
        if not decision.allowed:
            raise Denied(decision.reason or f"{identity.name} may not {verb.value} {resource}", resource=resource)

    async def load(self, store: Store) -> None:
        """Read every token and revocation, and give them to the driver."""
        for prefix in (keys.TOKENS, keys.REVOKED):
            for entry in (await store.list(prefix)).entries:
                self._take(entry.key, entry.value)
        await self._hand_over()

    def follow(self, cache: StateCache) -> Callable[[], None]:
        """Take changes of tokens and revocations from the cache; gives the way to stop it."""

        def listen(_: ClusterState, changes: tuple[Change, ...]) -> None:
            for change in changes:
                key = change.entry.key
                if key.startswith((keys.TOKENS, keys.REVOKED)):
                    self._take(key, None if change.type is ChangeType.DELETE else change.entry.value)
                    self._moved.set()

        return cache.subscribe(listen)

    async def run(self) -> None:
        """Hand changes over to the driver until cancelled."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            await self._hand_over()

    async def took(self, token: TokenRecord | None, token_id: str) -> None:
        """Take one's own write into effect at once, before the watch brings it."""
        if token is None:
            self._tokens.pop(token_id, None)
        else:
            self._tokens[token_id] = token
        await self._hand_over()

    def _take(self, key: str, value: bytes | None) -> None:
        if key.startswith(keys.REVOKED):
            serial = _serial(key[len(keys.REVOKED) :])
            if serial is not None:
                (self._revoked.discard if value is None else self._revoked.add)(serial)
            return
        token_id = key[len(keys.TOKENS) :]
        token = None if value is None else read_token(value)
        if token is None:
            self._tokens.pop(token_id, None)
        else:
            self._tokens[token_id] = token.record()

    async def _hand_over(self) -> None:
        await self._auth.load(tuple(self._tokens.values()), frozenset(self._revoked))


def read_token(value: bytes) -> StoredToken | None:
    """Read a stored token; one that is unreadable counts for nothing, and is logged."""
    try:
        return StoredToken.from_json(value)
    except ValueError:
        log.error("unreadable token in the store")
        return None


def refuse_former(certificate: bytes, record: TrustRecord) -> None:
    """Raise ``Unauthenticated`` for a certificate of a CA that was replaced: the TLS layer may still know that one."""
    if not trust_of(record.authorities).issuer(x509.load_der_x509_certificate(certificate)):
        raise Unauthenticated(
            "the certificate is of this cluster's former CA, which is not trusted any more",
            hint="ask an administrator for a token, or run 'kat-agent context' on a control-plane node",
        )


def refusal(request: web.BaseRequest, error: KatError) -> dict[str, Any]:
    """Give what is logged of a caller that was turned away; never the credential."""
    return {"remote": request.remote, "path": request.path, "method": request.method, "reason": error.message}


def _serial(text: str) -> int | None:
    try:
        return int(text, 0) if text.startswith("0x") else int(text)
    except ValueError:
        log.error("unreadable revocation in the store", serial=text[:80])
        return None
