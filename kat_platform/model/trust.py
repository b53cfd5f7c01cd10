"""Trust: which CAs a cluster trusts, which of them signs, and how far a change from one to the next has come."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from kat_platform.model.base import Model


class RotationPhase(StrEnum):
    """How far the change of the CA has come; each phase ends when every node has done its part."""

    SETTLED = "Settled"
    """One CA is trusted, and it signs."""
    SPREADING = "Spreading"
    """Two are to be trusted by every node and by every member of the store; the former signs."""
    SIGNING = "Signing"
    """Two are trusted; the new one signs, and every node renews its certificate. Ends only when that is asked for."""
    FINISHING = "Finishing"
    """Only the new one is trusted; every node forgets the former."""


class TrustedAuthority(Model):
    """A CA that is trusted: its certificate (PEM), the SHA-256 of that, and its end (seconds since the epoch)."""

    fingerprint: str
    certificate: str
    expires_at: float = 0.0


class TrustRecord(Model):
    """The cluster's CAs as kept in the store. There is none before the first change: then the only CA is that of init.

    The API begins a change and asks for its finish; the leader moves it on.
    """

    phase: RotationPhase = RotationPhase.SETTLED
    authorities: tuple[TrustedAuthority, ...]
    """Those that are trusted, the oldest first."""
    signer: str
    """Fingerprint of the one that signs."""
    sealed_key: str = ""
    """Key of the new CA, encrypted with a key that only holders of the former CA's key have; gone after the change."""
    link: str = ""
    """The new CA's certificate (PEM) as the former CA issued it: by it, who knows only the former accepts the new."""
    finish_wanted: bool = False
    """Whether the former CA is to be dropped once every node has a certificate of the new one."""
    store_turn: str = ""
    """The control-plane node whose member of the store may be started anew now."""
    left_behind: tuple[str, ...] = ()
    """Nodes that are not waited for: they have to be reset and joined anew."""
    former: tuple[str, ...] = ()
    """Fingerprints of the CAs that were replaced, the latest last."""
    started_at: float = 0.0
    started_by: str = ""

    @property
    def trusted(self) -> frozenset[str]:
        """The fingerprints of the CAs that are trusted."""
        return frozenset(each.fingerprint for each in self.authorities)

    @property
    def newest(self) -> str:
        """The fingerprint of the newest CA: during a change the one it leads to."""
        return self.authorities[-1].fingerprint


class NodeTrust(Model):
    """What a node says of its own certificates; all by fingerprint of the CA."""

    trusts: tuple[str, ...] = ()
    """Whose certificates it accepts."""
    holds: tuple[str, ...] = ()
    """Whose key it has: control-plane nodes only."""
    store_trusts: tuple[str, ...] | None = None
    """Whose certificates its member of the store accepts; absent where there is none that would have to be told."""
    issuer: str = ""
    """Who issued the certificate it uses."""


class Waiting(Model):
    """A node that a change of the CA waits for, and what for."""

    node: str
    reason: str
    away: bool = False


class CaStatus(Model):
    """How it stands with the cluster's CA, worked out when asked."""

    phase: RotationPhase
    authorities: tuple[TrustedAuthority, ...]
    signer: str
    finish_wanted: bool = False
    left_behind: tuple[str, ...] = ()
    started_at: float = 0.0
    started_by: str = ""
    waiting: tuple[Waiting, ...] = Field(default=())
