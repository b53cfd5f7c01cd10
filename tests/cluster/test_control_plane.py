"""Three control-plane nodes for real, and everything that may happen to them. No acknowledged write is ever lost.

All of it through ``katcall lab``: what is done to a node here, a user can do.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kat_platform.cli.client import Client, at
from kat_platform.errors import KatError
from kat_platform.quadlet.archive import pack_files

from .host import wait_for
from .lab import MakeLab, add_namespace, agent, backed_up
from .quadlets import API, document, workload
from .test_lab import RealLab, make_lab

__all__ = ["make_lab"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
NODES = ("n1", "n2", "n3")
LEADERLESS_SECONDS = 6.0
"""Bound of the issue for a lost leader; about 2 s are usual."""


class Trio(RealLab):
    """A lab whose three nodes all are control plane."""

    def lab(self, verb: str, *words: str, **options: object) -> str:
        """Run a verb of ``katcall lab`` on this lab."""
        more = ("--control-plane", "3") if verb == "up" else ()
        return super().lab(verb, *words, *more, **options)

    def up_with_webs(self, *nodes: str) -> None:
        """Bring up these nodes, with two web servers for each of them and at least one on each."""
        self.up(len(nodes))
        count = 2 * len(nodes)
        self.apply("web", replicas=count)
        wait_for(lambda: self.settled(count), f"{count} instances are ready", 60)
        self.spread_over(*nodes)

    def well(self) -> None:
        """Wait until every node is ready and serves what the others do."""
        for node in NODES:
            only = self.through(node)

            def ready(client: Client = only) -> bool:
                try:
                    items = client.get("nodes", consistent=True)["items"]
                except KatError as error:
                    raise AssertionError(str(error)) from None
                away = [f"{item['name']}: {item}" for item in items if not item["ready"]]
                assert not away, f"not ready: {away}"
                return len(items) == len(NODES)

            try:
                wait_for(ready, f"{node} serves, and every node is ready", 40)
            except AssertionError as error:
                said = self.log(node).read_text(errors="replace").splitlines()[-25:]
                raise AssertionError("\n".join([str(error), *said])) from None
        self.led()

    def idle(self, *asked: str) -> list[str]:
        """Name the instances of a workload that fits no node: the leader alone makes and removes them."""
        return [item["name"] for item in self.through(*asked).get("namespaces", "quiet", "instances")["items"]]

    def running(self) -> dict[int, int]:
        """Give the web servers of every node, with their start times."""
        return {pid: start for node in NODES for pid, start in self.served(node).items()}

    def started_since(self, node: str, offset: int) -> list[dict[str, object]]:
        """Give what a node's agent has logged behind a place in its log."""
        text = self.log(node).read_bytes()[offset:].decode(errors="replace")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]


class Writer:
    """Writes all the time, through whichever node takes it, and knows what was acknowledged."""

    def __init__(self, lab: Trio) -> None:
        self._clients = [lab.through(node) for node in NODES]
        self.acknowledged: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kt-writer")

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(0.15):
            number += 1
            name = f"w{number}"
            body = {"apiVersion": API, "kind": "Namespace", "metadata": {"name": name}, "spec": {}}
            client = self._clients[number % len(NODES)]
            try:
                client.request("PUT", at("namespaces", name), body=json.dumps(body).encode(), timeout=3.0)
            except KatError:
                continue  # not acknowledged: it may be there or not
            self.acknowledged.add(name)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def shared(make_lab: MakeLab) -> Trio:
    """The lab, with a web server on every node. A node that is frozen for some seconds is not given up."""
    lab = make_lab(Trio, nodeLossTimeoutSeconds=40)
    took = lab.up(3)
    assert took < 90, f"{took:.0f} s for three control-plane nodes"
    lab.apply("web", replicas=3)
    wait_for(lambda: lab.settled(3), "three instances are ready", 40)
    files = workload("idle", "quiet", nodeSelector={"nowhere": "yes"})
    files["namespace.kat"] = document("Namespace", "quiet")
    lab.client.request("POST", "/v1alpha1/apply", body=pack_files({k: v.encode() for k, v in files.items()}))
    return lab


