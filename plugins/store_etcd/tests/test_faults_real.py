"""What happens when etcd, the agent or the disk fails: on a real etcd."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from kat_store_etcd.driver import EtcdStore
from kat_store_etcd.process import left_over

from kat_platform.errors import Conflict, DriverError, KatError, StoreError, StoreFull
from kat_platform.interfaces.driver import Health
from kat_platform.interfaces.store import Change, Put

from .conftest import MakeStore, make_context, peer_url

pytestmark = pytest.mark.real
ROOT = "/kat/v1/kt/"


def kill(store: EtcdStore) -> int:
    """Kill a store's etcd as hard as can be."""
    pid = store._member.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


async def until_back(store: EtcdStore, old: int, seconds: float = 15.0) -> None:
    """Wait until another etcd answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if store._member.pid not in (None, old) and (await store.store_status()).available:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"etcd did not come back: {await store.status()}")


async def write_on(store: EtcdStore, writer: int, stop: asyncio.Event, acknowledged: dict[str, int]) -> None:
    """Count up in a key of one's own, noting what was acknowledged and going on after failures."""
    number = 0
    while not stop.is_set():
        number += 1
        key = f"{ROOT}w{writer}"
        try:
            await store.put(key, b"%d" % number)
            acknowledged[key] = number
        except StoreError:
            continue  # it may or may not have been written
        finally:
            await asyncio.sleep(0.002)


async def test_a_watch_loses_and_repeats_nothing_while_etcd_is_killed_again_and_again(store: EtcdStore) -> None:
    seen: list[Change] = []
    start = (await store.list(ROOT)).revision + 1
    stop = asyncio.Event()
    acknowledged: dict[str, int] = {}

    async def observe() -> None:
        async with aclosing(store.watch(ROOT, from_revision=start)) as batches:
            async for batch in batches:
                seen.extend(batch.changes)

    watching = asyncio.create_task(observe())
    writers = [asyncio.create_task(write_on(store, n, stop, acknowledged)) for n in range(4)]
    for _ in range(3):
        await asyncio.sleep(0.7)
        await until_back(store, kill(store))
    await asyncio.sleep(0.5)
    stop.set()
    await asyncio.gather(*writers)
    await store.put(f"{ROOT}end", b"")
    for _ in range(100):
        if seen and seen[-1].entry.key == f"{ROOT}end":
            break
        await asyncio.sleep(0.05)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

    revisions = [change.entry.revision for change in seen]
    assert revisions == sorted(set(revisions)), "a change was repeated or came out of order"
    async with aclosing(store.watch(ROOT, from_revision=start)) as batches:  # the store's own history, told anew
        truth: list[Change] = []
        while not truth or truth[-1].entry.key != f"{ROOT}end":
            truth += (await asyncio.wait_for(anext(batches), 10)).changes
    assert [(c.entry.key, c.entry.value, c.entry.revision) for c in seen] == [
        (c.entry.key, c.entry.value, c.entry.revision) for c in truth
    ]
    for key, number in acknowledged.items():
        entry = await store.get(key)
        assert entry is not None
        assert int(entry.value) >= number, "an acknowledged write is lost"
    assert len(seen) > 50


async def test_data_outlive_the_process_and_the_driver(make_store: MakeStore) -> None:
    first = make_store()
    await first.bootstrap("kt-a", peer_url())
    await first.start()
    revision = await first.put(ROOT + "a", b"kept")
    await until_back(first, kill(first))
    await first.stop()
    second = make_store()
    await second.start()
    entry = await second.get(ROOT + "a")
    assert entry is not None
    assert (entry.value, entry.revision) == (b"kept", revision)
    with pytest.raises(Conflict):
        await second.bootstrap("kt-a", peer_url())


