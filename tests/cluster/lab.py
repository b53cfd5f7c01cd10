"""One lab as the tests use it: made and broken with katcall only, looked at from the kernel and through the API."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar
from weakref import WeakSet

import pytest

from kat_platform.cli import context as contexts
from kat_platform.cli.client import Client, at
from kat_platform.errors import KatError
from kat_platform.lab.machine import unmount_below
from kat_platform.quadlet.archive import pack_files

from . import host, images, site
from .host import wait_for
from .quadlets import API, document, web

L = TypeVar("L", bound="RealLab")


class MakeLab(Protocol):
    """Makes a lab of a kind, which is not up yet; ``spec`` is of its cluster's configuration."""

    def __call__(self, kind: type[L], **spec: object) -> L: ...


class RealLab:
    """One lab by name, with a home of its own; several of them share a folder and a store of images."""

    known: ClassVar[WeakSet[RealLab]] = WeakSet()

    def __init__(self, folder: Path, config: Path, environment: dict[str, str]) -> None:
        self.name = f"kt{secrets.token_hex(2)}"
        self.folder, self.config, self.environment = folder, config, environment
        self.tags: set[str] = set()
        self.client: Client
        self.known.add(self)

    def katcall(self, *words: str, check: bool = True, timeout: float = 120.0) -> str:
        """Run katcall and give what it prints."""
        return host.run(
            *(sys.executable, "-P", "-m", "kat_platform.cli.main", *words),
            check=check,
            timeout=timeout,
            env=self.environment,
        )

    def lab(self, verb: str, *words: str, **options: Any) -> str:
        """Run a verb of ``katcall lab`` on this lab."""
        return self.katcall("lab", verb, "--name", self.name, *words, **options)

    def up(self, nodes: int, *words: str) -> float:
        """Make it; gives the seconds that took."""
        began = time.monotonic()
        self.lab("up", "--nodes", str(nodes), "--config", str(self.config), *words)
        took = time.monotonic() - began
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KAT_CONFIG", self.environment["KAT_CONFIG"])
            self.client = Client(contexts.load(f"lab-{self.name}"))
        self.tags = {path.name for path in self.runs.iterdir()}
        return took

    @property
    def runs(self) -> Path:
        """Where its sockets lie."""
        return Path(f"/run/kl-{self.name}")

    def through(self, *nodes: str) -> Client:
        """Give a client that knows these control-plane nodes only."""
        servers = sorted(self.client.context.servers)
        return Client(replace(self.client.context, servers=tuple(servers[int(node[1:]) - 1] for node in nodes)))

    def leader(self, *asked: str) -> str | None:
        """Name the leader as these nodes know it, or any of them if none is named; ``None`` while none does."""
        try:
            found = (self.through(*asked) if asked else Client(self.client.context)).get("leader")["leader"]
        except KatError:
            return None
        return str(found) if found else None

    def led(self) -> str:
        """Wait for a leader and name it."""
        return str(wait_for(self.leader, "there is a leader", 15))

    def log(self, node: str) -> Path:
        """Where a node's agent writes."""
        return self.folder / self.name / node / "agent.log"

    def tails(self, lines: int) -> dict[str, str]:
        """Give the end of each node's log."""
        logs = sorted((self.folder / self.name).glob("*/agent.log"))
        return {log.parent.name: "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) for log in logs}

    def left(self) -> list[str]:
        """Name everything of this lab that is on the machine."""
        mark = f"KAT_RUN_PATH={self.runs}".encode()
        found = [f"process {pid} {host.command_line(pid)[:80]}" for pid in host.all_pids() if mark in _environ(pid)]
        found += [f"namespace {p.name}" for p in Path("/run/netns").glob(f"kl-{self.name}-*")]
        found += [f"interface {p.name}" for p in Path("/sys/class/net").glob(f"kl-{self.name}*")]
        found += [f"mount {point}" for point in host.mounts_below(self.folder / self.name, self.runs)]
        found += [f"folder {p}" for p in (self.folder / self.name, self.runs) if p.exists()]
        found += [f"control group {path}" for tag in self.tags for path in host.control_groups(f"kat-{tag}")]
        found += [f"socket {p}" for tag in self.tags for p in Path("/var/run/wireguard").glob(f"*{tag}*")]
        states = (path for tool in ("runc", "crun") for path in Path("/run", tool).glob("*/s*"))
        found += [f"container {p}" for p in states if f"{self.folder / self.name}/" in p.read_text(errors="replace")]
        listed = self.katcall("context", "ls")
        return found + ([f"context {listed}"] if f"lab-{self.name}" in listed else [])

    # --- looking into the cluster ---------------------------------------------------------------------------

    def ready_nodes(self) -> set[str]:
        """Name the nodes that are ready."""
        return {item["name"] for item in self.client.get("nodes")["items"] if item["ready"]}

    def instances(self) -> list[Any]:
        """Give every instance of the default namespace."""
        return list(self.client.get("namespaces", "default", "instances")["items"])

    def on(self, node: str) -> list[str]:
        """Name the ready instances on a node."""
        return [item["name"] for item in self.instances() if item["node"] == node and item["ready"]]

    def settled(self, wanted: int) -> bool:
        """Tell whether exactly this many instances are there, all ready."""
        found = self.instances()
        return len(found) == wanted and all(item["ready"] for item in found)

    def apply(self, name: str, **options: Any) -> None:
        """Apply a web server."""
        files = {path: text.encode() for path, text in web(name, "default", **options).items()}
        self.client.request("POST", "/v1alpha1/apply", body=pack_files(files))

    def scale(self, name: str, replicas: int) -> None:
        """Scale a workload and wait until it is so."""
        self.client.post("namespaces", "default", "workloads", name, "scale", body={"replicas": replicas})
        wait_for(lambda: self.settled(replicas), f"{replicas} instances", 40)

    def spread_over(self, *nodes: str) -> None:
        """Have at least two ready instances of ``web`` on each of the nodes."""
        replicas = len(self.instances())
        while any(len(self.on(node)) < 2 for node in nodes):
            replicas += 2
            assert replicas < 30, "the scheduler leaves a node empty"
            self.scale("web", replicas)

    def ask(self, node: str, *urls: str) -> list[str]:
        """Ask web servers from a node itself; gives what each says. All by one process: starting one takes longer."""
        answers: list[str] = json.loads(self.lab("exec", node, "--", sys.executable, "-c", _ASK, *urls, timeout=40))
        return answers

    def who(self, node: str, *urls: str) -> list[str]:
        """Ask web servers from a node itself for the names of their instances."""
        return [answer.split()[0] for answer in self.ask(node, *(f"{url}/cgi-bin/who" for url in urls))]

    @contextmanager
    def sniffing(self) -> Iterator[Callable[[], list[bytes]]]:
        """Listen on the switch between the nodes; gives the way to what was heard, once it has ended."""
        hub = ("nsenter", f"--net=/run/netns/kl-{self.name}-hub", "--")
        said = self.folder / f"{self.name}.frames"  # a pipe that nobody reads meanwhile would fill up
        with said.open("wb") as out:
            child = subprocess.Popen((*hub, sys.executable, "-u", "-c", _SNIFF), stdout=out)
        wait_for(lambda: said.read_bytes().startswith(b"ready"), "somebody listens", 10)
        frames: list[bytes] = []
        try:
            yield lambda: frames
            time.sleep(0.3)
        finally:
            child.terminate()
            child.wait(5)
            frames += [bytes.fromhex(line) for line in said.read_text().splitlines()[1:]]
            said.unlink()

    def served(self, node: str) -> dict[int, int]:
        """Give the web servers that run on a node, with their start times, from the kernel."""
        space = os.stat(f"/run/netns/kl-{self.name}-{node[1:]}").st_ino
        lines = host.processes_of(space, ())
        return {pid: host.start_time(pid) for pid, line in lines.items() if line.endswith("/bin/serve")}


@contextmanager
def several(folder: Path) -> Iterator[MakeLab]:
    """Give a way to make labs with the tests' images, none of which is up. At the end all are taken down, and must
    leave nothing.
    """
    store = folder / "images"
    (folder / "images.tar").write_bytes(images.archive())
    podman = ("podman", "--root", str(store), "--runroot", str(folder / "run"), "--storage-driver", "overlay")
    host.run(*podman, "load", "--quiet", "--input", str(folder / "images.tar"))
    environment = {
        **os.environ,
        "PYTHONPATH": site.python_path(folder / "site"),
        "KAT_LAB_HOME": str(folder / "home"),
        "KAT_CONFIG": str(folder / "config.json"),
    }
    made: list[RealLab] = []

    def make(kind: type[L], **spec: object) -> L:
        lab = kind(folder / "home", folder / f"cluster{len(made)}.kat", environment)
        spec = {"pluginConfig": {"podman": {"localStores": [str(store)]}}, **spec}
        lab.config.write_text(document("ClusterConfiguration", "lab", spec=spec))
        made.append(lab)
        return lab

    left = []
    try:
        yield make
    finally:
        for each in made:
            each.lab("down", check=False)
            left += each.left()
        host.run(*podman, "rmi", "--all", "--force")
        unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)
    assert not left, left


