"""A restore is planned before anything is changed, and what comes back is made good to go on with."""

from __future__ import annotations

import json
import shutil
from ipaddress import IPv4Address

import pytest

from kat_platform.agent import daemon, local, restore
from kat_platform.agent.backups import ca_files
from kat_platform.agent.local import LocalNode, Membership, Places, load_node, save_node
from kat_platform.agent.restore import plan
from kat_platform.agent.restored_state import Survivor, settle
from kat_platform.backup.archive import Header, Manifest, Writer, new_salt
from kat_platform.backup.key import RecoveryKey
from kat_platform.errors import BackupUnusable, Conflict, DriverError, InvalidInput, UsageError
from kat_platform.interfaces.driver import Capability
from kat_platform.leader.reconcile import fresh_id
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.event import Event
from kat_platform.model.meta import Metadata
from kat_platform.model.node import NodeRecord, NodeRole
from kat_platform.model.view import ClusterItem, NodeItem
from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority
from kat_platform.server.joining import note_certificate
from kat_platform.state import keys
from kat_platform.state.cluster import ClusterState
from kat_platform.testing.fakes.store import MemoryStore

KEY = RecoveryKey.create()
CONFIGURATION = ClusterConfiguration(metadata=Metadata(name="cluster"))
CONTROL, WORKER = NodeRole.CONTROL_PLANE, NodeRole.WORKER


def header(cluster="kat-1"):
    made = {"node": "n1", "created_at": 1.7e9, "version": "1", "key_id": KEY.id, "salt": new_salt()}
    return Header(cluster_id=cluster, revision=9, state="", **made)


def item(number, control):
    return NodeItem(name=f"n{number}", subnet=f"10.100.{2 * number}.0/23", control_plane=control).to_wire()


@pytest.fixture(autouse=True)
def run_folder(tmp_path, monkeypatch):
    """Drivers are loaded here, and each is given a folder for its sockets: not the host's."""
    monkeypatch.setattr(local, "RUN_BASE", tmp_path / "run")


@pytest.fixture
def authority():
    return Authority.create("kat-1")


@pytest.fixture
def archive(tmp_path, authority):
    view = {"cluster": ClusterItem(configuration=CONFIGURATION).to_wire()}
    view |= {"node/n1": item(1, True), "node/n2": item(2, True), "node/n3": item(3, False)}
    files = {"ca.pem": authority.pem().decode(), "ca.key": certificates.key_pem(authority.key).decode()}
    path = tmp_path / "a.katbackup"
    with path.open("wb") as file:
        writer = Writer(file, header(), KEY)
        writer.manifest(Manifest(ca_files=files, view=view))
        writer.snapshot(b"the state")
        writer.end(1, "x")
    return path


def a_node(places, cluster="kat-1", name="n1", role=CONTROL):
    node = LocalNode(cluster_id=cluster, node_name=name, role=role, tag="kt0", configuration=CONFIGURATION)
    save_node(places, node)
    return node


async def test_an_empty_machine_takes_the_place_of_the_node_that_made_it_or_of_another(tmp_path, archive):
    places = Places(tmp_path / "data")
    made = await plan(places, archive, KEY, None)
    assert (made.node.node_name, made.node.cluster_id, made.took_place) == ("n1", "kat-1", True)
    assert made.address == IPv4Address("10.100.2.1")
    assert (await plan(places, archive, KEY, "n2")).address == IPv4Address("10.100.4.1")
    assert not places.data.exists()


async def test_a_node_that_lost_its_store_stays_who_it_is_and_has_the_key(tmp_path, archive):
    places = Places(tmp_path / "data")
    node = a_node(places, name="n2")
    KEY.save(places.pki)
    made = await plan(places, archive, None, None)
    assert (made.node, made.took_place) == (node, False)


async def test_an_archive_from_before_a_change_of_the_ca_is_refused_where_only_the_new_one_is_trusted(
    tmp_path, archive
):
    places = Places(tmp_path / "data")
    a_node(places)
    KEY.save(places.pki)
    Authority.create("kat-1").save(places.pki)
    with pytest.raises(Conflict, match="before the cluster's CA was changed"):
        await plan(places, archive, None, None)


