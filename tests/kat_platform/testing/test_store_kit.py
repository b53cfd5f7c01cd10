"""The store's kit passes a good store and fails every store that breaks one rule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from kat_platform.interfaces.store import (
    Compare,
    Delete,
    Entry,
    Field,
    Leadership,
    Lease,
    Operation,
    Page,
    Put,
    Store,
    TransactionResult,
    WatchBatch,
)
from kat_platform.testing.conformance.kit import Check
from kat_platform.testing.conformance.store import KIT, subject
from kat_platform.testing.fakes.store import MemoryStore

from .leaping import LoopClock, leap


@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
def test_the_memory_store_keeps_the_contract(check: Check[Store]) -> None:
    outcome = leap(KIT.run_one(check, subject(lambda context: MemoryStore(None, context, clock=LoopClock()))))
    assert outcome.passed, f"{outcome.rule}: {outcome.failure}"


class LosesAnEvent(MemoryStore):
    async def watch(self, prefix: str, **more: Any) -> AsyncGenerator[WatchBatch, None]:
        seen = 0
        async for batch in super().watch(prefix, **more):
            seen += 1
            if seen != 7:
                yield batch


class RepeatsAnEvent(MemoryStore):
    async def watch(self, prefix: str, **more: Any) -> AsyncGenerator[WatchBatch, None]:
        seen = 0
        async for batch in super().watch(prefix, **more):
            seen += 1
            yield batch
            if seen == 7:
                yield batch


class SplitsARevision(MemoryStore):
    async def watch(self, prefix: str, **more: Any) -> AsyncGenerator[WatchBatch, None]:
        async for batch in super().watch(prefix, **more):
            for change in batch.changes:
                yield WatchBatch(batch.revision, (change,))


class WatchesFromNowOnly(MemoryStore):
    async def watch(
        self, prefix: str, *, from_revision: int, progress: bool = False
    ) -> AsyncGenerator[WatchBatch, None]:
        async for batch in super().watch(prefix, from_revision=self.state.revision + 1, progress=progress):
            yield batch


class IgnoresCompaction(MemoryStore):
    async def watch(
        self, prefix: str, *, from_revision: int, progress: bool = False
    ) -> AsyncGenerator[WatchBatch, None]:
        begin = min(max(from_revision, self.state.kept_from), self.state.revision + 1)
        async for batch in super().watch(prefix, from_revision=begin, progress=progress):
            yield batch


class ForgetsOneTooMany(MemoryStore):
    async def compact(self, revision: int) -> None:
        await super().compact(min(revision + 1, self.state.revision))


class IsNotAtomic(MemoryStore):
    async def transaction(
        self, compares: tuple[Compare, ...], then: tuple[Operation, ...], otherwise: tuple[Operation, ...] = ()
    ) -> TransactionResult:
        probe = await super().transaction(compares, ())
        await asyncio.sleep(0)  # others write between looking and doing
        branch = then if probe.succeeded else otherwise
        reads: list[tuple[Entry, ...]] = []
        result = probe
        for operation in branch:
            result = await super().transaction((), (operation,))
            reads += result.reads
        return TransactionResult(probe.succeeded, result.revision, tuple(reads))


class IgnoresFences(MemoryStore):
    async def transaction(
        self, compares: tuple[Compare, ...], then: tuple[Operation, ...], otherwise: tuple[Operation, ...] = ()
    ) -> TransactionResult:
        kept = tuple(c for c in compares if not (c.field is Field.CREATED and c.operand))
        return await super().transaction(kept, then, otherwise)


class LeasesNeverEnd(MemoryStore):
    async def lease(self, ttl: int) -> Lease:
        return replace(await super().lease(ttl * 1000), ttl=ttl)


class LeasesEndEarly(MemoryStore):
    async def lease(self, ttl: int) -> Lease:
        made = await super().lease(ttl)
        self.state.leases[made.id].deadline = self.clock.now() + ttl * 0.3
        return made


class RenewalDoesNothing(MemoryStore):
    async def keep_alive(self, lease: int) -> Lease:
        deadline = self.state.leases[lease].deadline if lease in self.state.leases else 0.0
        renewed = await super().keep_alive(lease)
        self.state.leases[lease].deadline = deadline
        return renewed


class RenewalWrites(MemoryStore):
    async def keep_alive(self, lease: int) -> Lease:
        renewed = await super().keep_alive(lease)
        await self.put("/kat/v1/heartbeat", b"")
        return renewed


class ListsInPages(MemoryStore):
    """Reads half of a long list, lets others write, and reads the rest as of then."""

    async def list(self, prefix: str, *, keys_only: bool = False) -> Page:
        first = await super().list(prefix, keys_only=keys_only)
        if len(first.entries) < 100:
            return first
        await asyncio.sleep(0.002)
        rest = await super().list(prefix, keys_only=keys_only)
        half = len(first.entries) // 2
        return Page(first.entries[:half] + rest.entries[half:], rest.revision)


class ListsUnsorted(MemoryStore):
    async def list(self, prefix: str, *, keys_only: bool = False) -> Page:
        page = await super().list(prefix, keys_only=keys_only)
        return Page(tuple(sorted(page.entries, key=lambda entry: entry.key.lower())), page.revision)


class ListsStale(MemoryStore):
    async def list(self, prefix: str, *, keys_only: bool = False) -> Page:
        page = await super().list(prefix, keys_only=keys_only)
        stale, self.last = getattr(self, "last", page), page
        return stale


class DeletesByPrefix(MemoryStore):
    async def delete(self, key: str, *, prefix: bool = False) -> int:
        return await super().delete(key, prefix=True)


class DeleteAlwaysWrites(MemoryStore):
    async def delete(self, key: str, *, prefix: bool = False) -> int:
        await super().put("/kat/v1/deleted", b"")
        return await super().delete(key, prefix=prefix)


class TwoLeaders(MemoryStore):
    async def campaign(self, election: str, candidate: str, *, ttl: int) -> Leadership:
        state = self.state
        lease = state.grant(ttl, holder=self)
        key = f"{election}/{lease.id:016x}"
        created = state.transact((), (Put(key, candidate.encode(), lease.id),), ()).revision
        return Leadership(election, key, created, candidate, lease.id)


class LossIsNeverTold(MemoryStore):
    async def leadership_lost(self, leadership: Leadership) -> None:
        await asyncio.Event().wait()


class LossIsToldAtOnce(MemoryStore):
    async def leadership_lost(self, leadership: Leadership) -> None:
        return


class LeadershipIsNotKept(MemoryStore):
    async def campaign(self, election: str, candidate: str, *, ttl: int) -> Leadership:
        won = await super().campaign(election, candidate, ttl=ttl)
        self.pause()
        return won


class CancelLeavesTheCandidate(MemoryStore):
    async def campaign(self, election: str, candidate: str, *, ttl: int) -> Leadership:
        campaign = asyncio.ensure_future(super().campaign(election, candidate, ttl=ttl))
        return await asyncio.shield(campaign)


class RevokeLeavesKeys(MemoryStore):
    async def revoke(self, lease: int) -> None:
        held = self.state.leases.get(lease)
        if held is not None:
            held.keys.clear()
        await super().revoke(lease)


class KeepsVersions(MemoryStore):
    """Counts a key made anew as the continuation of the one that was removed."""

    async def get(self, key: str) -> Entry | None:
        entry = await super().get(key)
        return None if entry is None else replace(entry, version=entry.version + 1)


class RefusesNothing(MemoryStore):
    async def transaction(
        self, compares: tuple[Compare, ...], then: tuple[Operation, ...], otherwise: tuple[Operation, ...] = ()
    ) -> TransactionResult:
        return await super().transaction(compares, tuple({op.key: op for op in then}.values())[:9000], otherwise)


class TellsOtherPrefixes(MemoryStore):
    async def watch(self, prefix: str, **more: Any) -> AsyncGenerator[WatchBatch, None]:
        async for batch in super().watch(prefix.rstrip("/"), **more):
            yield batch


class TellsRemovalsWithValues(MemoryStore):
    async def watch(self, prefix: str, **more: Any) -> AsyncGenerator[WatchBatch, None]:
        async for batch in super().watch(prefix, **more):
            changes = tuple(
                replace(change, entry=replace(change.entry, value=change.previous.value))
                if change.previous and not change.entry.version
                else change
                for change in batch.changes
            )
            yield WatchBatch(batch.revision, changes)


class RemovesAndWrites(MemoryStore):
    async def delete(self, key: str, *, prefix: bool = False) -> int:
        entries = self.state.select(key, prefix)
        for entry in entries:
            await super().transaction((), (Delete(entry.key),))
        return len(entries)


BROKEN: list[tuple[type[MemoryStore], str]] = [
    (LosesAnEvent, "exactly_once"),
    (RepeatsAnEvent, "exactly_once"),
    (SplitsARevision, "revisions_stay_whole"),
    (WatchesFromNowOnly, "resumes_from_the_past"),
    (IgnoresCompaction, "compacts"),
    (IgnoresCompaction, "refuses_the_future"),
    (ForgetsOneTooMany, "compacts"),
    (ForgetsOneTooMany, "keeps_removals"),
    (IsNotAtomic, "is_atomic"),
    (IsNotAtomic, "refused_changes_nothing"),
    (IsNotAtomic, "compare_and_set"),
    (IgnoresFences, "hands_over"),
    (IgnoresFences, "fence_guards_every_write"),
    (LeasesNeverEnd, "expires"),
    (LeasesEndEarly, "expires"),
    (RenewalDoesNothing, "is_kept_alive"),
    (RenewalWrites, "is_kept_alive"),
    (ListsInPages, "list_at_one_revision"),
    (ListsUnsorted, "list_is_sorted"),
    (ListsStale, "reads_own_writes"),
    (DeletesByPrefix, "delete_is_exact"),
    (DeleteAlwaysWrites, "delete_counts"),
    (TwoLeaders, "hands_over"),
    (LossIsNeverTold, "tells_the_loss"),
    (LossIsToldAtOnce, "tells_the_loss"),
    (LeadershipIsNotKept, "is_kept"),
    (CancelLeavesTheCandidate, "cancel_withdraws"),
    (RevokeLeavesKeys, "revokes"),
    (KeepsVersions, "revisions_rise"),
    (RefusesNothing, "has_a_limit"),
    (RefusesNothing, "refuses_double_writes"),
    (TellsOtherPrefixes, "keeps_to_its_prefix"),
    (TellsRemovalsWithValues, "tells_removals"),
    (RemovesAndWrites, "tells_removals"),
]


@pytest.mark.parametrize(("broken", "name"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_store_fails(broken: type[MemoryStore], name: str) -> None:
    check = next(check for check in KIT.checks if check.name == name)
    outcome = leap(KIT.run_one(check, subject(lambda context: broken(None, context, clock=LoopClock()))))
    assert not outcome.passed, f"{broken.__name__} passed the check of: {check.rule}"
    assert not outcome.failure.startswith(("TypeError", "AttributeError", "NameError")), outcome.failure
