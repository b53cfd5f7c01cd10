"""A leader whose member is gone is not waited for: on three real etcds."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from kat_store_etcd.driver import EtcdStore

from kat_platform.interfaces.store import Put

from .conftest import MakeStore, peer_url
from .test_members_real import insist

pytestmark = [pytest.mark.real, pytest.mark.slow]
ROOT = "/kat/v1/kt/"
ELECTION = ROOT + "leader"
TTL = 8
"""Seconds, far more than the takeover may take: nobody may have waited for the lease."""


async def grow(store: EtcdStore, make_store: MakeStore, name: str) -> EtcdStore:
    """Add a member and wait for its vote."""
    url = peer_url()
    for _ in range(100):
        try:
            learner = await store.add_member(name, url)
            break
        except Exception:  # whatever it is, the last attempt shows it
            await asyncio.sleep(0.2)
    else:
        learner = await store.add_member(name, url)
    made = make_store(name)
    await made.join(name, url, (await store.store_status()).members)
    await made.start()
    await insist(store.promote_member, learner.id)
    return made


async def test_the_leader_on_the_member_that_led_is_replaced_at_once(store: EtcdStore, make_store: MakeStore) -> None:
    stores = {"kt-a": store}
    for name in ("kt-b", "kt-c"):
        stores[name] = await grow(store, make_store, name)
    first = (await store.store_status()).leader
    assert first is not None
    old = stores.pop(first)
    led = await old.campaign(ELECTION, first, ttl=TTL)
    rivals = [asyncio.create_task(one.campaign(ELECTION, name, ttl=TTL)) for name, one in stores.items()]
    await asyncio.sleep(1.0)
    assert not any(rival.done() for rival in rivals), "a healthy leader was deposed"
    pid = old._member.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # as bad as dead, and it comes back
    began = time.monotonic()
    try:
        done, waiting = await asyncio.wait(rivals, timeout=TTL, return_when=asyncio.FIRST_COMPLETED)
        took = time.monotonic() - began
    finally:
        os.kill(pid, signal.SIGCONT)
    assert len(done) == 1, f"nobody took over within {TTL} s"
    assert took < 6, f"it took {took:.1f} s"
    won = done.pop().result()
    await asyncio.wait_for(old.leadership_lost(led), 10)
    assert not (await old.transaction((led.fence(),), (Put(ROOT + "deed", b""),))).succeeded
    assert (await old.transaction((won.fence(),), (Put(ROOT + "deed", b""),))).succeeded
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
