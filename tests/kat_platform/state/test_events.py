"""The event recorder: counting, batching, limits, and not hindering anybody."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kat_platform.model.event import Event
from kat_platform.observability.metrics import Metrics
from kat_platform.server import audit
from kat_platform.state import events, keys
from kat_platform.state.events import EventRecorder, expired, merge
from kat_platform.testing.fakes.store import MemoryStore


def event(message="it happened", name="web", **more):
    return Event(
        reason="Restarted", object_kind="Workload", object_name=name, namespace="default", message=message, **more
    )


class Now:
    def __init__(self):
        self.at = 1000.0

    def __call__(self):
        return self.at


@pytest.fixture
async def store():
    store = MemoryStore()
    await store.start()
    yield store
    await store.stop()


async def stored(store):
    return [Event.from_json(entry.value) for entry in (await store.list(keys.EVENTS)).entries]


async def test_repetitions_are_counted_not_kept(store):
    now = Now()
    recorder = EventRecorder(store, now=now)
    await recorder.record(event())
    now.at += 5
    await recorder.record(event())
    await recorder.flush()
    now.at += 5
    await recorder.record(event())
    await recorder.flush()
    [found] = await stored(store)
    assert (found.count, found.first_at, found.last_at) == (3, 1000.0, 1010.0)


async def test_two_recorders_lose_no_count(store):
    one, two = EventRecorder(store), EventRecorder(store)
    for _ in range(5):
        one.note(event())
        two.note(event())
        await one.flush()
        await two.flush()
    [found] = await stored(store)
    assert found.count == 10


async def test_many_are_written_in_few_transactions(store):
    recorder = EventRecorder(store)
    for number in range(100):
        recorder.note(event(name=f"w{number}"))
    before = (await store.store_status()).revision
    await recorder.flush()
    assert len(await stored(store)) == 100
    assert (await store.store_status()).revision - before <= 100 / events.BATCH


async def test_one_noisy_object_does_not_fill_the_store(store):
    now = Now()
    recorder = EventRecorder(store, now=now)
    for number in range(500):
        recorder.note(event(f"variant {number}"))
    recorder.note(event(name="other"))
    await recorder.flush()
    found = await stored(store)
    assert len([e for e in found if e.object_name == "web"]) == events.BURST
    assert [e for e in found if e.object_name == "other"]
    now.at += 10 * events.REFILL_SECONDS
    for number in range(500, 600):
        recorder.note(event(f"variant {number}"))
    await recorder.flush()
    assert len(await stored(store)) == events.BURST + 1 + 10


async def test_a_store_that_is_away_costs_nothing_but_time(store):
    recorder = EventRecorder(store)
    recorder.note(event())
    store.down = True
    await recorder.flush()
    recorder.note(event())
    store.down = False
    await recorder.flush()
    [found] = await stored(store)
    assert found.count == 2


class Silent(MemoryStore):
    """A store that has lost its quorum: nothing is refused, nothing is answered."""

    async def transaction(self, compares, then, otherwise=()):
        await asyncio.Event().wait()

    async def list(self, prefix, *, keys_only=False):
        await asyncio.Event().wait()

    async def get(self, key):
        await asyncio.Event().wait()


@pytest.mark.parametrize("what", ["events", "audit"])
async def test_a_store_without_a_quorum_does_not_hold_up_the_end(what, monkeypatch):
    store = Silent()
    await store.start()
    for module in (events, audit):
        monkeypatch.setattr(module, "END_SECONDS", 0.05)
    if what == "events":
        writer = EventRecorder(store)
        writer.note(event())
    else:
        writer = audit.AuditLog(store, now=lambda: 1000.0, metrics=Metrics())
        writer.note(
            audit.AuditRecord(
                at=1.0, request="1", who="a", verb="update", resource="nodes", decision="allowed", status=200
            )
        )
    running = asyncio.create_task(writer.run())
    await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running}, timeout=5)
    assert running.done(), "it waits for the store for ever"
    await store.stop()


async def test_hooks_hear_of_each(store):
    heard = []
    recorder = EventRecorder(store, announce=heard.append)
    await recorder.record(event())
    assert (heard[0].reason, heard[0].namespace, heard[0].first_seen > 0) == ("Restarted", "default", True)


async def test_what_another_version_wrote_is_written_over(store):
    await store.put(keys.event("default", event().identity), json.dumps({"strange": 1}).encode())
    recorder = EventRecorder(store)
    recorder.note(event())
    await recorder.flush()
    assert (await stored(store))[0].count == 1


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1e6)), st.floats(0, 1e6))
def test_expired_are_just_those_past_a_day(times, now):
    known = {("default", name): event(last_at=at) for name, at in times.items()}
    old = set(expired(known, now))
    assert old == {place for place, e in known.items() if now - e.last_at > events.KEPT_SECONDS}


@given(st.integers(1, 99), st.integers(1, 99), st.floats(1, 1e6), st.floats(1, 1e6))
def test_merging_adds_up(one, two, first, second):
    merged = merge(event(count=one, first_at=first, last_at=first), event(count=two, first_at=second, last_at=second))
    assert (merged.count, merged.first_at, merged.last_at) == (one + two, min(first, second), max(first, second))
