"""Leases: granted, renewed one request at a time, and watched over by a local deadline."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

import structlog
from aetcd import rpc
from grpc.aio import EOF, AioRpcError

from kat_platform.errors import InvalidInput, KatError, NotFound, StoreError, TimedOut
from kat_platform.interfaces.store import Lease
from kat_store_etcd.client import EtcdClient
from kat_store_etcd.faults import translate

log = structlog.get_logger(__name__)

DROP_SECONDS = 1.0
"""How long the end of a lease is asked for: one that etcd cannot end now, for want of a quorum, ends by itself."""


def now() -> float:
    """Tell the time leases are held against: it goes on while the machine sleeps, as etcd's elsewhere does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def grant(client: EtcdClient, ttl: int, timeout: float | None = None) -> Lease:
    """Grant a lease; etcd makes it at least one and a half election timeouts long."""
    if ttl < 1:
        raise InvalidInput(f"a lease lasts at least 1 s, not {ttl}")
    response = await client.write(
        "grant a lease", "leasestub", "LeaseGrant", rpc.LeaseGrantRequest(TTL=ttl, ID=0), timeout
    )
    return Lease(response.ID, response.TTL)


async def keep_alive(client: EtcdClient, lease: int, timeout: float) -> Lease:
    """Renew a lease once; raises ``NotFound`` when it has ended. Only tells etcd's memory, not its disk."""
    stream = _open(client, lease)
    try:
        return await _exchange(client, stream, lease, timeout)
    finally:
        stream.call.cancel()


class _Stream(NamedTuple):
    call: Any
    channel: Any


def _open(client: EtcdClient, lease: int) -> _Stream:
    if client.closed:
        raise StoreError(f"{_what(lease)}: the store is not running here")
    return _Stream(client.leasestub.LeaseKeepAlive(), client.channel)


def _what(lease: int) -> str:
    return f"renew lease {lease:x}"


async def _exchange(client: EtcdClient, stream: _Stream, lease: int, timeout: float) -> Lease:
    """Send one renewal and take its answer. After any failure the stream is good for nothing."""
    what = _what(lease)
    response: Any = EOF
    try:
        with client.told_when_closed(what):
            async with asyncio.timeout(timeout):
                await stream.call.write(rpc.LeaseKeepAliveRequest(ID=lease))
                response = await stream.call.read()
    except TimeoutError:
        client.turn(stream.channel)
        raise client.explain(False, TimedOut(f"{what}: etcd did not answer within {timeout:.1f} s")) from None
    except AioRpcError as error:
        client.turn(stream.channel)
        raise client.explain(False, translate(error, what)) from error
    except asyncio.InvalidStateError:
        pass  # the stream broke before the request was on it
    if response is EOF:
        raise StoreError(f"{what}: etcd broke the connection off")
    if not response.TTL:
        raise NotFound(f"{what}: it has ended", hint="grant a new one and write its keys again")
    return Lease(response.ID, response.TTL)


