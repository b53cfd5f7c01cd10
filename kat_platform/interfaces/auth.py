"""Auth: who is calling the API, and what they may do.

``authenticate`` is asked once per connection (certificate) or request (bearer token), ``authorize`` for each
request; both must answer from memory within a millisecond. The API records every mutation, allowed or denied, as an
audit event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from kat_platform.interfaces.driver import Driver


class Role(StrEnum):
    """The roles of SPEC section 7."""

    ADMIN = "admin"
    EDIT = "edit"
    VIEW = "view"
    NODE = "node"


class Verb(StrEnum):
    """What is done to a resource."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    EXEC = "exec"
    """Run a command inside an instance, or forward a port into it."""
    REPORT = "report"
    """A node reporting on itself."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a caller brought: the verified peer certificate as DER, or a bearer token, or neither.

    The server has already checked that the certificate is signed by the cluster's CA and within its dates.
    """

    certificate: bytes | None = None
    bearer: str | None = None
    remote: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling. ``bindings`` gives the role in each namespace; ``"*"`` is all of them and the cluster."""

    name: str
    bindings: Mapping[str, Role] = field(default_factory=dict)
    node: str | None = None
    """For role ``node``: the node it may speak for."""
    control_plane: bool = False
    method: str = ""
    """``certificate`` or ``token``; for audit."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the caller wants: ``namespace`` ``None`` for cluster resources; ``name`` empty for a whole list."""

    verb: Verb
    resource: str
    namespace: str | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether it is allowed, and the reason for the audit record and the answer."""

    allowed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A bearer token as kept in the store: only its hash. ``expires_at`` seconds since the epoch."""

    id: str
    sha256: str
    identity: str
    bindings: Mapping[str, Role]
    expires_at: float | None = None


@runtime_checkable
class Auth(Driver, Protocol):
    """Identifies and decides; see the module."""

    async def load(self, tokens: tuple[TokenRecord, ...], revoked_serials: frozenset[int]) -> None:
        """Take the current bearer tokens and revoked certificates; replaces what was loaded before."""

    def authenticate(self, credentials: Credentials, *, now: float) -> Identity:
        """Tell who this is. Raises ``Unauthenticated`` with a reason that helps the caller and nobody else."""

    def authorize(self, identity: Identity, request: Request) -> Decision:
        """Decide. Pure."""
