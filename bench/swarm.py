"""Swarm: Docker's own orchestrator on the same machine, where it is installed, with a daemon in folders of its own.

It runs in a network namespace of its own, and everything it made is removed again.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.figures import Row, ratio, row
from bench.services import delete, until_ready
from kat_platform.testing.netns import Namespace
from tests.cluster import images
from tests.cluster.node import RealNode

COUNT = 20


class Swarm:
    """A one-node swarm."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ktsw"))
        self.space = Namespace()
        self._socket = f"unix://{self._folder}/d.sock"
        inside = ["nsenter", f"--net={self.space.path}"]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        subprocess.run([*inside, "ip", "address", "add", "198.18.9.1/24", "dev", "lo"], check=True)
        options = {
            "--data-root": "data",
            "--exec-root": "exec",
            "--pidfile": "pid",
        }
        places = [word for key, value in options.items() for word in (key, str(self._folder / value))]
        self._log = (self._folder / "log").open("wb")
        self._daemon = subprocess.Popen(
            [*inside, "dockerd", "--host", self._socket, *places], stdout=self._log, stderr=self._log
        )
        self._wait(lambda: self._docker("info", check=False).returncode == 0, 60)
        self._docker("load", input=images.archive())
        self._docker("swarm", "init", "--advertise-addr", "198.18.9.1")
        self._docker("network", "create", "--driver", "overlay", "kt")

    @staticmethod
    def _wait(look: Any, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not look():
            if time.monotonic() > end:
                raise RuntimeError("Docker Swarm did not come up")
            time.sleep(0.02)

    def _docker(self, *arguments: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[bytes]:
        command = ["nsenter", f"--net={self.space.path}", "docker", "--host", self._socket, *arguments]
        return subprocess.run(command, check=check, capture_output=True, timeout=120, **more)

    def up(self, count: int) -> float:
        """Create a service on the overlay; gives the seconds until all its tasks run."""
        began = time.perf_counter()
        options = ("--detach", "--no-resolve-image", "--network", "kt", "--publish", "8099:8080")
        self._docker("service", "create", *options, "--name", "s", "--replicas", str(count), images.WEB)
        self._wait(lambda: self._running() >= count, 120)
        return time.perf_counter() - began

    def _running(self) -> int:
        listed = self._docker("service", "ls", "--format", "{{.Replicas}}").stdout.decode()
        return int(listed.split("/")[0] or 0)

    def down(self) -> None:
        """Remove the service and its containers."""
        self._docker("service", "rm", "s")
        self._wait(lambda: not self._docker("ps", "--quiet", "--all").stdout.strip(), 60)

    def remove(self) -> None:
        """Remove everything."""
        self._docker("swarm", "leave", "--force", check=False)
        self._daemon.terminate()
        try:
            self._daemon.wait(30)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
        self.space.close()
        mounts = [
            line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if str(self._folder) in line
        ]
        for point in reversed(mounts):
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def measure(runs: int) -> list[Row]:
    """Measure 20 replicas on KAT and on Swarm, in pairs; nothing where Docker's daemon is not installed."""
    if shutil.which("dockerd") is None:
        print("  Docker's daemon is not installed (Debian: docker.io): not measured")
        return []
    node, swarm = RealNode(), None
    try:
        node.make()
        swarm = Swarm()
        kat, theirs = [], []
        for number in range(runs):
            kat.append(until_ready(node, f"s{number}", COUNT))
            delete(node, f"s{number}")
            theirs.append(swarm.up(COUNT))
            swarm.down()
    finally:
        if swarm is not None:
            swarm.remove()
        node.remove()
    return [
        row(f"apply → {COUNT} ready", kat, "s", note="name and virtual IP answer"),
        row(f"Docker Swarm, overlay, {COUNT} running", theirs, "s"),
        ratio(f"Swarm / KAT at {COUNT}", theirs, kat, aim="3"),
    ]