class RenewalStream:
    """Renews one lease again and again over one stream: to open a stream for each renewal costs several times as much.

    For one renewal at a time. Whatever goes wrong ends the stream, and the next renewal opens another one.
    """

    def __init__(self, client: EtcdClient, lease: int) -> None:
        self._client, self._lease = client, lease
        self._kept: _Stream | None = None

    async def renew(self, timeout: float) -> Lease:
        """Renew once, as :func:`keep_alive` does."""
        until = time.monotonic() + timeout
        if self._kept is not None and self._kept.channel is self._client.channel:
            try:
                return await self._through(self._kept, timeout)
            except (NotFound, TimedOut):
                raise
            except KatError:
                pass  # etcd has been started anew since the last time, say: a fresh stream tells
        self.close()
        return await self._through(_open(self._client, self._lease), max(0.0, until - time.monotonic()))

    async def _through(self, stream: _Stream, timeout: float) -> Lease:
        self._kept = stream
        try:
            return await _exchange(self._client, stream, self._lease, timeout)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the stream. Safe to repeat."""
        if self._kept is not None:
            self._kept.call.cancel()
            self._kept = None


async def renew(client: EtcdClient, lease: int, timeout: float, patience: float) -> Lease:
    """Renew a lease once, trying again for ``patience`` seconds while etcd restarts."""
    give_up = time.monotonic() + patience
    while True:
        try:
            return await keep_alive(client, lease, timeout)
        except StoreError:
            if client.closed or time.monotonic() > give_up:
                raise
        await asyncio.sleep(0.1)


async def revoke(client: EtcdClient, lease: int) -> None:
    """End a lease and its keys. Safe to repeat, so it is tried again while etcd restarts."""
    try:
        await client.read(f"revoke lease {lease:x}", "leasestub", "LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
    except NotFound:
        return


class KeptLease:
    """A lease that is renewed until it is dropped, and that knows locally when it can no longer be counted on.

    The local deadline is the time at which the last successful renewal was *sent*, plus the lease's length, minus a
    margin: it always comes before etcd's own, which counts from the time the renewal *arrived*. So ``lost`` is set
    before anybody else can win what this lease holds.

    That counts only once it holds something (:meth:`hold`). Until then a renewal that comes late does no harm: while
    etcd elects a leader of its own nobody's renewals arrive, and it ends no lease either.
    """

    def __init__(self, client: EtcdClient, lease: Lease, granted_at: float) -> None:
        self.id = lease.id
        self.lost = asyncio.Event()
        self._client = client
        self._ttl = lease.ttl
        self._deadline = granted_at + lease.ttl - self.margin
        self._dropped = self._holding = False
        self._task = asyncio.create_task(self._keep(), name=f"lease {lease.id:x}")

    @property
    def margin(self) -> float:
        """Seconds by which the lease counts as lost before etcd ends it: for clocks that run apart."""
        return min(1.0, self._ttl * 0.1)

    @property
    def held(self) -> bool:
        """Whether the lease can still be counted on."""
        return not self.lost.is_set() and now() < self._deadline

    async def hold(self) -> bool:
        """Renew, and from now on count as lost at the deadline. False when it has ended; raises what etcd raises."""
        sent = now()
        try:
            await keep_alive(self._client, self.id, timeout=self._ttl / 3)
        except NotFound:
            self.lost.set()
            return False
        self._deadline = sent + self._ttl - self.margin
        self._holding = True
        return self.held

    async def drop(self) -> None:
        """Stop renewing, count as lost, and end the lease in etcd if it answers. Safe to repeat."""
        self.lost.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._dropped:
            return
        self._dropped = True
        try:
            async with asyncio.timeout(DROP_SECONDS):
                await revoke(self._client, self.id)
        except (KatError, TimeoutError) as error:
            log.warning("lease-left-to-expire", lease=f"{self.id:x}", seconds=self._ttl, error=str(error))

    async def _keep(self) -> None:
        pause = self._ttl / 3
        stream = RenewalStream(self._client, self.id)
        try:
            while True:
                until = self._deadline - now() if self._holding else pause
                await asyncio.sleep(max(0.0, min(pause, until)))
                left = self._deadline - now() if self._holding else self._ttl
                if left <= 0:
                    log.warning("lease-lost", lease=f"{self.id:x}", reason="it could not be renewed in time")
                    return
                sent = now()
                try:
                    await stream.renew(timeout=min(left, self._ttl / 3))
                    self._deadline, pause = sent + self._ttl - self.margin, self._ttl / 3
                except NotFound:
                    log.warning("lease-lost", lease=f"{self.id:x}", reason="it has ended in the store")
                    return
                except KatError as error:
                    log.debug("lease-renew-retry", lease=f"{self.id:x}", error=str(error))
                    pause = 0.1
        finally:
            stream.close()
            self.lost.set()
