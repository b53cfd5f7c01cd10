"""The images the tests run: a static busybox and a few pages, made in memory. No registry, no build."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import tarfile
from functools import cache
from pathlib import Path
from typing import Final

WEB: Final = "localhost/kt/web:1"
"""Answers HTTP on 8080, ``/healthz`` included."""
WEB_NEXT: Final = "localhost/kt/web:2"
"""The same with other pages."""
WEB_SICK: Final = "localhost/kt/web:sick"
"""Runs and answers, but has no ``/healthz``."""

_SERVE: Final = "#!/bin/sh\ntrap 'kill $!; exit 0' TERM\nhttpd -f -p 8080 -h /www &\nwait\n"
_CGI: Final = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\necho \"$(hostname) $REMOTE_ADDR\"\n"
_PROGRAMS: Final = (
    *(
        "sh",
        "cat",
        "echo",
        "false",
        "hostname",
        "httpd",
        "id",
        "kill",
        "ls",
        "nc",
        "nslookup",
        "printf",
        "sleep",
        "tail",
    ),
    *("tail", "timeout", "touch", "true", "wget", "env", "head", "wc", "dd", "test", "mkdir", "ps"),
)


@cache
def archive() -> bytes:
    """Give one docker archive (``podman load``) with every image."""
    base = _layer({f"bin/{name}": None for name in _PROGRAMS} | {"bin/busybox": _busybox(), "bin/serve": _SERVE})
    pages = {
        WEB: {"www/index.html": "one\n", "www/healthz": "ok\n", "www/cgi-bin/who": _CGI},
        WEB_NEXT: {"www/index.html": "two\n", "www/healthz": "ok\n", "www/cgi-bin/who": _CGI},
        WEB_SICK: {"www/index.html": "sick\n"},
    }
    members: dict[str, bytes] = {"base.tar": base}
    manifest = []
    for reference, files in pages.items():
        layer, config = _layer(files), f"{reference.rpartition(':')[2]}.json"
        members[f"{reference.rpartition(':')[2]}.tar"] = layer
        members[config] = _config(base, layer)
        layers = ["base.tar", f"{reference.rpartition(':')[2]}.tar"]
        manifest.append({"Config": config, "RepoTags": [reference], "Layers": layers})
    members["manifest.json"] = json.dumps(manifest).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _busybox() -> bytes:
    found = shutil.which("busybox")
    assert found is not None, "the cluster tests need busybox-static"
    return Path(found).read_bytes()


def _config(*layers: bytes) -> bytes:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    settings = {"Env": ["PATH=/bin"], "Cmd": ["/bin/serve"], "WorkingDir": "/"}
    rootfs = {"type": "layers", "diff_ids": digests}
    return json.dumps({"architecture": machine, "os": "linux", "config": settings, "rootfs": rootfs}).encode()


def _layer(files: dict[str, bytes | str | None]) -> bytes:
    """Make a layer; ``None`` stands for one of busybox's programs."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
        for name in sorted(folders | {"etc", "tmp", "proc", "sys", "dev"}):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(member)
                continue
            data = content.encode() if isinstance(content, str) else content
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()
