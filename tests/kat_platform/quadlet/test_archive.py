"""Archives: what is packed comes out the same, what is hostile is refused before it costs anything."""

from __future__ import annotations

import gzip
import io
import os
import socket
import subprocess
import tarfile
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kat_platform.errors import InvalidInput, TooLarge
from kat_platform.quadlet import limits
from kat_platform.quadlet.archive import digest, pack, pack_files, read_folder, unpack

from ...hostile import empty_members

parts = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=30)
file_sets = st.dictionaries(parts.map(lambda name: f"{name}.kat"), st.binary(max_size=2000), min_size=1, max_size=6)


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, target
    return info, content


def tar(*members: tuple[tarfile.TarInfo, bytes], format_: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=format_) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@given(file_sets)
def test_what_is_packed_comes_out_the_same(files: dict[str, bytes]) -> None:
    packed = pack_files(files)
    assert unpack(packed) == files
    assert pack_files(dict(reversed(files.items()))) == packed
    assert digest(dict(reversed(files.items()))) == digest(files)


@given(file_sets, parts, st.binary(max_size=5))
def test_a_digest_tells_names_and_contents_apart(files: dict[str, bytes], name: str, content: bytes) -> None:
    other = {**files, f"{name}.kat": content}
    assert (digest(other) == digest(files)) == (other == files)
    assert digest({"a": b"b"}) != digest({"ab": b""})


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_usual_format_is_read(format_: int) -> None:
    names = ["workload.kat", "sub/file.txt"]
    if format_ != tarfile.USTAR_FORMAT:
        names += ["long/" + "x" * 200, "ünïcode"]
    archive = tar(
        member("sub/", kind=tarfile.DIRTYPE), *(member(name, name.encode()) for name in names), format_=format_
    )
    assert unpack(archive) == {name: name.encode() for name in names}


def test_an_archive_made_by_the_tar_program_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "quadlet"
    folder.mkdir()
    (folder / "workload.kat").write_text("x")
    inside = subprocess.run(["tar", "-czf", "-", "-C", folder, "."], check=True, capture_output=True).stdout
    around = subprocess.run(["tar", "-czf", "-", "-C", tmp_path, "quadlet"], check=True, capture_output=True).stdout
    assert unpack(inside) == unpack(around) == {"workload.kat": b"x"}


PAX_BOMB = member("x", b"9" * (limits.MAX_EXTENDED_HEADER + 1), tarfile.XHDTYPE)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "parent": (tar(member("../evil.kat")), "'..'"),
    "parent inside": (tar(member("a/../../evil.kat")), "'..'"),
    "absolute": (tar(member("/etc/evil.kat")), "absolute"),
    "symbolic link": (tar(member("a.kat", kind=tarfile.SYMTYPE, target="/etc/passwd")), "symbolic link"),
    "hard link": (tar(member("a.kat", kind=tarfile.LNKTYPE, target="b")), "hard link"),
    "character device": (tar(member("a.kat", kind=tarfile.CHRTYPE)), "device"),
    "block device": (tar(member("a.kat", kind=tarfile.BLKTYPE)), "device"),
    "fifo": (tar(member("a.kat", kind=tarfile.FIFOTYPE)), "fifo"),
    "sparse": (tar(member("a.kat", kind=tarfile.GNUTYPE_SPARSE)), "sparse"),
    "unknown type": (tar(member("a.kat", kind=b"Z")), "unknown type"),
    "duplicate": (tar(member("a.kat"), member("a.kat")), "twice"),
    "duplicate by ./": (tar(member("a.kat"), member("./a.kat")), "twice"),
    "file as folder": (tar(member("a"), member("a/b")), "both a file and a folder"),
    "not UTF-8": (tar(member("caf\udce9.kat")), "not UTF-8"),
    "control character": (tar(member("a\x1b[31m.kat")), "control character"),
    "backslash": (tar(member("..\\evil.kat")), "backslash"),
    "empty part": (tar(member("a//b.kat")), "empty part"),
    "deep": (tar(member("d/" * 40 + "a.kat")), "deeper"),
    "long path": (tar(member("/".join(["x" * 200] * 6))), "more than"),
    "long name": (tar(member("x" * 256)), "more than"),
    "long name with NUL": (tar(member("x", b"a\0b.kat\0", tarfile.GNUTYPE_LONGNAME), member("y")), "NUL"),
    "pax that is no pax": (tar(member("x", b"nonsense", tarfile.XHDTYPE), member("y")), "malformed"),
    "pax that changes the size": (tar(member("x", b"12 size=100\n", tarfile.XHDTYPE), member("y")), "not accepted"),
    "pax for all members": (tar(member("x", b"11 path=../\n", tarfile.XGLTYPE), member("y")), "malformed"),
    "header without member": (tar(member("x", b"12 path=abcd\n", tarfile.XHDTYPE)), "malformed"),
    "no files": (tar(member("a/", kind=tarfile.DIRTYPE)), "no files"),
    "not gzip": (b"PK\x03\x04", "not a .tar.gz"),
    "empty": (b"", "not a .tar.gz"),
    "not tar": (gzip.compress(b"hello" * 1000), "not a tar file"),
    "cut short": (tar(member("a.kat", os.urandom(5000)))[:-3000], "cut short"),
    "trailing data": (tar(member("a.kat")) + b"more", "after the end"),
    "data after the end": (gzip.compress(gzip.decompress(tar(member("a.kat"))) + b"x" * 512), "after the end"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_with_its_reason(case: str) -> None:
    archive, reason = HOSTILE[case]
    with pytest.raises(InvalidInput) as caught:
        unpack(archive)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, header: bool) -> None:
    stream = (bytes(tarfile.TarInfo("a").tobuf()) if header else b"") + data
    try:
        unpack(gzip.compress(stream))
    except InvalidInput:
        return
    assert header


