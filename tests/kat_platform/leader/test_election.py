"""An election goes on through whatever the store does; only a bug in a controller takes the agent down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kat_platform.errors import StoreError, TimedOut
from kat_platform.interfaces.store import Leadership
from kat_platform.leader import election as module
from kat_platform.leader.election import Election, follow_leader
from kat_platform.state import keys
from kat_platform.state.cache import StateCache
from kat_platform.testing.fakes.store import MemoryStore

Term = Callable[[Leadership], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)


def terms(*errors: Exception) -> tuple[list[int], asyncio.Event, Term]:
    """Give a term that fails with each error in turn as a controller in a task group does, then goes on for good."""
    begun: list[int] = []
    lasting = asyncio.Event()

    async def term(leadership: Leadership) -> None:
        begun.append(leadership.revision)
        if len(begun) <= len(errors):
            async with asyncio.TaskGroup():
                raise errors[len(begun) - 1]
        lasting.set()
        await asyncio.Event().wait()

    return begun, lasting, term


async def test_a_term_that_the_store_ends_is_followed_by_another() -> None:
    begun, lasting, term = terms(TimedOut("the state did not arrive"), StoreError("the store is away"))
    running = asyncio.create_task(Election(MemoryStore(), "n1", term, ttl=5).run())
    try:
        async with asyncio.timeout(5):
            await lasting.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(set(begun)) == 3, "each term has a fence of its own"


async def test_a_bug_in_a_controller_is_loud() -> None:
    _, _, term = terms(RuntimeError("boom"))
    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(5):
            await Election(MemoryStore(), "n1", term, ttl=5).run()


async def test_who_leads_is_asked_again_while_the_store_is_away() -> None:
    class Shaky(MemoryStore):
        failures = 2

        async def leader(self, election: str) -> Leadership | None:
            self.failures -= 1
            if self.failures >= 0:
                raise StoreError("the store is away")
            return await super().leader(election)

    store, told = Shaky(), list[str | None]()
    await store.campaign(keys.ELECTION, "n2", ttl=5)
    following = asyncio.create_task(follow_leader(store, StateCache(store), told.append))
    try:
        async with asyncio.timeout(5):
            while "n2" not in told:  # noqa: ASYNC110 - nobody announces what it was told
                await asyncio.sleep(0.005)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert told == [None, None, "n2"]
