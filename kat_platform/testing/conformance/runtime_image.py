"""The image the runtime kit runs: a static busybox and a few names for it, made in memory."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from kat_platform.errors import HostNotReady

REFERENCE: Final = "localhost/kat/conformance:1"
"""The image's name; a runtime that cannot import images must have it already."""
_PROGRAMS: Final = ("sh", "echo", "sleep", "cat", "true", "false", "stty", "head", "tail", "id", "ps")


def archive(reference: str = REFERENCE) -> bytes:
    """Give a docker archive (``docker load``) holding the image; raises ``HostNotReady`` without a static busybox."""
    path = shutil.which("busybox")
    if path is None:
        raise HostNotReady("the runtime kit needs a static busybox on this host", hint="install busybox-static")
    layer = _layer(Path(path).read_bytes())
    config = json.dumps(
        {
            "architecture": _architecture(),
            "os": "linux",
            "config": {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sleep", "1000"], "WorkingDir": "/"},
            "history": [{"created_by": "the runtime kit"}],
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [reference], "Layers": ["layer.tar"]}]).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for entry, data in ((name, config), ("layer.tar", layer), ("manifest.json", manifest)):
            member = tarfile.TarInfo(entry)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


async def chunks(data: bytes, size: int = 1 << 18) -> AsyncIterator[bytes]:
    """Give bytes as the stream ``import_image`` takes."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


def _layer(busybox: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in ("bin", "etc", "tmp", "proc", "sys", "dev"):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(member)
        member = tarfile.TarInfo("bin/busybox")
        member.size, member.mode = len(busybox), 0o755
        tar.addfile(member, io.BytesIO(busybox))
        for program in _PROGRAMS:
            member = tarfile.TarInfo(f"bin/{program}")
            member.type, member.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(member)
    return out.getvalue()


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
