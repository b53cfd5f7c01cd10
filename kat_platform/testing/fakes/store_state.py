"""The data of the memory store: keys with revisions, their history, and leases. No waiting happens here."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from kat_platform.errors import Compacted, InvalidInput, NotFound, StoreFull, TooLarge
from kat_platform.interfaces.store import (
    Change,
    ChangeType,
    Compare,
    Delete,
    Entry,
    Field,
    Get,
    Op,
    Operation,
    Put,
    TransactionResult,
)

MAX_VALUE_BYTES = 1024 * 1024
MAX_OPERATIONS = 10_000


@dataclass(slots=True)
class HeldLease:
    """A lease with its end on the store's clock; ``holder`` is the driver that keeps it alive by itself."""

    id: int
    ttl: int
    deadline: float
    keys: set[str] = field(default_factory=set)
    holder: object | None = None


class MemoryState:
    """What several memory stores of one test cluster share: they are its members."""

    def __init__(self, now: Callable[[], float], quota_bytes: int | None = None) -> None:
        self.now = now
        self.quota_bytes = quota_bytes
        self.revision = 1
        self.kept_from = 1
        self.entries: dict[str, Entry] = {}
        self.history: list[tuple[int, tuple[Change, ...]]] = []
        self.leases: dict[int, HeldLease] = {}
        self._next_lease = 1000
        self._changed = asyncio.Event()

    # --- reading ----------------------------------------------------------------------------------------

    def size(self) -> int:
        """Tell how many bytes the current keys and values take."""
        return sum(len(key.encode()) + len(entry.value) for key, entry in self.entries.items())

    def select(self, key: str, prefix: bool) -> tuple[Entry, ...]:
        """Find a key, or all with the prefix, sorted by key."""
        if prefix:
            found = [entry for name, entry in self.entries.items() if name.startswith(key)]
            return tuple(sorted(found, key=lambda entry: entry.key.encode()))
        entry = self.entries.get(key)
        return () if entry is None else (entry,)

    def since(self, prefix: str, revision: int) -> list[tuple[int, tuple[Change, ...]]]:
        """Give the history of a prefix from a revision on; raises ``Compacted`` when that is not kept."""
        if revision < self.kept_from:
            raise Compacted(f"revision {revision} is compacted: {self.kept_from} is the oldest kept")
        if revision > self.revision + 1:
            raise Compacted(f"the store is at revision {self.revision}, before {revision}: it was restored")
        start = bisect_left(self.history, revision, key=lambda item: item[0])
        found = []
        for number, changes in self.history[start:]:
            matching = tuple(change for change in changes if change.entry.key.startswith(prefix))
            if matching:
                found.append((number, matching))
        return found

    def changed(self) -> Coroutine[Any, Any, object]:
        """Give what waits for the next write after this call, however much later it is awaited."""
        return self._changed.wait()

    def wake(self) -> None:
        """Wake everyone who waits for a write."""
        self._changed.set()
        self._changed = asyncio.Event()

    # --- writing ----------------------------------------------------------------------------------------

    def transact(
        self, compares: tuple[Compare, ...], then: tuple[Operation, ...], otherwise: tuple[Operation, ...]
    ) -> TransactionResult:
        """Run a transaction; nothing is changed when it raises."""
        for part in (compares, then, otherwise):
            if len(part) > MAX_OPERATIONS:
                raise TooLarge(f"{len(part)} operations in a transaction; at most {MAX_OPERATIONS}")
        for branch in (then, otherwise):
            self._check_branch(branch)
        succeeded = all(self._holds(compare) for compare in compares)
        reads, writes = self._plan(then if succeeded else otherwise)
        if writes:
            self._commit(writes)
        return TransactionResult(succeeded, self.revision, tuple(reads))

    def _check_branch(self, branch: tuple[Operation, ...]) -> None:
        puts: set[str] = set()
        for operation in branch:
            if not operation.key and not (isinstance(operation, Delete | Get) and operation.prefix):
                raise InvalidInput("a key must not be empty")
            if not isinstance(operation, Put):
                continue
            if len(operation.value) > MAX_VALUE_BYTES:
                raise TooLarge(f"the value of {operation.key} has {len(operation.value)} bytes; at most 1 MiB")
            if operation.key in puts:
                raise InvalidInput(f"{operation.key} is written twice in one transaction")
            puts.add(operation.key)
        for operation in branch:
            if isinstance(operation, Delete):
                hit = next((key for key in puts if _matches(operation, key)), None)
                if hit is not None:
                    raise InvalidInput(f"{hit} is written and removed in one transaction")

    def _holds(self, compare: Compare) -> bool:
        entry = self.entries.get(compare.key)
        if compare.field is Field.VALUE:
            # a key that does not exist has no value: no comparison of it holds
            return (
                entry is not None
                and isinstance(compare.operand, bytes)
                and _compare(compare.op, (entry.value > compare.operand) - (entry.value < compare.operand))
            )
        if not isinstance(compare.operand, int):
            raise InvalidInput(f"{compare.field} of {compare.key} is compared with something that is no number")
        actual = 0 if entry is None else int(getattr(entry, compare.field.value))
        return _compare(compare.op, actual - compare.operand)

    def _plan(self, branch: Iterable[Operation]) -> tuple[list[tuple[Entry, ...]], dict[str, Entry | None]]:
        """Work out reads and writes without touching anything. ``None`` stands for a removal."""
        reads: list[tuple[Entry, ...]] = []
        writes: dict[str, Entry | None] = {}
        revision, added = self.revision + 1, 0
        for operation in branch:
            if isinstance(operation, Get):
                reads.append(self._read_through(operation, writes))
            elif isinstance(operation, Delete):
                for entry in self.select(operation.key, operation.prefix):
                    writes[entry.key] = None
            else:
                if operation.lease and operation.lease not in self.leases:
                    raise NotFound(f"lease {operation.lease} does not exist (any more)")
                old = self.entries.get(operation.key)
                created, version = (revision, 1) if old is None else (old.created, old.version + 1)
                added += len(operation.key.encode()) + len(operation.value)
                writes[operation.key] = Entry(
                    operation.key, operation.value, revision, created, version, operation.lease
                )
        if added and self.quota_bytes is not None and self.size() + added > self.quota_bytes:
            raise StoreFull(f"the store may hold {self.quota_bytes} bytes and is full")
        return reads, writes

    def _read_through(self, get: Get, writes: dict[str, Entry | None]) -> tuple[Entry, ...]:
        found: dict[str, Entry | None] = {entry.key: entry for entry in self.select(get.key, get.prefix)}
        found.update((key, entry) for key, entry in writes.items() if _matches(get, key))
        return tuple(entry for _, entry in sorted(found.items(), key=lambda item: item[0].encode()) if entry)

    def _commit(self, writes: dict[str, Entry | None]) -> None:
        self.revision += 1
        changes = []
        for key, entry in sorted(writes.items(), key=lambda item: item[0].encode()):
            old = self.entries.pop(key, None)
            if old is not None and old.lease in self.leases:
                self.leases[old.lease].keys.discard(key)
            if entry is None:
                changes.append(Change(ChangeType.DELETE, Entry(key, b"", self.revision, 0, 0), old))
                continue
            self.entries[key] = entry
            if entry.lease:
                self.leases[entry.lease].keys.add(key)
            changes.append(Change(ChangeType.PUT, entry, old))
        self.history.append((self.revision, tuple(changes)))
        self.wake()

    def compact(self, revision: int) -> None:
        """Forget history before ``revision``."""
        if revision > self.revision:
            raise InvalidInput(f"revision {revision} lies in the future: the store is at {self.revision}")
        if revision > self.kept_from:
            self.kept_from = revision
            del self.history[: bisect_left(self.history, revision, key=lambda item: item[0])]
            self.wake()

    # --- leases -----------------------------------------------------------------------------------------

    def grant(self, ttl: int, holder: object | None = None) -> HeldLease:
        """Make a lease; with a ``holder`` it does not end while that driver runs."""
        if ttl < 1:
            raise InvalidInput(f"a lease lasts at least 1 s, not {ttl}")
        self._next_lease += 1
        lease = HeldLease(self._next_lease, ttl, self.now() + ttl, holder=holder)
        self.leases[lease.id] = lease
        return lease

    def renew(self, lease_id: int) -> HeldLease:
        """Put a lease's end off by its whole time."""
        lease = self.leases.get(lease_id)
        if lease is None:
            raise NotFound(f"lease {lease_id} does not exist (any more)")
        lease.deadline = self.now() + lease.ttl
        return lease

    def end(self, lease_id: int) -> None:
        """End a lease and remove its keys, as one revision."""
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            return
        writes: dict[str, Entry | None] = {key: None for key in lease.keys if key in self.entries}
        if writes:
            self._commit(writes)
        else:
            self.wake()

    def expire(self) -> None:
        """End every lease whose time has come."""
        now = self.now()
        for lease in [lease for lease in self.leases.values() if lease.holder is None and lease.deadline <= now]:
            self.end(lease.id)


def _matches(operation: Delete | Get, key: str) -> bool:
    return key.startswith(operation.key) if operation.prefix else key == operation.key


def _compare(op: Op, difference: int) -> bool:
    match op:
        case Op.EQUAL:
            return difference == 0
        case Op.NOT_EQUAL:
            return difference != 0
        case Op.GREATER:
            return difference > 0
        case Op.LESS:
            return difference < 0