def zeros(gigabytes: int, before: bytes) -> bytes:
    """Give an archive that unpacks to so many zeros: one packed MiB, again and again. Nobody gets to its checksum."""
    packer = zlib.compressobj(level=9, wbits=31)
    start = packer.compress(before) + packer.flush(zlib.Z_FULL_FLUSH)
    chunk = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + chunk * (gigabytes << 10) + packer.flush()


def test_what_is_made_fast_is_an_archive_all_the_same() -> None:
    assert unpack(empty_members(12, "{:02}.kat".format)) == {f"{number:02}.kat": b"" for number in range(12)}
    made = empty_members(12, "f{:02}/".format, tarfile.DIRTYPE)
    with tarfile.open(fileobj=io.BytesIO(made)) as archive:
        assert [(each.name, each.isdir()) for each in archive] == [(f"f{number:02}", True) for number in range(12)]


def claims(size: int) -> bytes:
    info = tarfile.TarInfo("big")
    info.size = size
    return bytes(info.tobuf(format=tarfile.GNU_FORMAT))


BOMBS: dict[str, Callable[[], bytes]] = {
    "one member of a gigabyte": lambda: zeros(1, claims(1 << 30)),
    "a member of petabytes": lambda: gzip.compress(claims(1 << 50)),
    "zeros after the end": lambda: zeros(1, b""),
    "members up to the limit": lambda: tar(*(member(f"f{n}", bytes(1 << 20)) for n in range(65))),
    "100,000 files": lambda: empty_members(100_000, "f{:05}".format),
    "100,000 folders": lambda: empty_members(100_000, "f{:05}/".format, tarfile.DIRTYPE),
    "a long extended header": lambda: tar(PAX_BOMB, member("y")),
    "a long name": lambda: tar(member("x", b"y" * (1 << 20), tarfile.GNUTYPE_LONGNAME), member("y")),
    "too large as it is": lambda: b"\x1f\x8b" + bytes(limits.MAX_COMPRESSED),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_refused_fast_and_in_bounded_memory(case: str) -> None:
    bomb = BOMBS[case]()
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises((TooLarge, InvalidInput)) as caught:
            unpack(bomb)
        spent = time.process_time() - started
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if "petabytes" not in case:  # its size does not even fit the field's octal digits
        assert isinstance(caught.value, TooLarge)
    assert spent < 5  # seconds of processor time, under tracemalloc, which slows it several times
    assert peak < 2.2 * limits.MAX_UNPACKED


def test_a_folder_is_packed_without_git(tmp_path: Path) -> None:
    (tmp_path / "workload.kat").write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"y")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(b"z")
    first = pack(tmp_path)
    assert unpack(first) == read_folder(tmp_path) == {"workload.kat": b"x", "sub/file": b"y"}
    os.utime(tmp_path / "workload.kat", (1, 1))
    (tmp_path / "workload.kat").chmod(0o600)
    assert pack(tmp_path) == first


def test_links_devices_and_sockets_are_not_packed(tmp_path: Path) -> None:
    makers: dict[str, Callable[[Path], object]] = {
        "symbolic link": lambda path: path.symlink_to("/etc/passwd"),
        "fifo": os.mkfifo,
        "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    }
    for what, make in makers.items():
        folder = tmp_path / what.replace(" ", "")
        folder.mkdir()
        (folder / "a.kat").write_bytes(b"x")
        make(folder / "odd")
        with pytest.raises(InvalidInput, match=f"odd' is a {what}"):
            pack(folder)


def test_what_the_server_would_refuse_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="not a folder"):
        pack(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="no files"):
        pack(tmp_path)
    (tmp_path / "a.kat").write_bytes(b"12345")
    with monkeypatch.context() as patch:
        patch.setattr(limits, "MAX_UNPACKED", 4)
        with pytest.raises(TooLarge):
            pack(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(limits, "MAX_COMPRESSED", 4)
        with pytest.raises(TooLarge):
            pack(tmp_path)
    (tmp_path / "a\\b").write_bytes(b"")
    with pytest.raises(InvalidInput, match="backslash"):
        pack(tmp_path)