def _agent_command(lab: RealLab, node: str, words: Sequence[str]) -> tuple[str, ...]:
    data = str(lab.folder / lab.name / node / "data")
    line = ("lab", "exec", "--name", lab.name, node, "--", sys.executable, "-P", "-m", "kat_platform.cli.agent_main")
    return (sys.executable, "-P", "-m", "kat_platform.cli.main", *line, *words, "--data-path", data)


def agent_killed(lab: RealLab, node: str, *words: str, when: Callable[[], bool]) -> None:
    """Run kat-agent on a node and kill it, with -9, as soon as ``when`` holds."""
    command = _agent_command(lab, node, words)
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(command, env=lab.environment, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        wait_for(lambda: when() or child.poll() is not None, f"{words} is half done", 60, every=0.001)
        assert child.poll() is None, f"{words} ended before it was half done"
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait(10)


def agent(lab: RealLab, node: str, *words: str, check: bool = True) -> str:
    """Run kat-agent on a node; gives what it prints, its errors too."""
    code, said = host.outcome(*_agent_command(lab, node, words), timeout=150, env=lab.environment)
    assert (code == 0) is check, f"{words}: {code} {said}"
    return said


def backed_up(lab: RealLab, folder: Path) -> tuple[Path, Path]:
    """Make a backup and fetch it with its key; gives both files."""
    archive, key = folder / f"{lab.name}.katbackup", folder / f"{lab.name}.key"
    lab.katcall("backup", "create", "--context", f"lab-{lab.name}", "-o", str(archive))
    key.write_text(agent(lab, "n1", "backup-key").splitlines()[0])
    return archive, key


def add_namespace(lab: RealLab, name: str) -> None:
    """Write something that one can look for later."""
    body = {"apiVersion": API, "kind": "Namespace", "metadata": {"name": name}, "spec": {}}
    lab.client.request("PUT", at("namespaces", name), body=json.dumps(body).encode())


_SNIFF = """
import signal, socket, sys
taps = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
print("ready")
while True:
    print(taps.recv(65535).hex())
"""
SAY = "import socket, sys; socket.socket(type=socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), (sys.argv[1], 9))"
_ASK = """
import json, sys, urllib.request
print(json.dumps([urllib.request.urlopen(url, timeout=2).read().decode() for url in sys.argv[1:]]))
"""


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
