"""Making, listing and trying backups, on a store in memory; and the leader's task that makes them."""

from __future__ import annotations

import pytest

from kat_platform.backup.archive import Manifest, check
from kat_platform.backup.keeper import BackupKeeper, Surroundings
from kat_platform.backup.key import RecoveryKey
from kat_platform.errors import BackupUnusable, HostNotReady, NotFound
from kat_platform.leader.backup import BackupTask
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.meta import Metadata
from kat_platform.observability.metrics import Metrics
from kat_platform.state import keys
from kat_platform.state.cluster import ClusterState
from kat_platform.testing.fakes.store import MemoryStore


class Clock:
    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


class Scene:
    """A store, a folder and a keeper between them."""

    def __init__(self, folder):
        self.store, self.clock, self.folder = MemoryStore(), Clock(), folder / "backups"
        self.key = RecoveryKey.create()
        self.events, self.metrics = [], Metrics()
        self.before_manifest = None
        self.keeper = BackupKeeper(
            Surroundings(
                node="n1",
                cluster_id="kat-1",
                store=self.store,
                key=self.key,
                folder=lambda: self.folder,
                retention=lambda: 3,
                manifest=self.manifest,
                scratch=lambda _folder: MemoryStore(),
                now=self.clock,
            )
        )
        self.task = BackupTask(self.keeper, self, self, self.metrics, clock=self.clock)
        self.state = ClusterState(configuration=ClusterConfiguration(metadata=Metadata(name="c")))

    async def manifest(self):
        if self.before_manifest is not None:
            await self.before_manifest()
        return Manifest(ca_files={"ca.pem": "x"}, view={"cluster": {}})

    def note(self, event):
        self.events.append(event)

    def said(self):
        return [event.reason for event in self.events]

    def files(self):
        return sorted(path.name for path in self.folder.iterdir())

    async def look_after(self, minutes):
        self.clock.now += minutes * 60
        await self.task.look()


@pytest.fixture
async def scene(tmp_path):
    scene = Scene(tmp_path)
    await scene.store.start()
    for n in range(20):
        await scene.store.put(f"{keys.NAMESPACES}n{n}", b"x" * n)
    yield scene
    await scene.store.stop()


async def test_a_backup_is_made_listed_and_tried(scene):
    made = await scene.keeper.take()
    assert [made] == await scene.keeper.list()
    assert scene.files() == [f"{made.name}.katbackup"]
    found = check(scene.keeper.path(made.name), scene.key)
    assert (found.end.keys, found.header.node, found.size) == (20, "n1", made.size)
    tried = await scene.keeper.verify(made.name)
    assert (tried.keys, tried.exact, tried.revision) == (20, True, made.header.revision)
    assert scene.files() == [f"{made.name}.katbackup"], "nothing of the trial is left"
    with pytest.raises(NotFound):
        await scene.keeper.verify("nobody")


async def test_one_that_was_made_while_the_state_changed_says_so(scene):
    async def write():
        await scene.store.put(f"{keys.NAMESPACES}late", b"")

    scene.before_manifest = write
    made = await scene.keeper.take()
    tried = await scene.keeper.verify(made.name)
    assert (tried.exact, tried.keys) == (False, 21)


async def test_a_damaged_one_is_found_by_the_trial(scene):
    made = await scene.keeper.take()
    path = scene.keeper.path(made.name)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    with pytest.raises(BackupUnusable):
        await scene.keeper.verify(made.name)
    assert scene.files() == [path.name]


async def test_old_ones_go_when_there_are_too_many(scene):
    made = []
    for _ in range(5):
        made.append((await scene.keeper.take()).name)
        scene.clock.now += 1
    assert [one.name for one in await scene.keeper.list()] == made[-3:]


async def test_what_is_no_backup_of_this_cluster_is_left_alone(scene):
    await scene.keeper.take()
    (scene.folder / "other.katbackup").write_bytes(b"KAT-BACKUP\n")
    assert len(await scene.keeper.list()) == 1


async def test_the_leader_makes_one_each_interval_if_something_changed(scene):
    await scene.look_after(0)
    assert scene.said() == ["BackupTaken"]
    await scene.store.put(f"{keys.NAMESPACES}new", b"")
    await scene.look_after(29)
    assert scene.said() == ["BackupTaken"], "not before the interval is over"
    await scene.look_after(1)
    assert scene.said() == ["BackupTaken", "BackupTaken"]


async def test_what_has_not_changed_is_not_backed_up_again_nor_what_only_tells_of_it(scene):
    await scene.look_after(0)
    await scene.store.put(keys.event("", "e1"), b"{}")  # such as the event of the backup itself
    await scene.store.put(f"{keys.AUDIT}a1", b"{}")
    lease = await scene.store.lease(60)
    await scene.store.put(keys.alive("n1"), b"{}", lease=lease.id)
    for _ in range(5):
        await scene.look_after(31)
    assert scene.said() == ["BackupTaken"]
    assert len(scene.files()) == 1
    good = scene.metrics.registry.get_sample_value("kat_backup_good_seconds")
    assert good == scene.clock.now, "the newest one still holds the state"


async def test_the_next_leader_on_this_node_goes_on_by_its_folder(scene):
    await scene.look_after(0)
    again = BackupTask(scene.keeper, scene, scene, scene.metrics, clock=scene.clock)
    await scene.store.put(f"{keys.NAMESPACES}new", b"")
    scene.clock.now += 60
    await again.look()
    assert scene.said() == ["BackupTaken"]
    scene.clock.now += 1800
    await again.look()
    assert scene.said() == ["BackupTaken", "BackupTaken"]


async def test_a_failure_is_told_and_tried_again_soon(scene, monkeypatch):
    def full(*_):
        raise HostNotReady("the disk is full", hint="make room")

    monkeypatch.setattr("kat_platform.backup.folder.refuse_full", full)
    await scene.look_after(0)
    assert scene.said() == ["BackupFailed"]
    assert scene.events[0].message == "no backup was made: the disk is full — make room"
    assert scene.events[0].type.value == "Warning"
    assert scene.files() == []
    await scene.look_after(1)
    assert scene.said() == ["BackupFailed"]
    monkeypatch.undo()
    await scene.look_after(5)
    assert scene.said() == ["BackupFailed", "BackupTaken"]


async def test_no_failure_ends_the_leaders_term(scene):
    async def broken():
        raise ZeroDivisionError("a bug")

    scene.before_manifest = broken
    await scene.look_after(0)
    assert scene.said() == ["BackupFailed"]
    assert scene.files() == []
