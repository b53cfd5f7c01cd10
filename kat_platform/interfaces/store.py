"""Store: the replicated, ordered key-value state.

Keys are UTF-8 strings, values bytes (at most 1 MiB). The store has one revision counter; every successful write
(a whole transaction counts as one) raises it. Linearizable: a read sees every write acknowledged before it began.

A write that raises ``StoreError`` or ``TimedOut`` may or may not have happened; ``Conflict`` and ``StoreFull``
did not. Reads and removals go on when the store is full.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol, runtime_checkable

from kat_platform.interfaces.driver import Driver


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its value. ``revision`` is that of the last write to this key, ``created`` of the first.

    ``version`` counts the writes to the key since it was created, starting at 1. ``lease`` is 0 for none.
    """

    key: str
    value: bytes
    revision: int
    created: int
    version: int = 1
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """What ``list`` found, all as of one ``revision`` of the store: watch from ``revision + 1`` without a gap."""

    entries: tuple[Entry, ...]
    revision: int


class Field(StrEnum):
    """What of a key a comparison looks at. A key that does not exist has revision, created and version 0."""

    REVISION = "revision"
    CREATED = "created"
    VERSION = "version"
    VALUE = "value"
    LEASE = "lease"


class Op(StrEnum):
    """How a comparison compares."""

    EQUAL = "="
    NOT_EQUAL = "!="
    GREATER = ">"
    LESS = "<"


@dataclass(frozen=True, slots=True)
class Compare:
    """One condition of a transaction: ``field`` of ``key`` ``op`` ``operand``."""

    key: str
    field: Field
    op: Op
    operand: int | bytes

    @classmethod
    def absent(cls, key: str) -> Compare:
        """Hold when the key does not exist."""
        return cls(key, Field.CREATED, Op.EQUAL, 0)

    @classmethod
    def unchanged(cls, key: str, revision: int) -> Compare:
        """Hold when the key's last write is ``revision`` (0: it does not exist)."""
        return cls(key, Field.REVISION, Op.EQUAL, revision)


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value; ``lease`` 0 for none."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key, or every key with that prefix. Removing nothing is no error."""

    key: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key, or every key with that prefix, inside a transaction."""

    key: str
    prefix: bool = False


Operation = Put | Delete | Get


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """Which branch ran, at which revision, and what its ``Get`` operations read, in their order."""

    succeeded: bool
    revision: int
    reads: tuple[tuple[Entry, ...], ...] = ()


class ChangeType(StrEnum):
    """What happened to a key."""

    PUT = "put"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one key. For ``DELETE`` the entry has an empty value and the revision of the removal."""

    type: ChangeType
    entry: Entry
    previous: Entry | None = None


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Changes of one or more whole revisions, in order: a revision is never split over two batches.

    ``revision`` is the newest one included. An empty batch is a sign of progress: everything up to ``revision``
    has been delivered.
    """

    revision: int
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease granted by the store: keys bound to it vanish when it is not kept alive for ``ttl`` seconds."""

    id: int
    ttl: int


@dataclass(frozen=True, slots=True)
class Leadership:
    """Proof of having won an election: as long as ``key`` has ``created == revision`` this holder is leader.

    Put :meth:`fence` into every transaction that only the leader may do.
    """

    election: str
    key: str
    revision: int
    candidate: str
    lease: int = 0

    def fence(self) -> Compare:
        """Give the comparison that holds only while this leadership does."""
        return Compare(self.key, Field.CREATED, Op.EQUAL, self.revision)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the store's cluster; ids are the store's own, as text."""

    id: str
    name: str
    peer_urls: tuple[str, ...] = ()
    learner: bool = False
    healthy: bool = True


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Where this node's member meets the others, and by which certificate they know each other.

    The files are PEM. A store reads them anew for each connection, so that a renewed certificate needs no restart.
    """

    address: IPv4Address
    """The node's address in the overlay, which stays the same when the host moves to another network."""
    port: int
    ca: Path
    certificate: Path
    key: Path
    required_name: str
    """DNS name that a certificate must carry: any node has one of this CA, but not every node is a member."""
    revoked: Path | None = None
    """Certificate revocation list (PEM) of this CA: who is on it is refused, although the certificate is in order.
    Replaced whole whenever it changes, so it is read for each connection too."""
    reachable: bool = True
    """False at the first start of a cluster's first member, before the overlay is up: nobody can call it yet."""

    @property
    def url(self) -> str:
        """The member's peer URL, as the other members are told."""
        return peer_url(self.address, self.port)


def peer_url(address: IPv4Address, port: int) -> str:
    """Give the URL by which a store's members know the one at this address."""
    return f"https://{address}:{port}"


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """How the store is: its revision, size in bytes, whether a quorum answers, and its members."""

    revision: int
    size_bytes: int
    available: bool
    leader: str | None = None
    members: tuple[Member, ...] = ()
    version: str = ""
    alarms: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)