@pytest.mark.parametrize("name", ["n3", "n4"])
async def test_only_a_control_plane_node_of_then_can_go_on(tmp_path, archive, name):
    with pytest.raises(Conflict, match="those were n1, n2"):
        await plan(Places(tmp_path / "data"), archive, KEY, name)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"cluster": "kat-2"}, "is of cluster 'kat-1'"),
        ({"role": WORKER}, "is a worker"),
        ({"name": "n9"}, "no control-plane node"),
    ],
)
async def test_where_it_does_not_belong_it_is_refused(tmp_path, archive, node, said):
    places = Places(tmp_path / "data")
    a_node(places, **node)
    before = sorted(places.data.rglob("*"))
    with pytest.raises(Conflict, match=said):
        await plan(places, archive, KEY, None)
    assert sorted(places.data.rglob("*")) == before


async def test_without_the_key_or_a_whole_archive_nothing_is_done(tmp_path, archive):
    places = Places(tmp_path / "data")
    with pytest.raises(UsageError, match="no recovery key"):
        await plan(places, archive, None, None)
    with pytest.raises(BackupUnusable, match="this is key"):
        await plan(places, archive, RecoveryKey.create(), None)
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(BackupUnusable, match="not whole"):
        await plan(places, archive, KEY, None)
    assert not places.data.exists()


@pytest.mark.parametrize("empty", [True, False])
async def test_what_fails_half_way_is_undone(tmp_path, archive, monkeypatch, empty):
    places = Places(tmp_path / "data")
    store = places.driver_data(Capability.STORE, CONFIGURATION.spec.plugins.store)
    if not empty:
        a_node(places)
        store.mkdir(parents=True)
        (store / "old").write_text("dear")

    async def no_checks(_):
        return ()

    async def broken(_store, places, _plan, _survivor):
        store.mkdir(exist_ok=True)
        (store / "new").write_text("half")
        assert places.unfinished.exists()
        raise DriverError("it broke", driver="x", operation="restore")

    monkeypatch.setattr(restore, "check_host", no_checks)
    monkeypatch.setattr(restore, "_restore_store", broken)
    wanted = await plan(places, archive, KEY, None)
    with pytest.raises(DriverError):
        await restore.carry_out(places, wanted)
    assert not places.unfinished.exists()
    if empty:
        assert not places.data.exists()
    else:
        assert (store / "old").read_text() == "dear"
        assert not (store / "new").exists()
        assert load_node(places).membership is Membership.VOTER


@pytest.mark.parametrize("empty", [True, False])
async def test_after_a_kill_it_is_known_what_was_begun_and_a_failure_does_not_hide_it(
    tmp_path, archive, monkeypatch, empty
):
    places = Places(tmp_path / "data")
    if not empty:
        a_node(places)

    class Killed(Exception):
        """Stands for -9: what is done on errors is not done."""

    async def killed(_store, places, _plan, _survivor):
        if not half.exists():
            shutil.copytree(places.data, half)
        raise Killed

    async def no_checks(_):
        return ()

    half = tmp_path / "half"
    monkeypatch.setattr(restore, "check_host", no_checks)
    monkeypatch.setattr(restore, "_restore_store", killed)
    first = await plan(places, archive, KEY, None)
    with pytest.raises(Killed):
        await restore.carry_out(places, first)
    shutil.copytree(half, places.data, dirs_exist_ok=True)
    assert load_node(places).tag == first.node.tag, "'kat-agent reset' can take it away"
    with pytest.raises(Conflict, match="interrupted"):
        daemon.refuse_unfinished(places)
    again = await plan(places, archive, KEY, None)
    assert (again.node.tag, again.took_place) == (first.node.tag, empty)
    with pytest.raises(Killed):  # this time it fails by itself, and what was half done before is still there
        await restore.carry_out(places, again)
    with pytest.raises(Conflict, match="interrupted"):
        daemon.refuse_unfinished(places)
    assert (await plan(places, archive, KEY, None)).took_place is empty


def test_an_agent_does_not_start_on_what_is_half_restored(tmp_path):
    places = Places(tmp_path)
    daemon.refuse_unfinished(places)
    places.unfinished.write_text("{}")
    with pytest.raises(Conflict, match="interrupted"):
        daemon.refuse_unfinished(places)


def test_every_file_of_the_ca_goes_into_a_backup(tmp_path):
    for name in ("ca.pem", "ca.key", "ca-next.pem", "ca.next.key", "node.key", "node.pem", "backup.key"):
        (tmp_path / name).write_text(name)
    assert set(ca_files(tmp_path)) == {"ca.pem", "ca.key", "ca-next.pem", "ca.next.key"}


