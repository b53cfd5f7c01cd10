"""katcall lab without a lab: what is said when there is none, when a name is wrong, and when root is missing."""

from __future__ import annotations

import json
import sys

import pytest

from kat_platform.cli import lab as command
from kat_platform.cli.main import run
from kat_platform.lab import build, wires
from kat_platform.lab.home import Home, names
from kat_platform.lab.plan import plan_lab


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys):
    """Runs ``katcall lab`` in a home of its own, where nothing of the machine is touched."""
    monkeypatch.setenv("KAT_LAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAT_CONFIG", str(tmp_path / "config.json"))
    monkeypatch.setattr(command.os, "geteuid", lambda: 0)

    def call(*words, code=0):
        given = run(["lab", *words])
        out, err = capsys.readouterr()
        assert given == code, err
        return out + err

    return call


@pytest.fixture
def written():
    """Writes a lab down without making it."""

    def write(name="ktx"):
        home = Home(name)
        home.save(plan_lab(name, nodes=3, control_plane=1, taken=(), now=0.0))
        return home

    return write


def test_root_is_asked_for_before_anything_is_done(lab, written, monkeypatch):
    written()
    monkeypatch.setattr(command.os, "geteuid", lambda: 1000)
    for words in (("up", "--name", "kty"), ("down", "--name", "ktx"), ("kill", "--name", "ktx", "n1")):
        assert "sudo" in lab(*words, code=1)
    assert names() == ["ktx"]
    assert "n3" in lab("ls"), "looking takes no root"


def test_a_lab_or_a_node_that_is_not_there(lab, written):
    assert "there is no lab 'ktx'" in lab("kill", "--name", "ktx", "n1", code=3)
    written()
    said = lab("cut", "--name", "ktx", "n9", code=3)
    assert "no node 'n9'" in said
    assert "n1, n2, n3" in said
    assert "no node 'n8'" in lab("cut", "--name", "ktx", "n1", "--from", "n8", code=3)
    assert "there is no lab 'kty'" in lab("down", "--name", "kty")


@pytest.mark.parametrize("words", [("up", "--name", "Bad"), ("up", "--nodes", "0"), ("up", "--control-plane", "2")])
def test_what_cannot_be_made(lab, words):
    lab(*words, code=1)
    assert names() == []


def test_wrong_usage(lab, written):
    written()
    assert "--delay" in lab("slow", "--name", "ktx", "n1", code=2)
    assert "--only agent" in lab("stop", "--name", "ktx", "n1", "--only", "store", code=2)


def test_labs_are_listed_with_what_is_wrong_with_them(lab, written):
    written()
    lab("cut", "--name", "ktx", "n2")
    lab("slow", "--name", "ktx", "n3", "--loss", "20")
    items = json.loads(lab("ls", "-o", "json"))["items"]
    assert [(item["name"], item["state"], item["link"]) for item in items] == [
        ("n1", "off", ""),
        ("n2", "off", "cut"),
        ("n3", "off", "slow"),
    ]
    lab("heal", "--name", "ktx", "n2")
    lab("heal", "--name", "ktx", "n3")
    assert {item["link"] for item in json.loads(lab("ls", "-o", "json"))["items"]} == {""}


def test_a_name_that_is_taken(lab, written, monkeypatch):
    written()
    monkeypatch.setattr(build.shutil, "which", lambda program: program)
    assert "already" in lab("up", "--name", "ktx", code=4)


def test_down_forgets_a_lab_of_which_nothing_runs(lab, written, monkeypatch):
    home = written()
    monkeypatch.setattr(wires, "remove_all", lambda name: None)
    assert "is gone" in lab("down", "--name", "ktx")
    assert not home.folder.exists()
    assert names() == []


def test_a_broken_program_of_the_host_is_named(lab, monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda program: None if program == "nsenter" else program)
    assert "'nsenter' is not installed" in lab("up", "--name", "ktz", code=1)


def test_new_addresses_are_written_down_with_the_host_and_the_context(lab, written, monkeypatch):
    home, done = written(), []
    monkeypatch.setattr(wires, "readdress", lambda before, after: done.append((before, after)))
    monkeypatch.setattr(build, "save_context", lambda home, lab, *, current: done.append(current))
    before = home.load()
    assert "n2: " in lab("readdress", "--name", "ktx", "n2")
    one = home.load()
    assert [n.name for n in one.nodes if n.address != before.find(n.name).address] == ["n2"]
    said = lab("readdress", "--name", "ktx")
    assert all(f"{node.name}: {one.find(node.name).address} became" in said for node in one.nodes)
    moved = home.load()
    assert moved.network != one.network
    assert done == [(before, one), False, (one, moved), False]
    monkeypatch.setattr(build.Machine, "state", lambda machine: "running" if machine.node.name == "n3" else "off")
    assert "n3 of lab 'ktx' are on" in lab("readdress", "--name", "ktx", code=4)
    assert home.load() == moved


def test_another_python_is_kept_and_checked(lab, written, monkeypatch):
    home, started = written(), []
    monkeypatch.setattr(build, "switch_on", lambda machine: started.append(machine.agent_command("run")[3]))
    assert "no program" in lab("start", "--name", "ktx", "n2", "--python", "/nonexistent", code=1)
    lab("start", "--name", "ktx", "n2", "--python", "/bin/true")
    assert home.load().find("n2").python == "/bin/true"
    lab("start", "--name", "ktx", "n2")
    lab("start", "--name", "ktx", "n2", "--python", sys.executable)
    assert home.load().find("n2").python is None
    assert started == ["/bin/true", "/bin/true", sys.executable]
    monkeypatch.setattr(build.Machine, "agent_pid", lambda _: 1)
    assert "stop --only agent n2" in lab("start", "--name", "ktx", "n2", "--python", "/bin/true", code=4)
