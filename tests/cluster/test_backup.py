"""Backups for real: a control plane that is lost with its disk is made again, and nobody else notices.

All of it through ``katcall`` and ``kat-agent``: what is done here, a user can do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kat_platform.cli.client import Client, at
from kat_platform.errors import KatError

from . import host
from .host import wait_for
from .lab import RealLab
from .quadlets import API
from .test_control_plane import Trio
from .test_lab import make_lab

__all__ = ["make_lab"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def agent(lab: RealLab, node: str, *words: str, check: bool = True) -> str:
    """Run kat-agent on a node; gives what it prints, its errors too."""
    data = str(lab.folder / lab.name / node / "data")
    line = ("lab", "exec", "--name", lab.name, node, "--", sys.executable, "-P", "-m", "kat_platform.cli.agent_main")
    program = (sys.executable, "-P", "-m", "kat_platform.cli.main", *line, *words, "--data-path", data)
    code, said = host.outcome(*program, env=lab.environment)
    assert (code == 0) is check, f"{words}: {code} {said}"
    return said


def backed_up(lab: RealLab, folder: Path) -> tuple[Path, Path]:
    """Make a backup and fetch it with its key; gives both files."""
    archive, key = folder / f"{lab.name}.katbackup", folder / f"{lab.name}.key"
    lab.katcall("backup", "create", "--context", f"lab-{lab.name}", "-o", str(archive))
    key.write_text(agent(lab, "n1", "backup-key").splitlines()[0])
    return archive, key


def identity(lab: RealLab, node: str) -> bytes:
    """Give the CA's certificate of a node."""
    return (lab.folder / lab.name / node / "data/pki/ca.pem").read_bytes()


def ids(items: list[Any]) -> dict[str, str]:
    """Give instances with their nodes."""
    return {item["name"]: item["node"] for item in items}


def add_namespace(lab: RealLab, name: str) -> None:
    body = {"apiVersion": API, "kind": "Namespace", "metadata": {"name": name}, "spec": {}}
    lab.client.request("PUT", at("namespaces", name), body=json.dumps(body).encode())


def answers(lab: RealLab) -> bool:
    try:
        lab.client.get("nodes", consistent=True)
    except KatError:
        return False
    return True


def test_a_lost_control_plane_comes_back_from_a_backup(make_lab: Callable[[], RealLab], tmp_path: Path) -> None:
    lab = make_lab()
    lab.up(3)
    lab.apply("web", replicas=4)
    wait_for(lambda: lab.settled(4), "four instances are ready", 40)
    archive, key = backed_up(lab, tmp_path)
    saved = ids(lab.instances())
    name = json.loads(lab.katcall("backup", "ls", "-o", "json"))["items"][0]["name"]
    assert "all of them compared" in lab.katcall("backup", "verify", name)
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
    assert "only member" in agent(lab, "n1", *words)
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
    reasons = {item["event"]["reason"] for item in lab.client.get("events")["items"]}
    assert "Restored" in reasons


def test_a_lost_quorum_goes_on_with_a_backup(make_lab: Callable[[], RealLab], tmp_path: Path) -> None:
    plain = make_lab()
    lab = Trio(plain.folder, plain.config, plain.environment)
    lab.name = plain.name
    lab.up(3)
    plain.tags = lab.tags
    lab.apply("web", replicas=3)
    wait_for(lambda: lab.settled(3), "three instances are ready", 40)
    keys = {agent(lab, node, "backup-key").splitlines()[0] for node in ("n1", "n2", "n3")}
    assert len(keys) == 1, "every control-plane node opens every backup"
    archive, _ = backed_up(lab, tmp_path)
    before = lab.served("n1")
    add_namespace(lab, "late")
    lab.lab("stop", "--only", "agent", "n1")
    words = ("recover", "--from-backup", str(archive), "--yes")
    said = agent(lab, "n1", *words, check=False)
    assert "the cluster runs" in said, "two of three still have a quorum"
    for node in ("n2", "n3"):
        lab.lab("kill", node)
    said = agent(lab, "n1", *words)
    assert "katcall node remove n2 --force" in said
    assert "the store that was here is in" in said
    lab.lab("start", "n1")
    alone = lab.through("n1")
    wait_for(lambda: lab.leader("n1") == "n1", "it leads", 30)
    for node in ("n2", "n3"):
        alone.request("DELETE", at("nodes", node), params={"force": True})
    assert [item["name"] for item in alone.get("nodes", consistent=True)["items"]] == ["n1"]
    assert {item["name"] for item in alone.get("namespaces")["items"]} == {"default"}

    def three_here() -> bool:
        found = alone.get("namespaces", "default", "instances")["items"]
        return [item["node"] for item in found if item["ready"]] == ["n1"] * 3

    wait_for(three_here, "everything runs on the survivor", 40)
    assert lab.served("n1").items() >= before.items(), "a container was started anew"


def test_workers_find_a_machine_that_has_another_address(make_lab: Callable[[], RealLab], tmp_path: Path) -> None:
    """It has the overlay key of the node whose place it takes, and calls them: their tunnels follow it."""
    lab = make_lab()
    lab.up(2)
    lab.apply("web", replicas=2)
    wait_for(lambda: lab.settled(2), "two instances are ready", 40)
    archive, key = backed_up(lab, tmp_path)
    before = lab.served("n2")
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
    wait_for(lambda: lab.ready_nodes() == {"n1", "n2"}, "the worker has attached by itself", 60)
    wait_for(lambda: lab.settled(2), "everything runs", 40)
    assert lab.served("n2").items() >= before.items(), "a container was started anew"
