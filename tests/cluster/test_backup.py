"""Backups for real: a control plane that is lost with its disk is made again, and nobody else notices.

All of it through ``katcall`` and ``kat-agent``: what is done here, a user can do.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kat_platform.cli.client import Client
from kat_platform.errors import KatError

from .host import wait_for
from .lab import MakeLab, RealLab, add_namespace, agent, agent_killed, backed_up
from .test_lab import make_lab

__all__ = ["make_lab"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def identity(lab: RealLab, node: str) -> bytes:
    """Give the CA's certificate of a node."""
    return (lab.folder / lab.name / node / "data/pki/ca.pem").read_bytes()


def ids(items: list[Any]) -> dict[str, str]:
    """Give instances with their nodes."""
    return {item["name"]: item["node"] for item in items}


def answers(lab: RealLab) -> bool:
    try:
        lab.client.get("nodes", consistent=True)
    except KatError:
        return False
    return True


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> RealLab:
    """One control-plane node and two workers, with a web server on all of them; the first backup comes after 10 s."""
    lab = make_lab(RealLab, backupIntervalMinutes=1)
    lab.up(3)
    lab.apply("web", replicas=4)
    wait_for(lambda: lab.settled(4), "four instances are ready", 40)
    return lab


def told(lab: RealLab) -> set[str]:
    """Give the reasons of all events."""
    return {item["event"]["reason"] for item in lab.client.get("events")["items"]}


def test_a_lost_control_plane_comes_back_from_a_backup(lab: RealLab, tmp_path: Path) -> None:
    wait_for(lambda: "BackupTaken" in told(lab), "the leader has made one by itself", 40)
    archive, key = backed_up(lab, tmp_path)
    saved = ids(lab.instances())
    name = lab.katcall("backup", "create").split()[0]
    assert name in lab.katcall("backup", "ls", "-o", "name").split()
    assert f"{name} is good: restored on node n1" in lab.katcall("backup", "verify", name)
    before, ca = {node: lab.served(node) for node in ("n2", "n3")}, identity(lab, "n2")
    lab.apply("later", replicas=2)
    lab.client.post("namespaces", "default", "workloads", "web", "scale", body={"replicas": 6})
    wait_for(lambda: lab.settled(8), "what comes after the backup runs", 40)
    late = ids(lab.instances()).keys() - saved.keys()
    add_namespace(lab, "late")
    revision = lab.client.get("nodes")["revision"]

    lab.lab("wipe", "n1")
    for wrong in (archive.read_bytes()[:-1], archive.read_bytes()[:99_000] + b"?" + archive.read_bytes()[99_001:]):
        (tmp_path / "wrong").write_bytes(wrong)
        said = agent(lab, "n1", "recover", "--from-backup", str(tmp_path / "wrong"), "--key-file", str(key), "--yes",
                     check=False)  # fmt: skip
        assert "archive" in said
    assert "no recovery key" in agent(lab, "n1", "recover", "--from-backup", str(archive), "--yes", check=False)
    assert not (lab.folder / lab.name / "n1/data").exists(), "what is refused changes nothing"
    words = ("recover", "--from-backup", str(archive), "--key-file", str(key), "--yes")
    for half in ("recovering.json", "drivers/store-etcd/restore.data", "drivers/store-etcd/member.json"):
        agent_killed(lab, "n1", *words, when=(lab.folder / lab.name / "n1/data" / half).exists)
        said = agent(lab, "n1", "run", check=False)
        assert "a recovery of this node was interrupted" in said, "half of it is not started with"
        if half.endswith("restore.data"):
            assert "nothing else of KAT is left" in agent(lab, "n1", "reset", "--yes")
    assert "only member" in agent(lab, "n1", *words), "it is done when it is asked for again"
    assert "the store that was here is in" in agent(lab, "n1", *words), "a second time does no harm"
    lab.lab("start", "n1")
    lab.tags |= {path.name for path in lab.runs.iterdir()}
    wait_for(lambda: answers(lab), "the API is back", 30)
    assert identity(lab, "n1") == ca == identity(lab, "n3")
    assert lab.client.get("nodes")["revision"] < revision, "the store's revisions come a second time"
    wait_for(lambda: lab.ready_nodes() == {"n1", "n2", "n3"}, "the workers have attached by themselves", 40)
    wait_for(lambda: lab.settled(4), "what was in the backup runs, and nothing else", 40)
    assert {item["name"] for item in lab.client.get("namespaces")["items"]} == {"default"}
    assert not late & ids(lab.instances()).keys()
    for node in ("n2", "n3"):
        kept = lab.served(node)
        assert kept.items() >= before[node].items(), f"a container on {node} was started anew"
        wait_for(lambda n=node: lab.served(n) == before[n], "what came later is stopped", 20)  # type: ignore[misc]
    lab.scale("web", 6)
    wait_for(lambda: lab.settled(6), "new instances are made", 40)
    assert not late & ids(lab.instances()).keys(), "no new instance has the name of one that was made after the backup"
    assert "Restored" in told(lab)


def test_workers_find_a_machine_that_has_another_address(lab: RealLab, tmp_path: Path) -> None:
    """It has the overlay key of the node whose place it takes, and calls them: their tunnels follow it."""
    wanted = len(lab.instances())
    archive, key = backed_up(lab, tmp_path)
    before = {node: lab.served(node) for node in ("n2", "n3")}
    file = lab.folder / lab.name / "lab.json"
    known = json.loads(file.read_text())
    old = known["nodes"][0]["address"]
    known["nodes"][0]["address"] = new = old.rpartition(".")[0] + ".77"
    lab.lab("kill", "n1")
    file.write_text(json.dumps(known))
    lab.lab("wipe", "n1")
    agent(lab, "n1", "recover", "--from-backup", str(archive), "--key-file", str(key), "--yes")
    lab.lab("start", "n1")
    lab.tags |= {path.name for path in lab.runs.iterdir()}
    servers = tuple(server.replace(f"//{old}:", f"//{new}:") for server in lab.client.context.servers)
    lab.client = Client(replace(lab.client.context, servers=servers))
    wait_for(lambda: answers(lab), "the API is back", 30)
    wait_for(lambda: lab.ready_nodes() == {"n1", "n2", "n3"}, "the workers have attached by themselves", 60)
    wait_for(lambda: lab.settled(wanted), "everything runs", 40)
    for node in ("n2", "n3"):
        assert lab.served(node).items() >= before[node].items(), f"a container on {node} was started anew"
