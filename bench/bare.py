"""Bare: the same containers made by plain calls of Podman's API, four at once. What KAT cannot be faster than."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.cluster import images
from tests.cluster.node import RealNode

AT_ONCE = 4


class _Socket(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("podman", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


def _settings(folder: Path, theirs: Path) -> str:
    """Write a ``containers.conf``: the node's choice of OCI runtime and cgroups, in folders of its own."""
    chosen = [line for line in theirs.read_text().splitlines() if line.startswith(("runtime =", "cgroup_manager ="))]
    engine = [*chosen, 'events_logger = "file"', 'lock_type = "file"', f'tmp_dir = "{folder}/tmp"']
    path = folder / "containers.conf"
    path.write_text("\n".join(["[engine]", *engine, ""]))
    return str(path)


def _bounds(pid: int) -> list[dict[str, Any]]:
    """Give the service's own hard limits: Podman's defaults lie above them, which fails without CAP_SYS_RESOURCE."""
    names = {"Max processes": "NPROC", "Max open files": "NOFILE"}
    found = []
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        for title, name in names.items():
            if line.startswith(title) and (hard := line[len(title) :].split()[1]) != "unlimited":
                found.append({"type": name, "soft": int(hard), "hard": int(hard)})
    return found


class BarePodman:
    """A Podman service with a storage of its own, in the node's network namespace and with the node's settings."""

    def __init__(self, node: RealNode) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ktb"))
        self._socket = str(self._folder / "s.sock")
        self._base = ["podman", "--root", str(self._folder / "root"), "--runroot", str(self._folder / "run")]
        self._environment = {**node.store_environment()}
        self._environment.pop("CONTAINERS_STORAGE_CONF")
        theirs = Path(self._environment["CONTAINERS_CONF"])
        self._environment["CONTAINERS_CONF"] = _settings(self._folder, theirs)
        load = [*node.inside(), *self._base, "load", "--quiet"]
        subprocess.run(load, input=images.archive(), env=self._environment, check=True, capture_output=True)
        command = [*node.inside(), *self._base, "system", "service", "--time", "0", f"unix://{self._socket}"]
        self._service = subprocess.Popen(command, env=self._environment, stderr=subprocess.DEVNULL)
        for _ in range(200):
            if Path(self._socket).exists():
                break
            time.sleep(0.05)
        self._limits = _bounds(self._service.pid)

    def up(self, count: int) -> float:
        """Create, initialise and start ``count`` containers; gives the seconds until the last one runs."""
        began = time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._one, range(count)))
        return time.perf_counter() - began

    def _one(self, number: int) -> None:
        api = _Socket(self._socket)
        spec: dict[str, Any] = {"image": images.WEB, "name": f"bare-{number}", "netns": {"nsmode": "none"}}
        spec["r_limits"] = self._limits
        self._ask(api, "POST", "/v4.0.0/libpod/containers/create", spec)
        self._ask(api, "POST", f"/v4.0.0/libpod/containers/bare-{number}/init")
        self._ask(api, "POST", f"/v4.0.0/libpod/containers/bare-{number}/start")
        api.close()

    @staticmethod
    def _ask(api: _Socket, method: str, path: str, body: Any = None) -> None:
        data = None if body is None else json.dumps(body)
        api.request(method, path, data, {"Content-Type": "application/json"})
        answer = api.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{path}: {answer.status} {text[:300]!r}")

    def down(self) -> None:
        """Remove every container."""
        self._podman("rm", "--all", "--force", "--time", "0")

    def _podman(self, *arguments: str) -> None:
        subprocess.run([*self._base, *arguments], env=self._environment, check=False, capture_output=True)

    def remove(self) -> None:
        """Remove everything."""
        self.down()
        self._service.terminate()
        self._service.wait(20)
        subprocess.run(["umount", "--lazy", str(self._folder / "root/overlay")], check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)