async def restored(authority, *, took_place, public_key="same", cluster="kat-1"):
    """Give a store as it comes out of a backup, settled, with the certificate that was noted before."""
    store = MemoryStore()
    await store.start()
    old, new = (authority_certificate(authority) for _ in "ab")
    await store.put(keys.IDENTITY, json.dumps({"clusterId": cluster}).encode())
    for name, role in (("n1", CONTROL), ("n2", CONTROL), ("n3", WORKER)):
        key = "same" if name == "n1" else name
        await store.put(keys.node(name), NodeRecord(name=name, role=role, public_key=key).to_json())
    await store.put(keys.public_key_claim("same"), b"{}")
    await store.put(keys.join_token("t1"), b"{}")
    note = note_certificate("n1", old)
    await store.put(note.key, note.value)
    found = await settle(store, header(), Survivor("n1", public_key, new, took_place))
    return store, found, old, new


def authority_certificate(authority):
    name = certificates.NodeName("kat-1", "n1", CONTROL)
    return authority.issue_node(certificates.make_key().public_key(), name, domain="kat.cluster.local")


@pytest.mark.parametrize("took_place", [True, False])
async def test_what_the_lost_machine_had_is_revoked_when_another_takes_its_place(authority, took_place):
    store, found, old, new = await restored(authority, took_place=took_place)
    revoked = [entry.key for entry in (await store.list(keys.REVOKED)).entries]
    assert revoked == ([keys.revoked(old.serial_number)] if took_place else [])
    assert await store.get(keys.certificate("n1", new.serial_number)) is not None
    assert found.lost == ("n2",)
    await store.stop()


async def test_join_tokens_are_withdrawn_and_it_is_told(authority):
    store, _, _, _ = await restored(authority, took_place=False)
    assert (await store.list(keys.JOIN_TOKENS)).entries == ()
    events = [Event.from_json(entry.value) for entry in (await store.list(keys.EVENTS)).entries]
    assert [(event.reason, event.type.value) for event in events] == [("Restored", "Warning")]
    assert "2023-11-14" in events[0].message
    await store.stop()


async def test_a_new_overlay_key_is_written_where_peers_look(authority):
    store, _, _, _ = await restored(authority, took_place=True, public_key="fresh")
    record = NodeRecord.from_json((await store.get(keys.node("n1"))).value)
    assert record.public_key == "fresh"
    assert await store.get(keys.public_key_claim("same")) is None
    assert await store.get(keys.public_key_claim("fresh")) is not None
    await store.stop()


async def test_the_state_of_another_cluster_is_refused(authority):
    with pytest.raises(BackupUnusable):
        await restored(authority, took_place=False, cluster="kat-2")


async def test_ids_of_new_instances_do_not_come_a_second_time(authority):
    """Revisions do, after a restore: the same workload at the same revision must not name what a node still runs."""
    before = {fresh_id(ClusterState(revision=n), "default", "web", "1/0") for n in range(500)}
    for restore_id in ("a1b2", "c3d4"):
        after = {fresh_id(ClusterState(revision=n, restored=restore_id), "default", "web", "1/0") for n in range(500)}
        assert len(before & after) <= 2, "of 14 million names two may be alike by chance"
        assert after == {
            fresh_id(ClusterState(revision=n, restored=restore_id), "default", "web", "1/0") for n in range(500)
        }, "a pass can be repeated"


async def test_the_id_of_a_restore_is_part_of_the_state(authority):
    from kat_platform.state.cache import as_change
    from kat_platform.state.cluster import advance

    store, found, _, _ = await restored(authority, took_place=False)
    entries = (await store.list(keys.ROOT)).entries
    state = advance(ClusterState(), map(as_change, entries), found.revision)
    assert len(state.restored) == 12
    again, found, _, _ = await restored(authority, took_place=False)
    other = advance(ClusterState(), map(as_change, (await again.list(keys.ROOT)).entries), found.revision)
    assert other.restored != state.restored
    await store.stop()
    await again.stop()


def test_a_key_file_with_something_else_is_refused():
    with pytest.raises(InvalidInput):
        RecoveryKey.decode("katjoin1_abc")
