"""katcall lab without a lab: what is said when there is none, when a name is wrong, and when root is missing."""

from __future__ import annotations

import json

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