async def test_a_leadership_outlives_a_restart_of_etcd_and_a_campaign_goes_on(store: EtcdStore) -> None:
    leader = await store.campaign(ROOT + "leader", "a", ttl=10)
    rival = asyncio.create_task(store.campaign(ROOT + "leader", "b", ttl=10))
    await asyncio.sleep(0.3)
    await until_back(store, kill(store))
    result = await store.transaction((leader.fence(),), (Put(ROOT + "deed", b""),))
    assert result.succeeded
    assert not rival.done()
    lost = asyncio.create_task(store.leadership_lost(leader))
    await asyncio.sleep(0.1)
    assert not lost.done()
    await store.resign(leader)
    await asyncio.wait_for(lost, 1)
    won = await asyncio.wait_for(rival, 10)
    assert won.candidate == "b"
    await store.resign(won)


async def test_a_leadership_that_cannot_be_kept_is_told_lost_before_etcd_ends_it(store: EtcdStore) -> None:
    leader = await store.campaign(ROOT + "leader", "a", ttl=2)
    pid = store._member.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        await asyncio.wait_for(store.leadership_lost(leader), 6)
        took = time.monotonic() - began
    finally:
        os.kill(pid, signal.SIGCONT)
    assert took < 2.0, "the loss was told only after the lease may have ended"
    await asyncio.sleep(0.5)
    again = await asyncio.wait_for(store.campaign(ROOT + "leader", "a", ttl=2), 10)
    assert not (await store.transaction((leader.fence(),), ())).succeeded
    await store.resign(again)


async def test_reads_wait_for_etcd_and_writes_say_when_they_are_not_sure(store: EtcdStore) -> None:
    await store.put(ROOT + "a", b"1")
    kill(store)
    entry, result = await asyncio.gather(store.get(ROOT + "a"), store.put(ROOT + "b", b"2"), return_exceptions=True)
    assert getattr(entry, "value", None) == b"1"
    assert isinstance(result, int | StoreError)


async def test_only_the_socket_and_the_peer_port_listen_and_the_folder_is_private(store: EtcdStore) -> None:
    pid = store._member.pid
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    own = [line.split()[3] for line in listening.splitlines() if f"pid={pid}," in line]
    assert own, "the peer port is not listened on"
    assert len(own) == 1
    assert own[0].startswith("127.0.0.1:")
    root = store._folder.root
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert stat.S_IMODE(store._folder.data.stat().st_mode) == 0o700


