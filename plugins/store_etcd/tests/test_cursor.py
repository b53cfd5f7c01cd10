"""However etcd cuts its responses, and wherever a stream breaks, a watch tells whole revisions, each once."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, aclosing, nullcontext
from itertools import pairwise

import pytest
from aetcd import rpc
from hypothesis import given
from hypothesis import strategies as st
from kat_store_etcd.watch import Cursor, watch

from kat_platform.errors import Compacted, KatError, StoreError, TimedOut
from kat_platform.interfaces.store import WatchBatch

REVISIONS = st.lists(st.integers(1, 4), min_size=1, max_size=12)
"""How many keys each revision changes."""


def response(events: list[tuple[int, int]], *, fragment: bool = False, header: int = 0) -> rpc.WatchResponse:
    """Make a response with events given as (revision, number of the key)."""
    made = rpc.WatchResponse(fragment=fragment)
    made.header.revision = header
    for revision, number in events:
        event = made.events.add()
        event.kv.key, event.kv.mod_revision, event.kv.version = b"/k%d" % number, revision, 1
    return made


def deliver(cursor: Cursor, events: list[tuple[int, int]], cuts: list[int]) -> list[WatchBatch]:
    """Send events cut into fragments."""
    edges = [0, *sorted({cut % (len(events) + 1) for cut in cuts}), len(events)]
    batches = []
    for start, end in pairwise(edges):
        batches.append(cursor.take(response(events[start:end], fragment=end != edges[-1])))
    return [batch for batch in batches if batch is not None and batch.changes]


@given(
    REVISIONS, st.lists(st.integers(0, 50), max_size=6), st.integers(0, 40), st.lists(st.integers(0, 50), max_size=4)
)
def test_whole_revisions_each_once(counts: list[int], cuts: list[int], broken: int, again: list[int]) -> None:
    events = [(revision, number) for revision, count in enumerate(counts, 1) for number in range(count)]
    cursor = Cursor(1)
    whole = broken % (len(events) + 1)
    # the first stream breaks in the middle of a response: only fragments of it arrived
    batches = []
    taken = cursor.take(response(events[:whole], fragment=True))
    if taken is not None and taken.changes:
        batches.append(taken)
    cursor.restart()
    first = cursor.next
    batches += deliver(cursor, [event for event in events if event[0] >= first], cuts)
    # and a server that repeats itself is not believed
    batches += deliver(cursor, events, again)

    told = [(change.entry.revision, int(change.entry.key[2:])) for batch in batches for change in batch.changes]
    assert told == events
    for earlier, later in pairwise(batches):
        assert earlier.revision < later.changes[0].entry.revision
    assert cursor.next == len(counts) + 1


def test_progress_moves_the_place_and_never_back() -> None:
    cursor = Cursor(5)
    assert cursor.take(response([], header=9)) == WatchBatch(9)
    assert cursor.next == 10
    assert cursor.take(response([], header=7)) == WatchBatch(9)
    assert cursor.next == 10
    assert cursor.take(response([(9, 0)], header=9)) is None


def test_the_answer_to_the_creation_is_no_progress() -> None:
    cursor = Cursor(5)
    created = response([], header=9)
    created.created = True
    assert cursor.take(created) is None
    assert cursor.next == 5


class Stream:
    """A stand-in for one watch stream: says that it was created, tells one change, then nothing more."""

    def __init__(self) -> None:
        created = response([], header=3)
        created.created = True
        self.responses = [created, response([(7, 0)], header=7)]

    async def write(self, request: object) -> None:
        pass

    async def read(self) -> rpc.WatchResponse:
        if not self.responses:
            await asyncio.Event().wait()
        return self.responses.pop(0)

    def cancel(self) -> None:
        pass


class Shaky:
    """A stand-in for etcd's client: etcd ends between its answer to the watch and the look whether history is kept."""

    closed, channel = False, None

    def __init__(self, failures: list[KatError]) -> None:
        self.failures, self.streams = failures, 0
        self.watchstub = self

    def Watch(self) -> Stream:
        self.streams += 1
        return Stream()

    def told_when_closed(self, what: str) -> AbstractContextManager[None]:
        return nullcontext()

    async def read(self, *what: object) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def turn(self, channel: object) -> None:
        pass


async def test_etcd_ending_just_as_a_watch_begins_does_not_end_the_watch() -> None:
    client = Shaky([StoreError("connection refused"), TimedOut("no answer")])
    async with aclosing(watch(client, "/", 5, False)) as batches, asyncio.timeout(5):
        assert (await anext(batches)).revision == 7
    assert client.streams == 3


async def test_what_is_not_kept_any_more_ends_the_watch() -> None:
    client = Shaky([Compacted("gone")])
    async with aclosing(watch(client, "/", 5, False)) as batches:
        with pytest.raises(Compacted):
            await anext(batches)
