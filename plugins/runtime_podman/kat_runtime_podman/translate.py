"""Between KAT's words and Podman's: specs to create requests, Podman's answers to containers. Pure.

Request: https://docs.podman.io/en/latest/_static/api.html, ContainerCreateLibpod (fields of libpod's SpecGenerator).
"""

from __future__ import annotations

import json
import re
import signal as signals
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kat_platform.errors import InvalidInput
from kat_platform.interfaces.runtime import Container, ContainerSpec, ContainerState, Image, Resources

TAG_LABEL: Final = "kat.dws.rip/instance-tag"
DIGEST_LABEL: Final = "kat.dws.rip/spec-digest"
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,200}")
_CPU_PERIOD: Final = 100_000
_STATES: Final = {
    "created": ContainerState.CREATED,
    "configured": ContainerState.CREATED,
    "initialized": ContainerState.INITIALIZED,
    "running": ContainerState.RUNNING,
    "stopping": ContainerState.RUNNING,
    "paused": ContainerState.RUNNING,
    "stopped": ContainerState.EXITED,
    "exited": ContainerState.EXITED,
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a create request takes from the driver rather than from the spec."""

    image: str
    """The image's id."""
    tag: str
    cgroup_parent: str
    log_max_bytes: int
    limits: Mapping[str, int]
    """Hard limits for open files (``nofile``) and processes (``nproc``) that may not be raised; empty: no bounds."""
    resolv_conf: Path | None = None
    image_entrypoint: tuple[str, ...] | None = None
    """Needed when the spec has empty ``args`` and no command: Podman takes "no arguments" for "the image's"."""


def check_name(name: str) -> None:
    """Refuse names Podman would refuse, or that would leave the driver's folders."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"'{name[:80]}' cannot be a container's name: letters, digits, and _ . - after the first")


def signal_number(name: str | int) -> int:
    """Give the number of ``SIGHUP``, ``HUP`` or ``1``; raises ``InvalidInput``."""
    text = str(name).upper()
    if text.isdecimal() and 1 <= int(text) <= 64:
        return int(text)
    try:
        return int(signals.Signals[text if text.startswith("SIG") else f"SIG{text}"])
    except KeyError:
        raise InvalidInput(f"there is no signal '{name}'") from None


def resolv_conf(spec: ContainerSpec) -> str | None:
    """Give the content of ``/etc/resolv.conf``; ``None`` when the spec asks for none."""
    if not spec.dns_servers:
        return None
    lines = [f"nameserver {server}" for server in spec.dns_servers]
    if spec.dns_search:
        lines.insert(0, "search " + " ".join(spec.dns_search))
    return "\n".join([*lines, "options ndots:2", ""])


def create_request(spec: ContainerSpec, around: Surroundings) -> str:
    """Give the JSON of a create request."""
    request: dict[str, Any] = {
        "name": spec.name,
        "image": around.image,
        "raw_image_name": spec.image,
        "labels": {**spec.labels, TAG_LABEL: around.tag, DIGEST_LABEL: spec.digest()},
        "env": dict(spec.env),
        "netns": {"nsmode": "none"},
        "ipcns": {"nsmode": "private"},
        "cgroup_parent": around.cgroup_parent,
        "log_configuration": {"driver": "k8s-file", "size": around.log_max_bytes},
        "mounts": _mounts(spec, around.resolv_conf),
        "resource_limits": _resources(spec.resources),
        "stop_timeout": spec.stop_timeout_seconds,
        "read_only_filesystem": spec.read_only_root,
        "cap_add": list(spec.cap_add),
        "cap_drop": list(spec.cap_drop),
        "privileged": spec.privileged,
        "no_new_privileges": spec.no_new_privileges,
        # KAT probes containers itself; Podman would need a systemd timer for each
        "healthconfig": {"Test": ["NONE"]},
        "systemd": "false",
        "sdnotifyMode": "ignore",
        "httpproxy": False,
        "restart_policy": "no",
        "r_limits": [{"type": kind.upper(), "soft": most, "hard": most} for kind, most in around.limits.items()],
        **_command(spec, around.image_entrypoint),
    }
    if spec.resources.gpu_devices:
        request["devices"] = [{"path": device} for device in spec.resources.gpu_devices]
    optional = {"work_dir": spec.working_dir, "user": spec.user, "hostname": spec.hostname}
    request.update({key: value for key, value in optional.items() if value is not None})
    if spec.host_entries:
        request["hostadd"] = [f"{name}:{address}" for address, name in spec.host_entries]
    if spec.stop_signal is not None:
        request["stop_signal"] = signal_number(spec.stop_signal)
    return json.dumps(request)


def _command(spec: ContainerSpec, image_entrypoint: tuple[str, ...] | None) -> dict[str, list[str]]:
    """Apply the contract's ENTRYPOINT and CMD rules; ``[""]`` is Podman's way to say "no entrypoint at all"."""
    if spec.command is not None:
        return {"entrypoint": list(spec.command) or [""], "command": list(spec.args or ())}
    if spec.args is None:
        return {}
    if spec.args:
        return {"command": list(spec.args)}
    return {"entrypoint": list(image_entrypoint or ()) or [""], "command": []}


def _mounts(spec: ContainerSpec, resolv: Path | None) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {
            "type": "bind",
            "source": mount.source,
            "destination": mount.target,
            "options": ["rbind", "rprivate", "ro" if mount.read_only else "rw"],
        }
        for mount in spec.mounts
    ]
    mounts += [
        {"type": "tmpfs", "source": "tmpfs", "destination": target, "options": ["rw", "nosuid", "nodev"]}
        for target in spec.tmpfs
    ]
    if resolv is not None and all(mount.target != "/etc/resolv.conf" for mount in spec.mounts):
        options = ["bind", "rprivate", "ro"]
        mounts.append({"type": "bind", "source": str(resolv), "destination": "/etc/resolv.conf", "options": options})
    return mounts


def _resources(resources: Resources) -> dict[str, Any]:
    """Translate limits. Shares follow the kernel's custom of 1024 for one CPU; swap is not extra memory."""
    cpu: dict[str, int] = {}
    if resources.cpu_millicores is not None:
        cpu = {"period": _CPU_PERIOD, "quota": max(1000, resources.cpu_millicores * _CPU_PERIOD // 1000)}
    if resources.cpu_request_millicores is not None:
        cpu["shares"] = min(262_144, max(2, resources.cpu_request_millicores * 1024 // 1000))
    limits: dict[str, Any] = {"cpu": cpu} if cpu else {}
    if resources.memory_bytes is not None:
        limits["memory"] = {"limit": resources.memory_bytes, "swap": resources.memory_bytes}
    return limits


def from_inspect(found: Mapping[str, Any]) -> Container:
    """Read what Podman tells of one container."""
    state = found.get("State") or {}
    labels = (found.get("Config") or {}).get("Labels") or {}
    return _container(
        name=str(found["Name"]),
        state=str(state.get("Status", "")),
        labels=labels,
        pid=int(state.get("Pid") or 0),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        started_at=_started(_time(state.get("StartedAt")), _time(state.get("FinishedAt"))),
        finished_at=_time(state.get("FinishedAt")),
    )


_LATE: Final = 0.1


def _started(written: float | None, ended: float | None) -> float | None:
    """Give a moment no later than the start: Podman writes the start down after it, measured 1 to 20 ms.

    Whatever is older than that moment was printed by an earlier run, so it is never before that one's end, which
    Podman keeps telling while the next one runs.
    """
    if written is None:
        return None
    earlier = ended if ended is not None and ended < written else 0.0
    return max(earlier, written - _LATE)


def from_list(found: Mapping[str, Any]) -> Container:
    """Read one entry of a list. It does not tell of OOM kills."""
    names: Sequence[str] = found.get("Names") or [str(found.get("Id"))]
    return _container(
        name=names[0],
        state=str(found.get("State", "")),
        labels=found.get("Labels") or {},
        pid=int(found.get("Pid") or 0),
        exit_code=int(found.get("ExitCode") or 0),
        oom_killed=False,
        started_at=_seconds(found.get("StartedAt")),
        finished_at=_seconds(found.get("ExitedAt")),
    )


def _container(
    *,
    name: str,
    state: str,
    labels: Mapping[str, str],
    pid: int,
    exit_code: int,
    oom_killed: bool,
    started_at: float | None,
    finished_at: float | None,
) -> Container:
    known = _STATES.get(state.lower(), ContainerState.UNKNOWN)
    alive = known in (ContainerState.INITIALIZED, ContainerState.RUNNING) and pid > 0
    ended = known is ContainerState.EXITED
    return Container(
        name=name,
        state=known,
        labels={key: value for key, value in labels.items() if key not in (TAG_LABEL, DIGEST_LABEL)},
        pid=pid if alive else None,
        netns=f"/proc/{pid}/ns/net" if alive else None,
        exit_code=exit_code if ended else None,
        oom_killed=oom_killed and ended,
        started_at=started_at if ended or known is ContainerState.RUNNING else None,
        finished_at=finished_at if ended else None,
        spec_digest=labels.get(DIGEST_LABEL),
    )


def from_image(reference: str, found: Mapping[str, Any]) -> Image:
    """Read what Podman tells of an image."""
    digest = found.get("Digest")
    return Image(
        reference, f"sha256:{found['Id']}", str(digest) if digest else None, size_bytes=int(found.get("Size") or 0)
    )


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _time(value: object) -> float | None:
    """Read RFC 3339 with nanoseconds; the year 1 is Go's "never"."""
    if not isinstance(value, str) or value.startswith("0001-"):
        return None
    return parse_time(value)


def parse_time(text: str) -> float:
    """Give seconds since the epoch for RFC 3339 with any number of fractional digits (Go trims zeros)."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text)
    if match is None:
        raise ValueError(f"not a time: {text[:60]!r}")
    whole = datetime.fromisoformat(match[1] + ("+00:00" if match[3] == "Z" else match[3]))
    return (whole - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() + float(f"0.{match[2] or 0}")