async def test_a_second_agent_on_the_same_data_takes_over_a_left_over(make_store: MakeStore, tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, os, signal, sys
        sys.path[:0] = {sys.path!r}
        from kat_store_etcd.config import EtcdConfig
        from kat_store_etcd.driver import EtcdStore
        from kat_platform.interfaces.driver import DriverContext
        from pathlib import Path
        root = Path({str(tmp_path)!r}) / "kt-a"
        async def main():
            store = EtcdStore(EtcdConfig(), DriverContext("kt-a", root / "data", root / "run", "kt0"))
            await store.bootstrap("kt-a", {peer_url()!r})
            await store.start()
            await store.put("/kat/v1/kt/a", b"1")
            print(store._member.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """)
    context = make_context(tmp_path, "kt-a")
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    output, _ = await agent.communicate()
    child = int(output.split()[-1])
    store = make_store()
    await store.start()
    entry = await store.get(ROOT + "a")
    assert entry is not None
    assert not Path(f"/proc/{child}/cmdline").exists() or child not in left_over(context.data_dir / "etcd", "etcd")
    assert left_over(context.data_dir / "etcd", "etcd") == (store._member.pid,)


async def test_an_etcd_without_a_leash_is_ended_before_the_next_one_starts(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_store()
    await first.bootstrap("kt-a", peer_url())
    await first.start()
    await first.put(ROOT + "a", b"1")
    old = first._member.pid
    assert first._member._keeper is not None
    first._member._keeper.cancel()  # the agent is gone, its etcd is not
    second = make_store()
    await second.start()
    assert (await second.get(ROOT + "a")) is not None
    assert left_over(second._folder.data, "etcd") == (second._member.pid,)
    assert second._member.pid != old


async def test_the_agents_signals_do_not_reach_etcd_first(store: EtcdStore) -> None:
    pid = store._member.pid
    assert pid is not None
    assert os.getsid(pid) == pid != os.getsid(0)


async def test_a_start_that_fails_says_why(make_store: MakeStore) -> None:
    nobody = make_store("kt-n")
    with pytest.raises(DriverError, match="no store yet"):
        await nobody.start()
    taken = make_store("kt-a")
    url = peer_url()
    await taken.bootstrap("kt-a", url)
    await taken.start()
    second = make_store("kt-b")
    await second.bootstrap("kt-b", url)
    with pytest.raises(DriverError, match="address already in use") as failed:
        await second.start()
    assert "etcdPeerPort" in (failed.value.hint or "")
    await taken.stop()
    (taken._folder.data / "member" / "snap" / "db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(DriverError, match="etcd does not start") as failed:
        await taken.start()
    assert "it said nothing" not in failed.value.message


async def test_a_full_quota_refuses_writes_lets_removals_through_and_mends_itself(make_store: MakeStore) -> None:
    store = make_store(quota_mib=16)
    await store.bootstrap("kt-a", peer_url())
    await store.start()

    async def fill() -> None:
        for number in range(200):
            await store.put(f"{ROOT}fill/{number}", b"x" * 500_000)

    with pytest.raises(StoreFull):
        await fill()
    assert await store.get(f"{ROOT}fill/0") is not None
    assert "NOSPACE" in " ".join((await store.store_status()).alarms)
    assert await store.delete(f"{ROOT}fill/", prefix=True) > 10
    end = time.monotonic() + 20
    while True:
        try:
            await store.put(ROOT + "again", b"1")
            break
        except StoreFull:
            assert time.monotonic() < end, "there is room again, and writes are still refused"
            await asyncio.sleep(0.2)
    assert (await store.status()).health is Health.OK


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 200 MiB; etcd's log takes 64 MiB at a time."""
    mount = tmp_path / "kt-disk"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "kt-disk", str(mount)], capture_output=True)
    if made.returncode:
        pytest.fail(f"cannot mount a tmpfs, run as root: {made.stderr.decode()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


async def test_a_full_disk_is_told_and_over_when_there_is_room(make_store: MakeStore, small_disk: Path) -> None:
    store = make_store(root=small_disk, retry_seconds=1)
    await store.bootstrap("kt-a", peer_url())
    await store.start()
    await store.put(ROOT + "a", b"1")
    filler = small_disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], capture_output=True)  # until nothing fits
    errors: list[KatError] = []
    for number in range(400):
        try:
            await store.put(f"{ROOT}fill/{number}", os.urandom(900_000))
        except KatError as error:
            errors.append(error)
            if isinstance(error, StoreFull):
                break
    assert isinstance(errors[-1], StoreFull), errors
    assert "disk" in errors[-1].message
    assert all(isinstance(error, StoreError | StoreFull) or error.retryable for error in errors)
    status = await store.status()
    assert status.health is not Health.OK
    assert "no space left" in status.message
    filler.unlink()
    end = time.monotonic() + 40
    while True:
        try:
            await store.put(ROOT + "b", b"2")
            break
        except KatError:
            assert time.monotonic() < end, await store.status()
            await asyncio.sleep(0.2)
    entry = await store.get(ROOT + "a")
    assert entry is not None


async def test_reset_leaves_nothing(make_store: MakeStore) -> None:
    store = make_store()
    await store.bootstrap("kt-a", peer_url())
    await store.start()
    await store.reset()
    await store.reset()
    assert list(store._folder.root.iterdir()) == []
    assert left_over(store._folder.data, "etcd") == ()


async def test_the_socket_works_however_long_the_path(make_store: MakeStore, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80) / ("e" * 80)
    deep.mkdir(parents=True)
    store = make_store(root=deep)
    await store.bootstrap("kt-a", peer_url())
    await store.start()
    await store.put(ROOT + "a", b"1")
    await until_back(store, kill(store))
    assert await store.get(ROOT + "a") is not None
