"""A follower's view is always what the store holds, and its changes always lead from one view to the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kat_platform.errors import Denied, StoreError
from kat_platform.interfaces.store import Change, ChangeType, Delete, Entry, Page, Put, WatchBatch
from kat_platform.state import follow as module
from kat_platform.state.follow import Follower, View, advance, difference, follow
from kat_platform.testing.fakes.store import MemoryStore

KEYS = st.sampled_from(["/a", "/b", "/c", "/d"])
ENTRIES = st.dictionaries(KEYS, st.tuples(st.binary(max_size=2), st.integers(1, 9))).map(
    lambda made: {key: Entry(key, value, revision, 1) for key, (value, revision) in made.items()}
)


def replay(start: dict[str, Entry], changes: tuple[Change, ...]) -> dict[str, Entry]:
    """Apply changes as a consumer would, checking what they say of the past."""
    state = dict(start)
    for change in changes:
        assert change.previous == state.get(change.entry.key)
        if change.type is ChangeType.PUT:
            state[change.entry.key] = change.entry
        else:
            del state[change.entry.key]
    return state


@given(old=ENTRIES, new=ENTRIES)
def test_a_difference_leads_from_old_to_new(old: dict[str, Entry], new: dict[str, Entry]) -> None:
    changes = difference(old, new, 10)
    assert replay(old, changes) == new
    assert len({change.entry.key for change in changes}) == len(changes)
    assert bool(changes) == (old != new)


@given(old=ENTRIES, steps=st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=2)), max_size=6))
def test_advancing_replays_a_batch(old: dict[str, Entry], steps: list[tuple[str, bytes | None]]) -> None:
    changes = tuple(
        Change(ChangeType.DELETE, Entry(key, b"", 10 + n, 0, 0))
        if value is None
        else Change(ChangeType.PUT, Entry(key, value, 10 + n, 10))
        for n, (key, value) in enumerate(steps)
    )
    before = View(old, 9)
    after, told = advance(before, WatchBatch(10 + len(steps), changes))
    assert dict(before) == old
    assert replay(old, told) == dict(after)
    assert after.revision == 10 + len(steps)


@settings(max_examples=25, deadline=None)
@example(steps=[("pause", "/a", b""), ("pause", "/a", b""), ("put", "/a", b"x")])  # a write just as the watch begins
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["put", "delete", "both", "compact", "restart", "pause"]), KEYS, st.binary(max_size=2)
        ),
        max_size=25,
    )
)
def test_whatever_happens_the_consumer_ends_with_the_stores_state(steps: list[tuple[str, str, bytes]]) -> None:
    async def scenario() -> None:
        store = MemoryStore()
        state: dict[str, Entry] = {}
        followed: list[View] = []

        def on_change(view: View, changes: tuple[Change, ...]) -> None:
            nonlocal state
            state = replay(state, changes)
            assert state == dict(view)
            assert not followed or followed[-1].revision <= view.revision
            followed.append(view)

        follower = Follower(store, "/")
        task = asyncio.create_task(follower.run(on_change))
        for what, key, value in steps:
            match what:
                case "put":
                    await store.put(key, value)
                case "delete":
                    await store.delete(key)
                case "both":
                    await store.transaction((), (Delete(key), Put(key + key, value)))
                case "compact":  # in the same turn as a write: the follower has to list again
                    await store.put(key, value)
                    store.state.compact(store.state.revision)
                case "restart":
                    store.down = not store.down
                    store.state.wake()
                    store.down = False
                case _:
                    await asyncio.sleep(0)
        truth = {entry.key: entry for entry in (await store.list("/")).entries}
        for _ in range(1000):
            if state == truth and followed:
                break
            await asyncio.sleep(0.001)
        assert state == truth
        assert followed[0] is not None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    before, module.RETRY_SECONDS = module.RETRY_SECONDS, (0.001, 0.01)
    try:
        asyncio.run(scenario())
    finally:
        module.RETRY_SECONDS = before


async def test_the_first_view_comes_even_when_there_is_nothing() -> None:
    store = MemoryStore()
    async with aclosing(follow(store, "/x/")) as views:
        view, changes = await asyncio.wait_for(anext(views), 1)
    assert (dict(view), changes) == ({}, ())
    assert view.revision == store.state.revision


async def test_a_slow_consumer_gets_everything_at_once() -> None:
    store = MemoryStore()
    calls: list[list[str]] = []
    gate = asyncio.Event()

    async def on_change(view: View, changes: tuple[Change, ...]) -> None:
        calls.append([change.entry.value.decode() for change in changes])
        await gate.wait()

    follower = Follower(store, "/")
    task = asyncio.create_task(follower.run(on_change))
    await follower.ready()
    for number in range(5):
        await store.put("/a", str(number).encode())
        await asyncio.sleep(0.01)
    assert calls == [[]]
    gate.set()
    await asyncio.sleep(0.02)
    assert calls == [[], ["0", "1", "2", "3", "4"]]
    assert follower.view["/a"].value == b"4"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_outage_at_the_beginning_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.01, 0.02))
    store = MemoryStore()
    await store.put("/a", b"1")
    store.down = True
    follower = Follower(store, "/")
    task = asyncio.create_task(follower.run())
    await asyncio.sleep(0.05)
    store.down = False
    assert (await asyncio.wait_for(follower.ready(), 2))["/a"].value == b"1"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_waiting_does_not_mend_is_raised() -> None:
    class Forbidden(MemoryStore):
        async def list(self, prefix: str, *, keys_only: bool = False) -> Page:
            raise Denied("no")

    async with aclosing(follow(Forbidden(), "/")) as views:
        with pytest.raises(Denied):
            await anext(views)


async def test_a_watch_that_breaks_is_begun_anew() -> None:
    class Shaky(MemoryStore):
        breaks = 3

        async def watch(
            self, prefix: str, *, from_revision: int, progress: bool = False
        ) -> AsyncGenerator[WatchBatch, None]:
            self.breaks -= 1
            if self.breaks >= 0:
                raise StoreError("the connection broke")
            async for batch in super().watch(prefix, from_revision=from_revision, progress=progress):
                yield batch

    store = Shaky()
    await store.put("/a", b"1")
    async with aclosing(follow(store, "/")) as views:
        assert (await asyncio.wait_for(anext(views), 2))[0]["/a"].value == b"1"
        pending = asyncio.ensure_future(anext(views))
        await asyncio.sleep(0.01)
        await store.put("/a", b"2")
        assert (await asyncio.wait_for(pending, 5))[0]["/a"].value == b"2"


async def test_a_consumer_that_fails_ends_the_following() -> None:
    def on_change(view: View, changes: tuple[Change, ...]) -> None:
        raise RuntimeError("boom")

    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(Follower(MemoryStore(), "/").run(on_change), 2)


async def test_a_store_restored_to_an_older_state_is_followed_back() -> None:
    store, older = MemoryStore(), MemoryStore()
    await older.put("/a", b"old")
    snapshot = older.snapshot()
    for number in range(5):
        await store.put("/a", b"%d" % number)
    await store.put("/b", b"")
    async with aclosing(follow(store, "/")) as views:
        await anext(views)
        pending = asyncio.ensure_future(anext(views))
        await asyncio.sleep(0.01)
        await store.restore(snapshot, "n", "u")
        view, changes = await asyncio.wait_for(pending, 2)
    assert {key: entry.value for key, entry in view.items()} == {"/a": b"old"}
    assert [change.type for change in changes] == [ChangeType.DELETE, ChangeType.PUT]
