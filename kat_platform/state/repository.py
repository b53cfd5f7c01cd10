"""Repository: typed reads of single objects straight from the store, and writes that lose against nobody unseen.

For the API's mutations: what they change they read here (linearizable), not from the cache (a moment behind), and
write with a comparison on what they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kat_platform.errors import Conflict, InternalError, NotFound
from kat_platform.interfaces.store import Compare, Operation, Put, Store, TransactionResult
from kat_platform.model.base import Model
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.namespace import Namespace
from kat_platform.model.node import NodeRecord
from kat_platform.model.revision import Revision, WorkloadRecord
from kat_platform.state import keys

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class Found(Generic[M]):
    """An object as read: ``revision`` is the one to compare with when it is written back."""

    key: str
    value: M
    revision: int

    def unchanged(self) -> Compare:
        """Give the comparison that holds as long as nobody wrote it since."""
        return Compare.unchanged(self.key, self.revision)


class Repository:
    """Typed access to the store for the API."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def read(self, key: str, kind: type[M]) -> Found[M] | None:
        """Read one object; ``None`` when it does not exist."""
        entry = await self.store.get(key)
        if entry is None:
            return None
        try:
            return Found(key, kind.from_json(entry.value), entry.revision)
        except ValueError as error:
            raise InternalError(f"what the store has at {key} is no readable {kind.__name__}", key=key) from error

    async def workload(self, ns: str, name: str) -> Found[WorkloadRecord] | None:
        """Read a workload's record."""
        return await self.read(keys.workload(ns, name), WorkloadRecord)

    async def need_workload(self, ns: str, name: str) -> Found[WorkloadRecord]:
        """Read a workload's record; raises ``NotFound``."""
        found = await self.workload(ns, name)
        if found is None:
            raise NotFound(f"there is no workload '{name}' in namespace '{ns}'", namespace=ns, name=name)
        return found

    async def revision(self, ns: str, name: str, number: int) -> Found[Revision] | None:
        """Read one revision of a workload."""
        return await self.read(keys.revision(ns, name, number), Revision)

    async def need_revision(self, ns: str, name: str, number: int) -> Found[Revision]:
        """Read one revision; raises ``NotFound``."""
        found = await self.revision(ns, name, number)
        if found is None:
            raise NotFound(
                f"workload '{ns}/{name}' has no revision {number}",
                hint=f"katcall rollout history {name} -n {ns} lists those that are kept",
            )
        return found

    async def revision_numbers(self, ns: str, name: str) -> tuple[int, ...]:
        """Give the numbers of the revisions that are kept, ascending."""
        prefix = keys.revisions_of(ns, name)
        page = await self.store.list(prefix, keys_only=True)
        return tuple(sorted(int(keys.split(entry.key, prefix)[0]) for entry in page.entries))

    async def namespace(self, name: str) -> Found[Namespace] | None:
        """Read a namespace."""
        return await self.read(keys.namespace(name), Namespace)

    async def node(self, name: str) -> Found[NodeRecord] | None:
        """Read a node's record."""
        return await self.read(keys.node(name), NodeRecord)

    async def configuration(self) -> Found[ClusterConfiguration] | None:
        """Read the cluster's configuration."""
        return await self.read(keys.CLUSTER, ClusterConfiguration)

    async def try_commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TransactionResult:
        """Run one transaction; tells by ``succeeded`` whether it happened."""
        return await self.store.transaction(tuple(compares), tuple(operations))

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation], what: str) -> int:
        """Run one transaction and give its revision; raises ``Conflict`` when somebody wrote in between."""
        result = await self.try_commit(compares, operations)
        if not result.succeeded:
            raise Conflict(f"{what} was changed by somebody else at the same moment", hint="look at it and try again")
        return result.revision

    async def replace(self, found: Found[M], value: M, *more: Operation) -> int:
        """Write an object back if it is as it was read; gives the revision, raises ``Conflict`` otherwise."""
        return await self.commit([found.unchanged()], [Put(found.key, value.to_json()), *more], found.key)
