"""A store that keeps everything in memory: the whole contract, with time under the test's control."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from kat_platform.errors import Conflict, InvalidInput, NotFound, StoreError
from kat_platform.interfaces.driver import Capability, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.interfaces.store import (
    Compare,
    Delete,
    Entry,
    Leadership,
    Lease,
    Member,
    Operation,
    Page,
    PeerIdentity,
    Put,
    StoreStatus,
    TransactionResult,
    WatchBatch,
)
from kat_platform.testing.fakes.clock import Clock, SystemClock
from kat_platform.testing.fakes.store_state import MAX_OPERATIONS, MemoryState

REAP_SECONDS = 0.05
PROGRESS_SECONDS = 30.0


class MemoryStoreConfig(BaseModel):
    """The memory store has nothing to configure."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MemoryStore:
    """The store contract over a :class:`MemoryState`.

    Several of them sharing one ``state`` are the members of one cluster. ``down`` makes every operation raise
    ``StoreError``; ``paused`` makes this member stop keeping its leaderships alive, as a frozen process would.
    """

    info: ClassVar[DriverInfo] = DriverInfo(
        "memory",
        "1.0.0",
        Capability.STORE,
        capabilities={"durable": False, "members": True, "restore": True},
        summary="keeps everything in memory, for tests",
    )
    Config: ClassVar[type[BaseModel]] = MemoryStoreConfig

    def __init__(
        self,
        config: MemoryStoreConfig | None = None,
        context: DriverContext | None = None,
        *,
        state: MemoryState | None = None,
        clock: Clock | None = None,
        quota_bytes: int | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self.state = state or MemoryState(self.clock.now, quota_bytes)
        self.name = context.node_name if context else "memory"
        self.members: dict[str, Member] = {}
        self.peer: PeerIdentity | None = None
        self.down = False
        self._paused = False
        self._reaper: asyncio.Task[None] | None = None

    # --- life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to end leases by themselves."""
        if self._reaper is None:
            self._reaper = asyncio.create_task(self._reap(), name="memory-store-leases")

    async def stop(self) -> None:
        """Stop ending leases; leaderships of this member end when their time is over."""
        if self._reaper is not None:
            self._reaper.cancel()
            await asyncio.gather(self._reaper, return_exceptions=True)
            self._reaper = None
        self.pause()

    async def status(self) -> DriverStatus:
        """Tell how the store is."""
        if self.down:
            return DriverStatus(Health.FAILED, "made unavailable by the test")
        return DriverStatus(Health.OK, facts={"revision": self.state.revision})

    def pause(self) -> None:
        """Stop keeping this member's leaderships alive: they end after their time, not at once."""
        self._paused = True
        for lease in self.state.leases.values():
            if lease.holder is self:
                lease.holder, lease.deadline = None, self.clock.now() + lease.ttl

    async def _reap(self) -> None:
        while True:
            self.state.expire()
            await self.clock.sleep(REAP_SECONDS)

    def _use(self) -> MemoryState:
        if self.down:
            raise StoreError("the store does not answer: the test made it unavailable")
        self.state.expire()
        return self.state

    # --- keys -------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        """Read one key."""
        _need_key(key)
        return self._use().entries.get(key)

    async def list(self, prefix: str, *, keys_only: bool = False) -> Page:
        """Read every key with the prefix."""
        state = self._use()
        found = state.select(prefix, prefix=True)
        if keys_only:
            found = tuple(replace(entry, value=b"") for entry in found)
        return Page(found, state.revision)

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write one key."""
        return self._use().transact((), (Put(key, value, lease),), ()).revision

    async def delete(self, key: str, *, prefix: bool = False) -> int:
        """Remove a key or a prefix."""
        state = self._use()
        found = len(state.select(key, prefix))
        state.transact((), (Delete(key, prefix),), ())
        return found

    async def transaction(
        self,
        compares: tuple[Compare, ...],
        then: tuple[Operation, ...],
        otherwise: tuple[Operation, ...] = (),
    ) -> TransactionResult:
        """Run one branch, atomically."""
        return self._use().transact(compares, then, otherwise)

    @property
    def max_operations(self) -> int:
        """How many operations a branch may have."""
        return MAX_OPERATIONS

    async def watch(
        self, prefix: str, *, from_revision: int, progress: bool = False
    ) -> AsyncGenerator[WatchBatch, None]:
        """Give every change from a revision on; goes on by itself after ``down`` ends."""
        if from_revision < 1:
            raise InvalidInput(f"a watch begins at revision 1 or later, not {from_revision}")
        cursor = from_revision
        told = self.clock.now()
        while True:
            changed = asyncio.ensure_future(self.state.changed())
            try:
                seen = cursor - 1 if self.down else self.state.revision
                found = [] if self.down else self.state.since(prefix, cursor)
                for revision, changes in found:
                    told = self.clock.now()
                    yield WatchBatch(revision, changes)
                cursor = max(cursor, seen + 1)
                if progress and not self.down and self.clock.now() - told >= PROGRESS_SECONDS:
                    told = self.clock.now()
                    cursor = max(cursor, self.state.revision + 1)
                    yield WatchBatch(self.state.revision)
                if not found:
                    await asyncio.wait({changed}, timeout=REAP_SECONDS if self.down or progress else None)
            finally:
                changed.cancel()

    async def compact(self, revision: int) -> None:
        """Forget history before ``revision``."""
        self._use().compact(revision)

    # --- leases -----------------------------------------------------------------------------------------

    async def lease(self, ttl: int) -> Lease:
        """Grant a lease."""
        held = self._use().grant(ttl)
        return Lease(held.id, held.ttl)

    async def keep_alive(self, lease: int) -> Lease:
        """Renew a lease once."""
        held = self._use().renew(lease)
        return Lease(held.id, held.ttl)

    async def revoke(self, lease: int) -> None:
        """End a lease and remove its keys."""
        self._use().end(lease)

    # --- election ---------------------------------------------------------------------------------------

    async def campaign(self, election: str, candidate: str, *, ttl: int) -> Leadership:
        """Wait until this candidate leads."""
        state = self._use()
        self._paused = False
        lease = state.grant(ttl, holder=self)
        key = f"{election}/{lease.id:016x}"
        created = state.transact((), (Put(key, candidate.encode(), lease.id),), ()).revision
        try:
            while True:
                state.expire()
                queue = sorted(state.select(f"{election}/", prefix=True), key=lambda entry: entry.created)
                if not any(entry.created == created for entry in queue):
                    raise Conflict(f"the candidacy of {candidate} for {election} was taken away")
                for entry in queue:  # a restarted candidate does not wait for its own former self
                    if entry.created < created and entry.value == candidate.encode():
                        state.end(entry.lease)
                        break
                else:
                    if queue[0].created == created:
                        return Leadership(election, key, created, candidate, lease.id)
                    await state.changed()
        except BaseException:
            state.end(lease.id)
            raise

    async def leadership_lost(self, leadership: Leadership) -> None:
        """Return when the leadership has ended."""
        while self._holds(leadership):
            await self.state.changed()

    def _holds(self, leadership: Leadership) -> bool:
        entry = self.state.entries.get(leadership.key)
        return entry is not None and entry.created == leadership.revision

    async def resign(self, leadership: Leadership) -> None:
        """Give the leadership up."""
        if self._holds(leadership):
            self.state.end(leadership.lease)

    async def leader(self, election: str) -> Leadership | None:
        """Tell who leads."""
        queue = self._use().select(f"{election}/", prefix=True)
        if not queue:
            return None
        first = min(queue, key=lambda entry: entry.created)
        return Leadership(election, first.key, first.created, first.value.decode(), first.lease)

    # --- the whole --------------------------------------------------------------------------------------

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        """Stream all keys as lines of JSON, but those of leases: they do not outlive this process."""
        state = self._use()
        yield json.dumps({"revision": state.revision}).encode() + b"\n"
        for entry in state.select("", prefix=True):
            if entry.lease:
                continue
            line = [entry.key, b64encode(entry.value).decode(), entry.revision, entry.created, entry.version]
            yield json.dumps(line).encode() + b"\n"

    async def restore(self, snapshot: AsyncIterator[bytes], name: str, peer_url: str) -> None:
        """Take a snapshot's content as the whole state."""
        lines = b"".join([part async for part in snapshot]).splitlines()
        try:
            revision = int(json.loads(lines[0])["revision"])
            entries = [Entry(key, b64decode(value), *numbers) for key, value, *numbers in map(json.loads, lines[1:])]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise InvalidInput(f"this is no snapshot of a memory store: {error}") from error
        state = self.state
        state.revision, state.kept_from, state.history = revision, revision + 1, []
        state.entries = {entry.key: entry for entry in entries}
        state.leases.clear()
        await self.bootstrap(name, peer_url)
        state.wake()

    async def store_status(self) -> StoreStatus:
        """Tell how the store is."""
        if self.down:
            return StoreStatus(0, 0, available=False)
        state, members = self.state, tuple(self.members.values())
        return StoreStatus(state.revision, state.size(), True, self.name, members, self.info.version)

    # --- members: kept as a list, since all of them share one state ---------------------------------------

    def configure_peers(self, peer: PeerIdentity) -> None:
        """Keep the identity where a test can look at it; members meet in memory."""
        self.peer = peer

    async def forget_members(self) -> None:
        """Forget the others."""
        self.members = {key: member for key, member in self.members.items() if member.name == self.name}

    async def bootstrap(self, name: str, peer_url: str) -> None:
        """Note the first member; there is nothing to prepare."""
        self.members = {name: Member(name, name, (peer_url,))}

    async def add_member(self, name: str, peer_url: str) -> Member:
        """Note a learner."""
        for known in self.members.values():
            if peer_url in known.peer_urls and known.learner:
                return known
        if any(member.learner for member in self.members.values()):
            raise Conflict("another member is still being added; promote or remove it first")
        member = Member(name, name, (peer_url,), learner=True)
        self.members[name] = member
        return member

    async def join(self, name: str, peer_url: str, members: tuple[Member, ...]) -> None:
        """Take over the list of members."""
        self.members = {member.id: member for member in members}

    async def promote_member(self, member_id: str) -> None:
        """Make a learner a voter."""
        if member_id not in self.members:
            raise NotFound(f"the store has no member {member_id}")
        self.members[member_id] = replace(self.members[member_id], learner=False)

    async def remove_member(self, member_id: str) -> None:
        """Take a member out of the list."""
        member = self.members.get(member_id)
        voters = [other for other in self.members.values() if not other.learner]
        if member is not None and not member.learner and len(voters) == 1:
            raise Conflict("the last member cannot be removed")
        self.members.pop(member_id, None)


def _need_key(key: str) -> None:
    if not key:
        raise InvalidInput("a key must not be empty")
