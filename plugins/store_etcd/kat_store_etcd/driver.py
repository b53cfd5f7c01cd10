"""The store driver ``etcd``: the contract, handed on to the parts that keep it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import ClassVar

import structlog

from kat_platform.errors import Conflict, InvalidInput, KatError
from kat_platform.interfaces.driver import Capability, CheckResult, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.interfaces.store import (
    Compare,
    Entry,
    Leadership,
    Lease,
    Member,
    Operation,
    Page,
    PeerIdentity,
    StoreStatus,
    TransactionResult,
    WatchBatch,
)
from kat_store_etcd import __version__, host, leases, membership, reads, restore, translate
from kat_store_etcd.client import EtcdClient
from kat_store_etcd.compaction import compact
from kat_store_etcd.config import EtcdConfig
from kat_store_etcd.election import Elections
from kat_store_etcd.flags import MAX_OPERATIONS, Identity
from kat_store_etcd.folder import MemberFolder
from kat_store_etcd.member import Member as MemberProcess
from kat_store_etcd.process import end_left_over
from kat_store_etcd.space import Caretaker
from kat_store_etcd.watch import watch

log = structlog.get_logger(__name__)

_READY_PAUSE = 0.05
_RESIGN_SECONDS = 3.0


class EtcdStore:
    """etcd as a child of the agent, on a Unix socket; or, with ``endpoints``, an etcd run by somebody else."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="etcd",
        version=__version__,
        capability=Capability.STORE,
        capabilities={
            "durable": True,
            "members": True,
            "learners": True,
            "alone": True,
            "trust": True,
            "restore": True,
            "external": True,
        },
        summary="etcd 3.4 or newer, run by the agent itself or elsewhere",
    )
    Config: ClassVar[type[EtcdConfig]] = EtcdConfig

    def __init__(self, config: EtcdConfig, context: DriverContext) -> None:
        self._config = config
        self._folder = MemberFolder(context.data_dir.absolute())
        self._member = MemberProcess(config, self._folder)
        self._client = EtcdClient(config, None if config.external else self._folder.socket)
        self._elections = Elections(self._client)
        self._caretaker = Caretaker(self._client, config.quota_mib * 1024 * 1024, self._member.answered)
        if not config.external:
            self._client.explain = self._member.explain

    # --- life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start etcd and wait until it answers, or at most ``startTimeoutSeconds`` while it runs without a quorum."""
        if not self._config.external:
            await self._member.start()
        try:
            await self._client.connect()
            await self._until_ready()
        except BaseException:
            await self._client.close()
            await self._member.stop()
            raise
        self._caretaker.start()

    async def _until_ready(self) -> None:
        give_up = time.monotonic() + self._config.start_timeout_seconds
        while True:
            if not self._config.external:
                self._member.ensure_alive()
            try:
                async with asyncio.timeout(1.0):
                    return await self._caretaker.look()
            except (KatError, TimeoutError) as error:
                if time.monotonic() > give_up:
                    if self._config.external:
                        raise
                    # members that all start at once wait for each other: the agent goes on, and the store comes later
                    log.warning("etcd-slow-start", error=str(error), seconds=self._config.start_timeout_seconds)
                    return
            await asyncio.sleep(_READY_PAUSE)

    async def stop(self) -> None:
        """Resign, close the connection, end the child."""
        try:
            async with asyncio.timeout(_RESIGN_SECONDS):
                await self._elections.close()
        except TimeoutError:
            log.warning("etcd-resign-timeout")  # the leases end by themselves
        await self._caretaker.stop()
        await self._client.close()
        await self._member.stop()

    async def status(self) -> DriverStatus:
        """Tell how etcd is, from what is known here."""
        status = DriverStatus(Health.OK) if self._config.external else self._member.status()
        if status.health is Health.OK and self._caretaker.trouble:
            return DriverStatus(Health.DEGRADED, self._caretaker.trouble, status.facts)
        return status

    @classmethod
    async def check_host(cls, config: EtcdConfig) -> tuple[CheckResult, ...]:
        """Look whether this host can run etcd."""
        return await host.check_host(config)

    async def reset(self) -> None:
        """End etcd, also one left over, and remove its data."""
        await self.stop()
        if not self._config.external:
            await end_left_over(self._folder.data, self._config.binary)
        self._folder.clear()

    # --- keys -------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        """Read one key, linearizably."""
        request = translate.range_request(key, False)
        response = await self._client.read(f"get {key}", "kvstub", "Range", request)
        return translate.entry(response.kvs[0]) if response.kvs else None

    async def list(self, prefix: str, *, keys_only: bool = False) -> Page:
        """Read every key with the prefix, as of one revision."""
        return await reads.list_prefix(self._client, prefix, keys_only)

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write one key."""
        request = translate.put_request(key, value, lease)
        return int((await self._client.write(f"put {key}", "kvstub", "Put", request)).header.revision)

    async def delete(self, key: str, *, prefix: bool = False) -> int:
        """Remove a key or a prefix."""
        request = translate.delete_request(key, prefix)
        return int((await self._client.write(f"delete {key}", "kvstub", "DeleteRange", request)).deleted)

    async def transaction(
        self,
        compares: tuple[Compare, ...],
        then: tuple[Operation, ...],
        otherwise: tuple[Operation, ...] = (),
    ) -> TransactionResult:
        """Run one branch, atomically."""
        request = translate.txn_request(compares, then, otherwise)
        response = await self._client.write("transaction", "kvstub", "Txn", request)
        return translate.txn_result(response, then if response.succeeded else otherwise)

    @property
    def max_operations(self) -> int:
        """How many operations a branch may have; etcd is started with this limit."""
        return MAX_OPERATIONS

    def watch(self, prefix: str, *, from_revision: int, progress: bool = False) -> AsyncGenerator[WatchBatch, None]:
        """Give every change from a revision on, through restarts of etcd."""
        return watch(self._client, prefix, from_revision, progress)

    async def compact(self, revision: int) -> None:
        """Forget history before ``revision``."""
        await compact(self._client, revision)

    # --- leases and elections ---------------------------------------------------------------------------

    async def lease(self, ttl: int) -> Lease:
        """Grant a lease."""
        return await leases.grant(self._client, ttl)

    async def keep_alive(self, lease: int) -> Lease:
        """Renew a lease once."""
        config = self._config
        return await leases.renew(self._client, lease, config.request_timeout_seconds, config.retry_seconds)

    async def revoke(self, lease: int) -> None:
        """End a lease and remove its keys."""
        await leases.revoke(self._client, lease)

    async def campaign(self, election: str, candidate: str, *, ttl: int) -> Leadership:
        """Wait until this candidate leads."""
        return await self._elections.campaign(election, candidate, ttl)

    async def leadership_lost(self, leadership: Leadership) -> None:
        """Return when the leadership has ended."""
        await self._elections.lost(leadership)

    async def resign(self, leadership: Leadership) -> None:
        """Give the leadership up."""
        await self._elections.resign(leadership)

    async def leader(self, election: str) -> Leadership | None:
        """Tell who leads."""
        return await self._elections.leader(election)

    # --- the whole, and its members ---------------------------------------------------------------------

    def snapshot(self) -> AsyncGenerator[bytes, None]:
        """Stream a consistent copy of the whole state."""
        return restore.snapshot(self._client)

    async def store_status(self) -> StoreStatus:
        """Tell how the store is."""
        return await membership.store_status(self._client)

    async def restore(self, snapshot: AsyncIterator[bytes], name: str, peer_url: str) -> None:
        """Make this node the only member of a new cluster with the snapshot's content."""
        self._ensure_own("restored")
        await restore.restore(self._folder, snapshot, name, peer_url)

    async def forget_members(self) -> None:
        """Make this node the only member, keeping its data."""
        self._ensure_own("made to forget its members")
        await self._member.start(alone=True)
        try:
            await self._client.connect()
            await self._until_ready()
            await membership.be_alone(self._client)
        finally:
            await self._client.close()
            await self._member.stop()
        self._folder.adopt(dataclasses.replace(self._folder.identity(), alone=True))

    def configure_peers(self, peer: PeerIdentity) -> None:
        """Take the address and certificate that the next start is made with."""
        self._member.peer = peer

    async def bootstrap(self, name: str, peer_url: str) -> None:
        """Make this node the first member of a new cluster; an etcd run elsewhere needs no preparing."""
        if not self._config.external:
            self._folder.ensure_empty()
            self._folder.adopt(restore.new_cluster(name, peer_url))

    async def add_member(self, name: str, peer_url: str) -> Member:
        """Announce a member as a learner; it brings its name when it starts."""
        self._ensure_own("given members")
        self._folder.adopt(dataclasses.replace(self._folder.identity(), alone=False))
        return await membership.add(self._client, peer_url)

    async def join(self, name: str, peer_url: str, members: tuple[Member, ...]) -> None:
        """Prepare this node to start as one of those members, to which it was announced."""
        self._ensure_own("joined")
        if not any(peer_url in member.peer_urls for member in members):
            raise InvalidInput(f"{peer_url} is not among the members: it has to be announced with add_member first")
        self._folder.ensure_empty()
        cluster = ",".join(
            f"{name if url == peer_url else member.name or member.id}={url}"
            for member in members
            for url in member.peer_urls
        )
        self._folder.adopt(Identity(name, peer_url, cluster, "existing"))

    async def renew_trust(self) -> None:
        """Start etcd anew, which reads the file of trusted CAs at its start only, and wait until it answers."""
        if self._config.external or self._config.peer_cert_file:
            return  # the CAs of its members are somebody else's
        await self._member.restart()
        await membership.available(self._client)
        self._member.answered()

    async def promote_member(self, member_id: str) -> None:
        """Make a caught-up learner a voter."""
        self._ensure_own("given members")
        await membership.promote(self._client, member_id)

    async def remove_member(self, member_id: str) -> None:
        """Take a member out."""
        self._ensure_own("deprived of members")
        await membership.remove(self._client, member_id)

    def _ensure_own(self, what: str) -> None:
        if self._config.external:
            raise Conflict(f"an etcd that is run elsewhere cannot be {what} from here", hint="use its own tools")
