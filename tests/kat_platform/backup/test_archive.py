"""An archive opens as it was written, and whatever was done to it is found."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kat_platform.backup import frames
from kat_platform.backup.archive import MAGIC, Header, Manifest, Reader, Writer, check, new_salt, read_header
from kat_platform.backup.frames import FRAME_BYTES, Kind, Sealer
from kat_platform.backup.key import RecoveryKey
from kat_platform.errors import BackupUnusable, InvalidInput, NotFound
from kat_platform.pki.authority import Authority

KEY = RecoveryKey(bytes(range(32)))
MANIFEST = Manifest(ca_files={"ca.pem": "a", "ca.key": "secret"}, view={"cluster": {}})


def header(**changes):
    known = {
        "cluster_id": "kat-1",
        "node": "n1",
        "created_at": 1.0,
        "version": "1",
        "key_id": KEY.id,
        "salt": new_salt(),
    }
    return Header(**{**known, "revision": 7, "state": "s", **changes})


def written(parts=(b"abc", b"defg"), key=KEY, **changes):
    file = io.BytesIO()
    writer = Writer(file, header(**changes), key)
    writer.manifest(MANIFEST)
    for part in parts:
        writer.snapshot(part)
    writer.end(4, "digest")
    return file.getvalue()


def read(data, key=KEY):
    reader = Reader(io.BytesIO(data), "x", key)
    return reader, b"".join(reader.snapshot())


WHOLE = written()


def cut(data):
    """Give where the header ends, and the frames behind it."""
    start = len(MAGIC) + 4
    at = start + int.from_bytes(data[len(MAGIC) : start])
    head, found = data[:at], []
    while at < len(data):
        end = at + 5 + int.from_bytes(data[at + 1 : at + 5])
        found.append(data[at:end])
        at = end
    return head, found


def test_what_was_written_is_read():
    big = bytes(range(256)) * 3000
    reader, found = read(written([big, b"x"]))
    assert found == big + b"x"
    assert reader.manifest == MANIFEST
    assert (reader.end.keys, reader.end.bytes, reader.end.inventory) == (4, len(big) + 1, "digest")


def test_an_archive_says_nothing_of_its_secrets():
    assert b"secret" not in WHOLE
    assert b"abc" not in WHOLE
    assert "secret" not in repr(MANIFEST)
    assert KEY.text not in repr(KEY)


def test_no_two_archives_are_sealed_alike():
    (_, one), (_, other) = cut(written()), cut(written())
    assert not set(one) & set(other)


def test_every_truncation_is_found():
    for size in range(len(WHOLE)):
        with pytest.raises(BackupUnusable):
            read(WHOLE[:size])


def test_every_changed_byte_is_found():
    for at in range(len(WHOLE)):
        changed = bytearray(WHOLE)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(BackupUnusable):
            read(bytes(changed))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_frames_that_were_moved_taken_out_or_doubled_are_found(data):
    head, parts = cut(written([bytes([n]) * 50 for n in range(data.draw(st.integers(1, 6)))]))
    order = data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=len(parts) + 2))
    if order == list(range(len(parts))):
        read(head + b"".join(parts))
        return
    with pytest.raises(BackupUnusable):
        read(head + b"".join(parts[n] for n in order))


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_what_was_put_in_or_written_over_is_found(at, other):
    for changed in (WHOLE[:at] + other + WHOLE[at:], WHOLE[:at] + other + WHOLE[at + len(other) :]):
        if changed != WHOLE:
            with pytest.raises(BackupUnusable):
                read(changed)


def test_frames_of_another_archive_do_not_fit():
    (head, parts), (_, others) = cut(written()), cut(written())
    for n in range(len(parts)):
        with pytest.raises(BackupUnusable):
            read(head + b"".join([*parts[:n], others[n], *parts[n + 1 :]]))


def test_another_key_is_named_and_a_wrong_one_does_not_open():
    other = RecoveryKey.create()
    with pytest.raises(BackupUnusable, match=f"recovery key {KEY.id}, and this is key {other.id}"):
        read(WHOLE, other)
    with pytest.raises(BackupUnusable, match="does not open"):
        read(written(key=other), KEY)  # whose header lies about its key


def test_another_format_is_named():
    with pytest.raises(BackupUnusable, match="has format 2"):
        read(written(format=2))
    head = json.dumps({"format": 9, "something": "new"}).encode()
    with pytest.raises(BackupUnusable, match="has format 9"):
        read(MAGIC + len(head).to_bytes(4) + head)


def test_a_frame_has_a_most(tmp_path):
    sealer = Sealer(KEY.secret, b"salt", b"header")
    with pytest.raises(ValueError, match="less"):
        sealer.seal(Kind.SNAPSHOT, bytes(FRAME_BYTES + 1))
    assert frames.FRAME_BYTES <= 1 << 20, "memory does not grow with the archive"


def test_check_reads_a_file_and_its_header(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(WHOLE)
    found = check(path, KEY)
    assert (found.size, found.end.keys, found.manifest) == (len(WHOLE), 4, MANIFEST)
    assert read_header(path) == found.header
    for reads in (lambda: check(tmp_path / "b", KEY), lambda: read_header(tmp_path / "b")):
        with pytest.raises(NotFound):
            reads()


def test_a_recovery_key_survives_paper_and_a_slip_is_found():
    key = RecoveryKey.create()
    assert RecoveryKey.decode(f"  {key.text.upper()}\n") == key
    for at in range(len(key.text)):
        slip = key.text[:at] + ("a" if key.text[at] != "a" else "b") + key.text[at + 1 :]
        with pytest.raises(InvalidInput) as refused:
            RecoveryKey.decode(slip)
        assert slip not in str(refused.value)
    for wrong in ("", "katbackup1_", key.text[:-1], key.text + "a", key.text.removeprefix("katbackup1_")):
        with pytest.raises(InvalidInput):
            RecoveryKey.decode(wrong)


def test_an_older_cluster_finds_one_key_on_every_node(tmp_path):
    authority = Authority.create("kat-1")
    one, other = (RecoveryKey.of_authority(Authority.from_pem(authority.pem(), key_of(authority))) for _ in "ab")
    assert one == other
    assert one != RecoveryKey.of_authority(Authority.create("kat-1"))
    one.save(tmp_path)
    assert RecoveryKey.load(tmp_path) == one
    assert (tmp_path / "backup.key").stat().st_mode & 0o777 == 0o600


def key_of(authority):
    from kat_platform.pki.certificates import key_pem

    return key_pem(authority.key)
