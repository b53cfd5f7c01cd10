"""Conformance of a store: elections and their fences."""

from __future__ import annotations

import asyncio

from kat_platform.errors import Conflict
from kat_platform.interfaces.store import Leadership, Put, Store
from kat_platform.testing.conformance.kit import CheckFailed, Kit, require
from kat_platform.testing.conformance.store_keys import ROOT

ELECTIONS: Kit[Store] = Kit("store: elections")
ELECTION = ROOT + "leader"


async def fenced(store: Store, leadership: Leadership) -> bool:
    """Try a write that only this leader may do."""
    return (
        await store.transaction((leadership.fence(),), (Put(ROOT + "deed", leadership.candidate.encode()),))
    ).succeeded


async def soon(task: asyncio.Task[Leadership], why: str) -> Leadership:
    """Wait for a campaign that must end now."""
    try:
        return await asyncio.wait_for(task, 10)
    except TimeoutError:
        raise CheckFailed(why) from None


@ELECTIONS.check("a lone candidate wins; everybody sees who leads; its fence holds")
async def lone_candidate_wins(store: Store) -> None:
    require(await store.leader(ELECTION) is None, "there is a leader before anybody campaigned")
    won = await store.campaign(ELECTION, "a", ttl=5)
    require(won.candidate == "a" and won.election == ELECTION, f"campaign() gave {won}")
    seen = await store.leader(ELECTION)
    require(seen is not None and seen.key == won.key and seen.revision == won.revision, f"leader() gave {seen}")
    require(seen is not None and seen.candidate == "a", f"leader() names {seen and seen.candidate}")
    require(await fenced(store, won), "the leader's fence does not hold")
    await store.resign(won)
    require(await store.leader(ELECTION) is None, "a leader who resigned still leads")


@ELECTIONS.check("there is one leader at a time; a resignation hands over at once; the old fence is dead")
async def hands_over(store: Store) -> None:
    first = await store.campaign(ELECTION, "a", ttl=30)
    second = asyncio.create_task(store.campaign(ELECTION, "b", ttl=30))
    await asyncio.sleep(0.3)
    require(not second.done(), "a second candidate won while the first leads")
    seen = await store.leader(ELECTION)
    require(seen is not None and seen.candidate == "a", "a candidate who waits is told to be leader")
    await store.resign(first)
    won = await soon(second, "the second candidate did not win after the first resigned")
    require(won.candidate == "b", f"campaign() gave {won}")
    require(not await fenced(store, first), "a fence outlived its leadership")
    require(await fenced(store, won), "the new leader's fence does not hold")
    require((await store.get(ROOT + "deed")) is not None, "the fenced write is missing")
    await store.resign(first)
    require(await fenced(store, won), "resigning a leadership that was lost took the new leader's away")
    await store.resign(won)


@ELECTIONS.check("a fence in another branch does not let a deposed leader write")
async def fence_guards_every_write(store: Store) -> None:
    won = await store.campaign(ELECTION, "a", ttl=30)
    await store.resign(won)
    again = await store.campaign(ELECTION, "a", ttl=30)
    require(again.revision != won.revision, "two leaderships carry one fence")
    before = (await store.list(ROOT)).revision
    require(not await fenced(store, won), "the fence of an earlier leadership of the same candidate holds")
    require((await store.list(ROOT)).revision == before, "a fenced write was refused and happened all the same")
    await store.resign(again)


@ELECTIONS.check("cancelling a campaign withdraws the candidate")
async def cancel_withdraws(store: Store) -> None:
    first = await store.campaign(ELECTION, "a", ttl=30)
    second = asyncio.create_task(store.campaign(ELECTION, "b", ttl=30))
    await asyncio.sleep(0.2)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await store.resign(first)
    require(await store.leader(ELECTION) is None, "a candidate who withdrew became leader")


@ELECTIONS.check("leadership_lost() wakes when the leader resigns, and when its key is removed")
async def tells_the_loss(store: Store) -> None:
    for way in ("resign", "delete"):
        won = await store.campaign(ELECTION, "a", ttl=30)
        lost = asyncio.create_task(store.leadership_lost(won))
        await asyncio.sleep(0.2)
        require(not lost.done(), "leadership_lost() returned while the leadership holds")
        await (store.resign(won) if way == "resign" else store.delete(won.key))
        try:
            await asyncio.wait_for(lost, 5)
        except TimeoutError:
            raise CheckFailed(f"leadership_lost() still waits 5 s after the {way}") from None
        await asyncio.wait_for(store.leadership_lost(won), 5)
        await store.resign(won)


@ELECTIONS.check("a leadership lasts: the driver keeps it alive past its time")
async def is_kept(store: Store) -> None:
    won = await store.campaign(ELECTION, "a", ttl=1)
    rival = asyncio.create_task(store.campaign(ELECTION, "b", ttl=1))
    await asyncio.sleep(4)
    require(await fenced(store, won), "a leadership ended although nothing was wrong")
    require(not rival.done(), "a rival won while the leader is alive")
    rival.cancel()
    await asyncio.gather(rival, return_exceptions=True)
    await store.resign(won)


@ELECTIONS.check("a candidate that campaigns again replaces its former self")
async def replaces_itself(store: Store) -> None:
    former = await store.campaign(ELECTION, "a", ttl=30)
    won = await asyncio.wait_for(store.campaign(ELECTION, "a", ttl=30), 10)
    require(won.revision > former.revision, "the second leadership is not newer")
    require(not await fenced(store, former), "the former leadership's fence still holds")
    require(await fenced(store, won), "the new leadership's fence does not hold")
    waiting = asyncio.create_task(store.campaign(ELECTION, "b", ttl=30))
    await asyncio.sleep(0.2)
    newer = asyncio.create_task(store.campaign(ELECTION, "b", ttl=30))
    try:
        await asyncio.wait_for(waiting, 10)
    except Conflict:
        pass
    except TimeoutError:
        raise CheckFailed("the older campaign of a candidate still waits after a newer one began") from None
    await store.resign(won)
    await store.resign(await soon(newer, "the newer campaign of a candidate did not win"))


@ELECTIONS.check("elections do not touch each other")
async def are_apart(store: Store) -> None:
    one = await store.campaign(ELECTION, "a", ttl=30)
    other = await asyncio.wait_for(store.campaign(ELECTION + "2", "b", ttl=30), 10)
    seen = await store.leader(ELECTION)
    require(seen is not None and seen.candidate == "a", "one election's leader shows in another")
    await store.resign(one)
    require(await fenced(store, other), "resigning from one election ended another's leadership")
    await store.resign(other)
