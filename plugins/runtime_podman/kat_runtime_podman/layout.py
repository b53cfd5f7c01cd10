"""Where the driver keeps what, and the configuration files by which Podman keeps to it.

Podman's limits: a run root is at most 50 characters long (checked in its command line, which conmon calls to
clean up), a Unix socket's path at most 107. An agent whose ``run_dir`` is longer gets a short folder under ``/run``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kat_platform.interfaces.driver import DriverContext
from kat_runtime_podman.config import PodmanConfig

_RUNROOT_LIMIT: Final = 50
_PASSED_ON: Final = frozenset(
    {"PATH", "HOME", "LANG", "TMPDIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR"}
)
"""Of the agent's environment only this reaches Podman: NOTIFY_SOCKET or LISTEN_FDS would mislead it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """All paths of one driver; ``data`` outlives reboots, ``run`` does not."""

    data: Path
    run: Path
    tag: str

    @classmethod
    def of(cls, context: DriverContext) -> Layout:
        """Lay out a driver's folders; pure, so a driver not started yet finds the same."""
        run = context.run_dir
        if len(str(run / "root")) > _RUNROOT_LIMIT:
            run = Path("/run") / f"kat-{context.instance_tag}-{hashlib.sha256(str(run).encode()).hexdigest()[:8]}"
        return cls(context.data_dir, run, context.instance_tag)

    @property
    def root(self) -> Path:
        """Podman's storage: images, layers, containers and their logs."""
        return self.data / "storage"

    @property
    def runroot(self) -> Path:
        """Podman's volatile storage."""
        return self.run / "root"

    @property
    def tmp(self) -> Path:
        """Podman's ``tmp_dir``: locks, exit codes, events. Shared with other Podmans unless set."""
        return self.run / "tmp"

    @property
    def exits(self) -> Path:
        """Folder in which conmon leaves a file per ended container, named by its id, holding the exit code."""
        return self.tmp / "exits"

    @property
    def sockets(self) -> Path:
        """Folder (0700) of the service's socket."""
        return self.run / "sock"

    @property
    def etc(self) -> Path:
        """Podman's configuration files."""
        return self.data / "etc"

    @property
    def files(self) -> Path:
        """A folder per container for the files the driver mounts into it."""
        return self.data / "files"

    @property
    def process_files(self) -> Path:
        """Folder (0700) of short-lived files describing commands to run inside containers."""
        return self.run / "exec"

    def container(self, container_id: str) -> Path:
        """Folder of a container's bundle (``config.json``) and log (``ctr.log``)."""
        return self.root / "overlay-containers" / container_id / "userdata"

    def container_run(self, container_id: str) -> Path:
        """Folder of a container's ``pidfile`` and ``conmon.pid``."""
        return self.runroot / "overlay-containers" / container_id / "userdata"

    @property
    def images_index(self) -> Path:
        """File the storage rewrites whenever an image comes, goes or changes its name."""
        return images_index(self.root)

    def environment(self, outer: Mapping[str, str]) -> dict[str, str]:
        """Give the environment for every process of Podman's."""
        kept = {key: value for key, value in outer.items() if key in _PASSED_ON}
        kept.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        kept["CONTAINERS_CONF"] = str(self.etc / "containers.conf")
        kept["CONTAINERS_STORAGE_CONF"] = str(self.etc / "storage.conf")
        kept["CONTAINERS_REGISTRIES_CONF"] = str(self.etc / "registries.conf")
        return kept


def images_index(root: Path) -> Path:
    """Give the index of images of a storage with the overlay driver."""
    return root / "overlay-images" / "images.json"


def containers_conf(layout: Layout, config: PodmanConfig, *, oci_runtime: str, cgroup_manager: str) -> str:
    """Write ``containers.conf(5)``: nothing from the host leaks into containers, nothing is shared with its Podman."""
    return f"""\
# Written by KAT at every start; changes are lost. Settings: pluginConfig.podman in cluster.kat.
[containers]
log_driver = "k8s-file"
log_size_max = {config.log_max_bytes}
pids_limit = {config.pids_limit}
netns = "none"
http_proxy = false
base_hosts_file = "none"
host_containers_internal_ip = "none"

[engine]
runtime = "{oci_runtime}"
cgroup_manager = "{cgroup_manager}"
events_logger = "file"
tmp_dir = {_quoted(layout.tmp)}
volume_path = {_quoted(layout.root / "volumes")}
lock_type = "file"
"""


def storage_conf(layout: Layout) -> str:
    """Write ``containers-storage.conf(5)``."""
    return f"""\
# Written by KAT at every start; changes are lost.
[storage]
driver = "overlay"
graphroot = {_quoted(layout.root)}
runroot = {_quoted(layout.runroot)}
"""


def registries_conf(config: PodmanConfig) -> str:
    """Write ``containers-registries.conf(5)``: one registry for short names, and those without checked TLS."""
    parts = [
        "# Written by KAT at every start; changes are lost.",
        f"unqualified-search-registries = [{_quoted(config.default_registry)}]",
        'short-name-mode = "disabled"',
    ]
    for host in config.insecure_registries:
        parts += ["", "[[registry]]", f"location = {_quoted(host)}", "insecure = true"]
    return "\n".join(parts) + "\n"


def policy_json() -> str:
    """Write ``containers-policy.json(5)`` for hosts that have none: signatures are not asked for, as by default."""
    return json.dumps({"default": [{"type": "insecureAcceptAnything"}]}) + "\n"


def _quoted(value: object) -> str:
    """Write a TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(str(value), ensure_ascii=True)
