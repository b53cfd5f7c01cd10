"""katcall backup: what it says, and that a file is there whole or not at all."""

from __future__ import annotations

import json
import socket
import time

import pytest

from kat_platform.backup.archive import check
from kat_platform.cli import race


def test_one_is_made_listed_tried_and_fetched(cluster, katcall, tmp_path):
    target = tmp_path / "mine.katbackup"
    out = katcall("backup", "create", "-o", str(target)).out
    assert "made on node n1" in out
    assert "opens only with the recovery key" in out
    assert check(target, cluster.plane.backups.key).header.node == "n1"
    assert target.stat().st_mode & 0o777 == 0o600
    name = json.loads(katcall("backup", "ls", "-o", "json").out)["items"][0]["name"]
    assert katcall("backup", "ls", "-o", "name").out.strip() == f"backup/{name}"
    table = katcall("backup", "ls").out
    assert table.split()[:3] == ["NAME", "NODE", "AGE"]
    assert cluster.plane.backups.key.id in table
    assert "is good" in katcall("backup", "verify", f"backup/{name}").out
    again = tmp_path / "again"
    katcall("backup", "download", name, "-o", str(again))
    assert again.read_bytes() == target.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_no_file_is_written_over(cluster, katcall, tmp_path):
    target = tmp_path / "mine"
    target.write_text("dear")
    assert "exists already" in katcall("backup", "create", "-o", str(target), code=2).err
    assert target.read_text() == "dear"
    assert json.loads(katcall("backup", "ls", "-o", "json").out)["items"] == [], "nothing was made for nothing"


def test_a_damaged_one_is_not_called_good(cluster, katcall):
    katcall("backup", "create")
    name = json.loads(katcall("backup", "ls", "-o", "json").out)["items"][0]["name"]
    path = cluster.plane.backups.path(name)
    path.write_bytes(path.read_bytes()[:-1])
    assert "not whole" in katcall("backup", "verify", name, code=1).err


def test_one_that_does_not_exist(cluster, katcall, tmp_path):
    assert "katcall backup ls" in katcall("backup", "verify", "nobody", code=3).err
    katcall("backup", "download", "nobody", "-o", str(tmp_path / "x"), code=3)
    assert not (tmp_path / "x").exists()


def test_servers_that_do_not_answer_are_waited_for_side_by_side_and_named(
    cluster, katcall, become, monkeypatch, tmp_path
):
    katcall("backup", "create")
    monkeypatch.setattr(race, "CONNECT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        frozen = [f"https://127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
        become("root", "admin", servers=[frozen[0], cluster.plane.url, frozen[1]])
        began = time.monotonic()
        found = katcall("backup", "ls", "-o", "json")
        assert time.monotonic() - began < 1.8
        assert len(found.json["items"]) == 1
        assert [f"not listed: the API at {each} does not answer" in found.err for each in frozen] == [True, True]
        katcall("backup", "download", found.json["items"][0]["name"], "-o", str(tmp_path / "kept"))
        become("root", "admin", servers=frozen)
        assert "does not answer" in katcall("backup", "download", "nobody", "-o", str(tmp_path / "x"), code=1).err


@pytest.mark.parametrize("words", [("create",), ("ls",), ("verify", "x"), ("download", "x")])
def test_only_for_administrators(cluster, katcall, become, words):
    become("eve", "edit")
    katcall("backup", *words, code=5)