@runtime_checkable
class Store(Driver, Protocol):
    """The replicated state; see the module for guarantees. All methods may be called concurrently."""

    async def get(self, key: str) -> Entry | None:
        """Read one key; ``None`` when it does not exist."""

    async def list(self, prefix: str, *, keys_only: bool = False) -> Page:
        """Read every key with the prefix, sorted by key, all as of one revision (whatever the size)."""

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write one key; gives the new revision."""

    async def delete(self, key: str, *, prefix: bool = False) -> int:
        """Remove a key or a prefix; gives how many keys were removed."""

    async def transaction(
        self,
        compares: tuple[Compare, ...],
        then: tuple[Operation, ...],
        otherwise: tuple[Operation, ...] = (),
    ) -> TransactionResult:
        """Run ``then`` if every comparison holds, else ``otherwise``: atomically, as one revision.

        At most :attr:`max_operations` operations a branch and comparisons; more raise ``TooLarge``. A key may
        be written once only in a branch.
        """

    @property
    def max_operations(self) -> int:
        """How many operations one branch of a transaction may have, at least 128."""

    def watch(self, prefix: str, *, from_revision: int, progress: bool = False) -> AsyncGenerator[WatchBatch, None]:
        """Give every change with the prefix from ``from_revision`` on, each exactly once, in order.

        Survives restarts of the store without gap or repetition. Raises ``Compacted`` when the revision is no
        longer kept, or lies beyond the next one (the store was restored from a backup): then list and watch
        anew. Ends only by being closed (``aclose``) or by that error.
        With ``progress`` empty batches tell how far the watch is (at least every 60 s).
        """

    async def lease(self, ttl: int) -> Lease:
        """Grant a lease of ``ttl`` seconds (at least 1; the store may give a longer one)."""

    async def keep_alive(self, lease: int) -> Lease:
        """Renew once. Raises ``NotFound`` when the lease has ended. Writes nothing to disk."""

    async def revoke(self, lease: int) -> None:
        """End a lease and remove its keys. One that has ended is no error."""

    async def campaign(self, election: str, candidate: str, *, ttl: int) -> Leadership:
        """Wait until this candidate leads; the driver keeps the lease alive until ``resign`` or loss.

        Cancelling the call withdraws the candidacy. A candidate that campaigns again replaces its own older
        candidacy or leadership (a restarted process need not wait for its former self's lease); the older call
        then raises ``Conflict``.
        """

    async def leadership_lost(self, leadership: Leadership) -> None:
        """Return when this leadership has ended, for whatever reason (also when it can no longer be kept)."""

    async def resign(self, leadership: Leadership) -> None:
        """Give the leadership up at once. One that was lost already is no error."""

    async def leader(self, election: str) -> Leadership | None:
        """Tell who leads now, or ``None``."""

    def snapshot(self) -> AsyncIterator[bytes]:
        """Stream a consistent copy of the whole state in the store's own format."""

    async def compact(self, revision: int) -> None:
        """Forget history before ``revision``. Current values stay."""

    async def store_status(self) -> StoreStatus:
        """Tell how the store is; never raises, but says ``available=False``."""


@runtime_checkable
class HasMembers(Protocol):
    """A store whose cluster of members can be changed while it runs."""

    def configure_peers(self, peer: PeerIdentity) -> None:
        """Tell address and certificate of this node's member, before each ``start``; nothing of it is kept."""

    async def bootstrap(self, name: str, peer_url: str) -> None:
        """Prepare this node to be the first member of a new cluster, before ``start``."""

    async def add_member(self, name: str, peer_url: str) -> Member:
        """Announce a member to the cluster (as a learner where it can); refused when quorum would be at risk."""

    async def join(self, name: str, peer_url: str, members: tuple[Member, ...]) -> None:
        """Prepare this node to join those members, before ``start``."""

    async def promote_member(self, member_id: str) -> None:
        """Make a caught-up learner a voter; raises ``Unavailable`` while it is behind."""

    async def remove_member(self, member_id: str) -> None:
        """Take a member out. One that is gone is no error; refused when quorum would be lost."""


@runtime_checkable
class TrustsAnew(Protocol):
    """A store whose running member does not see by itself that ``PeerIdentity.ca`` holds other CAs."""

    async def renew_trust(self) -> None:
        """Make this node's member trust what ``PeerIdentity.ca`` holds now, and wait until it answers again.

        It may be away for a moment, so it is asked of one member at a time. Safe to repeat; on any error the member
        runs, with the CAs of before or of now.
        """


@runtime_checkable
class Restores(Protocol):
    """A store that can be made anew from a snapshot."""

    async def restore(self, snapshot: AsyncIterator[bytes], name: str, peer_url: str) -> None:
        """Make this node the only member of a new cluster with the snapshot's content, before ``start``."""


@runtime_checkable
class SurvivesAlone(Protocol):
    """A store that can go on with one member and its data when the others are lost for good."""

    async def forget_members(self) -> None:
        """Make this node the only member, keeping its data, before ``start``.

        For a quorum that is lost for good: what the lost members alone had acknowledged may be missing. They must
        never come back with their data. Safe to repeat.
        """