@pytest.fixture
def lab(shared: Trio) -> Trio:
    """The lab, with every node well."""
    shared.well()
    return shared


@pytest.fixture
def unharmed(lab: Trio) -> Iterator[Writer]:
    """Around a fault: no acknowledged write is lost, no container was touched, and all is well again at the end."""
    before = lab.running()
    assert len(before) == 3
    with Writer(lab) as writer:
        yield writer
        lab.well()
        wait_for(lambda: len(writer.acknowledged) >= 10, "writes are taken", 20)
    for node in NODES:
        names = {item["name"] for item in lab.through(node).get("namespaces", consistent=True)["items"]}
        assert not writer.acknowledged - names, f"{node} lacks what was acknowledged"
    assert lab.running() == before, "a container was started anew"
    for name in writer.acknowledged:
        lab.client.request("DELETE", at("namespaces", name))


@pytest.fixture(scope="module")
def archive(shared: Trio, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, int]]:
    """A backup, made while all three are there, and the web servers that ran on n1 then."""
    return backed_up(shared, tmp_path_factory.mktemp("backup"))[0], shared.served("n1")


def next_leader(lab: Trio, old: str, since: float) -> float:
    """Wait until the others have another leader that acts; gives the seconds that took."""
    others = [node for node in NODES if node != old]
    wait_for(lambda: lab.leader(*others) not in (None, old), "there is another leader", 15)
    took = time.monotonic() - since
    lab.through(*others).post("namespaces", "quiet", "workloads", "idle", "scale", body={"replicas": 2})
    wait_for(lambda: len(lab.idle(*others)) == 2, "it acts", 5)
    lab.through(*others).post("namespaces", "quiet", "workloads", "idle", "scale", body={"replicas": 1})
    wait_for(lambda: len(lab.idle(*others)) == 1, "it acts again", 5)
    return took


def test_every_node_has_what_a_control_plane_needs_and_serves(lab: Trio) -> None:
    keys = [(lab.folder / lab.name / node / "data/pki/ca.key") for node in NODES]
    assert len({key.read_bytes() for key in keys}) == 1
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    for node in NODES:
        assert lab.leader(node) == lab.led()
    cluster = json.loads((lab.folder / lab.name / "n2/data/node.json").read_text())
    assert set(lab.client.context.servers) <= set(cluster["apiEndpoints"])


@pytest.mark.parametrize("part", ["agent", "store"])
def test_the_leader_is_killed(lab: Trio, unharmed: Writer, part: str) -> None:
    old, since = lab.led(), time.monotonic()
    lab.lab("kill", "--only", part, old)
    if part == "agent":
        assert next_leader(lab, old, since) < LEADERLESS_SECONDS
        lab.lab("start", old)
    else:  # its agent starts it again within a moment: the same node may go on leading
        wait_for(lambda: lab.leader() is not None, "there is a leader", LEADERLESS_SECONDS)


def test_a_leader_that_wakes_up_changes_nothing(lab: Trio, unharmed: Writer) -> None:
    old = lab.led()
    seen = lab.log(old).stat().st_size
    since = time.monotonic()
    lab.lab("pause", "--only", "agent", old)
    try:
        assert next_leader(lab, old, since) < LEADERLESS_SECONDS
        time.sleep(max(0.0, 11 - (time.monotonic() - since)))
        new = lab.leader(*(node for node in NODES if node != old))
    finally:
        lab.lab("resume", old)
    time.sleep(3)
    assert lab.leader() == new, "the one that slept took the lead back"
    told = [entry["event"] for entry in lab.started_since(old, seen)]
    assert "no longer leading" in told
    assert "change" not in told, "it changed something after it woke up"


def test_the_leader_is_cut_off_from_the_others(lab: Trio, unharmed: Writer) -> None:
    old, since = lab.led(), time.monotonic()
    others = [node for node in NODES if node != old]
    lab.lab("cut", old, *(word for node in others for word in ("--from", node)))
    try:
        assert next_leader(lab, old, since) < LEADERLESS_SECONDS
        with pytest.raises(KatError):  # it still answers the host, but admits that it knows nothing new
            lab.through(old).get("nodes", consistent=True)
        client = lab.through(old, *others)
        token = client.post("join-tokens", body={"role": "worker"})["id"]  # the first refuses it
        assert token in {item["id"] for item in client.get("join-tokens")["items"]}
    finally:
        lab.lab("heal", old)


