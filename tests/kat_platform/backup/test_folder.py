"""Which backups are kept, when the next is due, and that a folder holds whole ones only."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kat_platform.backup import folder as folders
from kat_platform.backup.archive import Header
from kat_platform.backup.folder import Backup, name_of, path_of, seconds_until_due, surplus, written_whole
from kat_platform.errors import HostNotReady, NotFound

TIMES = st.integers(0, 2 * 10**9)


def backup(created, node="n1"):
    head = {"cluster_id": "kat-1", "node": node, "version": "1", "key_id": "k", "salt": "", "revision": 1, "state": ""}
    return Backup(name=name_of("kat-1", node, created), node=node, size=1, header=Header(created_at=created, **head))


@given(st.lists(st.integers(0, 10**9), unique=True, max_size=60), st.integers(1, 50))
def test_the_newest_are_kept(created, keep):
    have = [backup(float(at)) for at in created]
    gone = surplus(have, keep)
    left = [one for one in have if one not in gone]
    assert len(left) == min(keep, len(have))
    assert all(old.header.created_at < new.header.created_at for old in gone for new in left)


@given(st.lists(st.floats(1e9, 2e9), unique_by=lambda at: int(at * 1000), min_size=2))
def test_names_sort_by_age(created):
    named = sorted((name_of("kat-1", "n1", at), int(at * 1000)) for at in created)
    assert [at for _, at in named] == sorted(at for _, at in named)


@given(TIMES, st.none() | TIMES, st.none() | TIMES, st.integers(60, 10**6))
def test_the_next_is_due_within_the_interval(now, good, failed, interval):
    wait = seconds_until_due(now=now, good_at=good, failed_at=failed, interval=interval)
    assert 0 <= wait <= interval
    if good is None and failed is None:
        assert wait == 0
    if good is not None and failed is None and good <= now - interval:
        assert wait == 0
    if failed is not None and failed >= now:
        assert wait >= min(interval, folders.RETRY_SECONDS) - 1e-6


def test_a_failure_is_tried_again_before_the_interval_is_over():
    assert seconds_until_due(now=1000, good_at=None, failed_at=1000, interval=1800) == folders.RETRY_SECONDS
    assert seconds_until_due(now=1000, good_at=900, failed_at=1000, interval=1800) == 1700


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "x" * 300, "a\0b", "nobody"])
def test_only_the_name_of_a_backup_leads_to_a_file(tmp_path, name):
    (tmp_path / "x.katbackup").write_bytes(b"")
    (tmp_path / "inner").mkdir()
    with pytest.raises(NotFound):
        path_of(tmp_path / "inner", name)


def test_what_fails_half_way_leaves_nothing(tmp_path):
    target = tmp_path / "a-n1.katbackup"

    def fill():
        with written_whole(target) as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(HostNotReady, match="No space left") as full:
        fill()
    assert "backupPath" in str(full.value.hint)
    assert list(tmp_path.iterdir()) == []
    with written_whole(target) as file:
        file.write(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert target.stat().st_mode & 0o777 == 0o600


def test_what_a_crash_left_is_cleared_but_not_what_another_node_is_writing(tmp_path):
    mine, other = tmp_path / ".a-n1.katbackup.1f.draft", tmp_path / ".a-n2.katbackup.1f.draft"
    for path in (mine, other, tmp_path / "notes.txt"):
        path.write_bytes(b"")
    folders.prepare(tmp_path, "n1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "notes.txt"]
    assert folders.backups_in(tmp_path, "n1", "kat-1") == []


def test_a_backup_does_not_fill_the_disk_of_the_store(tmp_path):
    folders.refuse_full(tmp_path, 1)
    with pytest.raises(HostNotReady, match="MiB free"):
        folders.refuse_full(tmp_path, 1 << 60)
