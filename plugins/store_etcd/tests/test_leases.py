"""The stream over which a lease is renewed, against an etcd that answers, breaks off or is silent as told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aetcd import rpc
from grpc import StatusCode
from grpc.aio import EOF, AioRpcError, Metadata
from kat_store_etcd.leases import RenewalStream

from kat_platform.errors import NotFound, StoreError, TimedOut

LEASE = 7
SILENCE = object()


def broken() -> AioRpcError:
    """Make the error of a connection that has gone."""
    return AioRpcError(StatusCode.UNAVAILABLE, Metadata(), Metadata(), "Socket closed")


class _Call:
    """A stream that gives its answers one by one, an error among them too."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers
        self.cancelled = False

    async def write(self, request: Any) -> None:
        assert request.ID == LEASE
        assert not self.cancelled, "nothing goes over a stream that was given up"

    async def read(self) -> Any:
        answer = self._answers.pop(0) if self._answers else EOF
        if answer is SILENCE:
            await asyncio.sleep(3600)
        if isinstance(answer, BaseException):
            raise answer
        return rpc.LeaseKeepAliveResponse(ID=LEASE, TTL=answer) if isinstance(answer, int) else answer

    def cancel(self) -> None:
        self.cancelled = True


class _Etcd:
    """A client whose streams answer as told, each by its own list."""

    def __init__(self, *streams: list[Any]) -> None:
        self._streams = list(streams)
        self.calls: list[_Call] = []
        self.channel = object()
        self.turns: list[object] = []
        self.closed = False
        self.leasestub = self

    def LeaseKeepAlive(self) -> _Call:
        self.calls.append(_Call(self._streams.pop(0)))
        return self.calls[-1]

    def turn(self, channel: object) -> None:
        self.turns.append(channel)

    def explain(self, _: bool, error: Exception) -> Exception:
        return error

    @contextmanager
    def told_when_closed(self, _: str) -> Iterator[None]:
        yield

    @property
    def open(self) -> int:
        """How many streams are open."""
        return sum(not call.cancelled for call in self.calls)


async def test_as_long_as_it_works_there_is_one_stream() -> None:
    etcd = _Etcd([2, 2, 2])
    stream = RenewalStream(etcd, LEASE)  # type: ignore[arg-type]
    for _ in range(3):
        assert (await stream.renew(1.0)).ttl == 2
    assert (len(etcd.calls), etcd.open) == (1, 1)
    stream.close()
    stream.close()
    assert etcd.open == 0


@pytest.mark.parametrize("end", [EOF, broken(), asyncio.InvalidStateError()])
async def test_a_stream_that_broke_since_the_last_time_costs_no_renewal(end: Any) -> None:
    etcd = _Etcd([2, end], [2, 2])
    stream = RenewalStream(etcd, LEASE)  # type: ignore[arg-type]
    for _ in range(3):
        assert (await stream.renew(1.0)).ttl == 2
    assert (len(etcd.calls), etcd.open) == (2, 1)


async def test_another_endpoint_gets_a_stream_of_its_own() -> None:
    etcd = _Etcd([2, 2], [2])
    stream = RenewalStream(etcd, LEASE)  # type: ignore[arg-type]
    await stream.renew(1.0)
    etcd.channel = object()
    await stream.renew(1.0)
    assert (len(etcd.calls), etcd.open) == (2, 1)


async def test_a_fresh_stream_that_breaks_is_an_error_and_the_next_renewal_tries_another() -> None:
    etcd = _Etcd([broken()], [EOF], [2])
    stream = RenewalStream(etcd, LEASE)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(StoreError):
            await stream.renew(1.0)
        assert etcd.open == 0
    assert etcd.turns == [etcd.channel]
    assert (await stream.renew(1.0)).ttl == 2


async def test_an_answer_that_came_too_late_is_not_taken_for_that_of_the_next_renewal() -> None:
    etcd = _Etcd([2, SILENCE, 1], [2])
    stream = RenewalStream(etcd, LEASE)  # type: ignore[arg-type]
    await stream.renew(1.0)
    with pytest.raises(TimedOut, match="did not answer within"):
        await stream.renew(0.05)
    assert (len(etcd.calls), etcd.open) == (1, 0)
    assert (await stream.renew(1.0)).ttl == 2
    assert len(etcd.calls) == 2


async def test_a_lease_that_has_ended_is_not_asked_for_twice() -> None:
    etcd = _Etcd([2, 0])
    stream = RenewalStream(etcd, LEASE)  # type: ignore[arg-type]
    await stream.renew(1.0)
    with pytest.raises(NotFound, match="it has ended"):
        await stream.renew(1.0)
    assert (len(etcd.calls), etcd.open) == (1, 0)


async def test_who_is_cancelled_leaves_no_stream() -> None:
    etcd = _Etcd([SILENCE])
    stream = RenewalStream(etcd, LEASE)  # type: ignore[arg-type]
    task = asyncio.create_task(stream.renew(10.0))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert etcd.open == 0


async def test_a_store_that_is_not_running_here_says_so() -> None:
    etcd = _Etcd([2])
    etcd.closed = True
    with pytest.raises(StoreError, match="not running here"):
        await RenewalStream(etcd, LEASE).renew(1.0)  # type: ignore[arg-type]
    assert etcd.calls == []