def test_katcall_passes_by_a_first_server_that_is_frozen(lab: Trio, unharmed: Writer) -> None:
    lab.lab("pause", "--only", "agent", "n1")
    try:
        for _ in range(2):
            began = time.monotonic()
            token = json.loads(lab.katcall("token", "create", "--role", "worker", "-o", "json"))
            assert token["id"] in lab.katcall("token", "ls", "-o", "json")
            assert time.monotonic() - began < 6, "about 1 s is usual, and one connection to n1 takes 5 s to fail"
    finally:
        lab.lab("resume", "n1")


def test_all_nodes_lose_power_and_come_back(lab: Trio) -> None:
    with Writer(lab) as writer:
        time.sleep(2)
        for node in NODES:
            lab.lab("kill", node)
    assert writer.acknowledged
    for node in NODES:
        lab.lab("start", node)
    lab.well()
    names = {item["name"] for item in lab.client.get("namespaces", consistent=True)["items"]}
    assert not writer.acknowledged - names
    wait_for(lambda: lab.settled(3), "everything runs again", 60)


def test_every_node_opens_every_backup_and_none_is_used_while_the_cluster_runs(
    lab: Trio, archive: tuple[Path, dict[int, int]]
) -> None:
    assert len({agent(lab, node, "backup-key").splitlines()[0] for node in NODES}) == 1
    add_namespace(lab, "after-the-backup")
    lab.lab("stop", "--only", "agent", "n1")
    said = agent(lab, "n1", "recover", "--from-backup", str(archive[0]), "--yes", check=False)
    assert "the cluster runs" in said, "two of three have a quorum"
    lab.lab("start", "n1")


def test_one_survivor_goes_on_alone_and_the_control_plane_grows_again(lab: Trio) -> None:
    for node in ("n2", "n3"):
        lab.lab("kill", node)
    lab.lab("stop", "--only", "agent", "n1")  # which ends in time although the store has no quorum any more
    data = str(lab.folder / lab.name / "n1/data")
    command = ("recover", "--force-new-cluster", "--yes", "--data-path", data)
    said = lab.lab("exec", "n1", "--", sys.executable, "-P", "-m", "kat_platform.cli.agent_main", *command)
    assert "only member" in said
    lab.lab("start", "n1")
    alone = lab.through("n1")
    wait_for(lambda: lab.leader("n1") == "n1", "it leads", 20)
    for node in ("n2", "n3"):
        alone.request("DELETE", at("nodes", node), params={"force": True})
    assert [item["name"] for item in alone.get("nodes", consistent=True)["items"]] == ["n1"]
    assert {item["name"] for item in alone.get("namespaces", "default", "workloads")["items"]} == {"web"}


def test_or_it_goes_on_with_a_backup(shared: Trio, archive: tuple[Path, dict[int, int]]) -> None:
    lab, (file, before) = shared, archive
    for node in ("n2", "n3"):
        lab.lab("kill", node)
    lab.lab("stop", "--only", "agent", "n1")
    said = agent(lab, "n1", "recover", "--from-backup", str(file), "--yes")
    assert "katcall node remove n2 --force" in said
    assert "the store that was here is in" in said
    lab.lab("start", "n1")
    alone = lab.through("n1")
    wait_for(lambda: lab.leader("n1") == "n1", "it leads", 30)
    names = {item["name"] for item in alone.get("namespaces", consistent=True)["items"]}
    assert {"default", "quiet"} <= names - {"after-the-backup"} == names, "what came after the backup is gone"
    for node in ("n2", "n3"):
        alone.request("DELETE", at("nodes", node), params={"force": True})
    assert [item["name"] for item in alone.get("nodes", consistent=True)["items"]] == ["n1"]

    def all_here() -> bool:
        found = alone.get("namespaces", "default", "instances")["items"]
        return [item["node"] for item in found if item["ready"]] == ["n1"] * 3

    wait_for(all_here, "everything runs on the survivor", 40)
    assert lab.served("n1").items() >= before.items(), "a container was started anew"
