"""A complete KAT node in a network namespace of its own: real agent, store, runtime, network and name server."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kat_platform.testing.netns import Namespace

from . import host, images
from .client import Api, Files, trust
from .host import run, wait_for
from .quadlets import document
from .site import python_path

ADDRESS = "192.0.2.1"
OUTSIDE = "192.0.2.2"
READY_SECONDS = 45.0
DOMAIN = "kat.cluster.local"


class RealNode:
    """One node. ``make`` it, use it, ``remove`` it: that works however far it got, and tells what was left behind."""

    def __init__(self, *, name: str = "n1", spec: Mapping[str, Any] | None = None, path: str = "") -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="kt"))
        self.data = self.folder / "data"
        self.log = self.folder / "agent.log"
        self.space, self.outside = Namespace(), Namespace()
        self.agent: subprocess.Popen[bytes] | None = None
        self.tag = ""
        self.own_mounts: set[str] = set()
        """Mounts the test itself made: not KAT's to remove."""
        self._api: Api | None = None
        paths = [python_path(self.folder / "site")]
        self.environment = {
            **os.environ,
            "KAT_CONFIG": str(self.folder / "config.json"),
            "PYTHONPATH": os.pathsep.join(filter(None, [path, *paths])),
        }
        base = {
            "dataPath": str(self.data),
            "volumeBasePath": str(self.folder / "volumes"),
            "backupPath": str(self.folder / "backups"),
        }
        self.config = self.folder / "cluster.kat"
        self.config.write_text(document("ClusterConfiguration", "kt", spec={**base, **(spec or {})}))
        self._wire_up()
        self.before = (host.interfaces(self.net), host.rules(self.net), host.routes(self.net))

    @property
    def net(self) -> str:
        """Path of the node's network namespace."""
        return self.space.path

    @property
    def inode(self) -> int:
        """Number of the node's network namespace."""
        return os.stat(self.net).st_ino

    def _wire_up(self) -> None:
        """Give the node an uplink to a host outside, which is all there is of the world."""
        inside = ("nsenter", f"--net={self.net}", "ip")
        beyond = ("nsenter", f"--net={self.outside.path}", "ip")
        run(*inside, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.outside.path)
        for ip, address in ((inside, ADDRESS), (beyond, OUTSIDE)):
            run(*ip, "address", "add", f"{address}/24", "dev", "eth0")
            run(*ip, "link", "set", "eth0", "addrgenmode", "none", "up")
        run(*inside, "route", "add", "default", "via", OUTSIDE)

    # --- life -----------------------------------------------------------------------------------------------------

    def program(self, name: str) -> list[str]:
        """Give the command line of ``katcall`` or ``kat-agent`` as it runs on this node."""
        script = Path(sys.executable).with_name(name)
        module = {"katcall": "main", "kat-agent": "agent_main"}[name]
        own = [str(script)] if script.exists() else [sys.executable, "-m", f"kat_platform.cli.{module}"]
        return ["nsenter", f"--net={self.net}", *own]

    def command(self, *arguments: str, timeout: float = 90, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run ``kat-agent ARGUMENTS`` to its end."""
        whole = [*self.program("kat-agent"), *arguments]
        return subprocess.run(
            whole, env=self.environment, cwd="/", capture_output=True, text=True, timeout=timeout, **more
        )

    def katcall(self, *arguments: str, timeout: float = 90, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run ``katcall ARGUMENTS`` to its end, as a user on this node would."""
        whole = [*self.program("katcall"), *arguments]
        return subprocess.run(
            whole, env=self.environment, cwd="/", capture_output=True, text=True, timeout=timeout, **more
        )

    def init(self) -> None:
        """Make the cluster."""
        done = self.command("init", "--config", str(self.config), "--name", self.name)
        assert done.returncode == 0, f"init: {done.returncode} {done.stderr[-3000:]}"
        self.tag = json.loads((self.data / "node.json").read_text())["tag"]

    def start_agent(self) -> None:
        """Start the agent in the background."""
        assert self.agent is None or self.agent.poll() is not None, "the agent runs already"
        with self.log.open("ab") as log:
            self.agent = subprocess.Popen(
                [*self.program("kat-agent"), "run", "--data-path", str(self.data)],
                env=self.environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def make(self) -> RealNode:
        """Do everything until the node is ready and has the images."""
        self.init()
        self.start_agent()
        self.wait_ready()
        self.load_images()
        return self

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until the API serves and the node may take instances."""

        def ready() -> bool:
            if self.agent is None or self.agent.poll() is not None:
                raise RuntimeError(f"the agent ended: {self.tail()}")
            return bool(self.api.get(f"/nodes/{self.name}")["ready"])

        wait_for(ready, "the node is ready", seconds)

    def stop_agent(self, number: int = signal.SIGTERM, seconds: float = 30.0) -> int:
        """End the agent and give its exit code."""
        assert self.agent is not None
        self.agent.send_signal(number)
        return self.agent.wait(seconds)

    def load_images(self) -> None:
        """Put the tests' images into the node's own image store."""
        done = subprocess.run(
            [*self.inside(), "podman", "load", "--quiet"],
            input=images.archive(),
            env=self.store_environment(),
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr.decode()

    def store_environment(self) -> dict[str, str]:
        """Give the environment in which Podman's command line works on this node's own storage."""
        conf = next(self.data.glob("drivers/*/etc/storage.conf")).parent
        names = {"CONTAINERS_CONF": "containers", "CONTAINERS_STORAGE_CONF": "storage"}
        paths = {variable: str(conf / f"{name}.conf") for variable, name in names.items()}
        return {**self.environment, **paths, "CONTAINERS_REGISTRIES_CONF": str(conf / "registries.conf")}

    def inside(self) -> tuple[str, ...]:
        """Give the words that put a command into the node's network namespace."""
        return ("nsenter", f"--net={self.net}")

    # --- the API --------------------------------------------------------------------------------------------------

    def context(self) -> dict[str, Any]:
        """Give the administrator's context that ``init`` wrote."""
        written = json.loads((self.folder / "config.json").read_text())
        found: dict[str, Any] = written["contexts"][written["current"]]
        return found

    @property
    def api(self) -> Api:
        """The API as the administrator, on loopback."""
        if self._api is None:
            self._api = self.caller()
        return self._api

    def forget_credentials(self) -> None:
        """Read the administrator's credentials anew: the cluster was made anew."""
        self._api = None
        (self.folder / "admin.pem").unlink(missing_ok=True)

    def caller(self, *, space: Namespace | None = None, host: str = "127.0.0.1") -> Api:
        """Make another client with the administrator's certificate, e.g. for another thread."""
        context, credential = self.context(), self.folder / "admin.pem"
        if not credential.exists():
            credential.touch(mode=0o600)
            credential.write_text(f"{context['certificate']}\n{context['key']}\n")
        return Api(space or self.space, trust(context["ca"], credential), host=host)

    def apply(self, files: Files) -> Any:
        """Apply a Quadlet that must be accepted; gives the answer."""
        answer = self.api.apply(files)
        assert answer.status in (200, 201), f"{answer.status} {json.dumps(answer.data)[:1500]}"
        return answer.data

    def workload(self, namespace: str, name: str) -> Any:
        """Give a workload."""
        return self.api.get(f"/namespaces/{namespace}/workloads/{name}")

    def instances(self, namespace: str, name: str | None = None) -> list[Any]:
        """Give the instances of a namespace or one of its workloads."""
        found = self.api.get(f"/namespaces/{namespace}/instances")["items"]
        return [item for item in found if name in (None, item["workload"])]

    def ready_instances(self, namespace: str, name: str) -> list[Any]:
        """Give the instances that get traffic."""
        return [item for item in self.instances(namespace, name) if item["ready"]]

    def wait_rolled_out(self, namespace: str, name: str, seconds: float = 60.0) -> Any:
        """Wait until a workload has exactly the ready instances of its newest revision that it wants; gives it."""

        def done() -> Any:
            if self.agent is not None and self.agent.poll() is not None:
                raise RuntimeError(f"the agent ended: {self.tail()}")
            item = self.workload(namespace, name)
            summary, rollout = item["summary"], item.get("rollout", {})
            same = {summary[key] for key in ("wanted", "updated", "ready", "available")}
            settled = rollout.get("state") in ("Complete", "RolledBack")
            following = rollout.get("generation", 0) == item["record"].get("generation", 0)
            exact = len(self.instances(namespace, name)) == summary["wanted"]
            return item if len(same) == 1 and settled and following and exact else None

        try:
            return wait_for(done, f"{namespace}/{name} is rolled out", seconds)
        except AssertionError as error:
            item = self.workload(namespace, name)
            states = [
                (i["name"], i["phase"], i.get("status", {}).get("message")) for i in self.instances(namespace, name)
            ]
            raise AssertionError(f"{error}\n{item['summary']} {item.get('rollout')}\n{states}\n{self.tail()}") from None

    def virtual_ip(self, namespace: str, name: str) -> str:
        """Give a workload's virtual IP."""
        return str(self.workload(namespace, name)["virtualIp"])

    def pids(self, namespace: str, name: str | None = None) -> dict[str, tuple[int, int]]:
        """Give process and start time of every running instance, as the kernel has them."""
        found = {}
        for item in self.instances(namespace, name):
            pid = item.get("status", {}).get("pid")
            if pid and host.alive(pid):
                found[item["name"]] = (pid, host.start_time(pid))
        return found

    def events(self, namespace: str, reason: str | None = None) -> list[Any]:
        """Give the events of a namespace."""
        found = self.api.get(f"/namespaces/{namespace}/events")["items"]
        return [item["event"] for item in found if reason in (None, item["event"]["reason"])]

    # --- what runs ------------------------------------------------------------------------------------------------

    def processes(self) -> dict[int, str]:
        """Give every process of this node's, containers included."""
        marks = [str(self.folder)] + ([f"/run/kat/{self.tag}/"] if self.tag else [])
        found = host.processes_of(self.inode, marks)
        return {pid: line for pid, line in found.items() if pid != os.getpid()}

    def process(self, *words: str) -> int:
        """Give the one process of this node's whose command line has all of the words."""
        found = [pid for pid, line in self.processes().items() if all(word in line for word in words)]
        assert len(found) == 1, f"{words}: {[(pid, host.command_line(pid)) for pid in found]}"
        return found[0]

    def dig(self, *arguments: str) -> str:
        """Ask the node's name server."""
        return run(*self.inside(), "dig", "@10.100.0.1", "+tries=2", "+time=2", *arguments)

    def tail(self, lines: int = 40) -> str:
        """Give the end of the agent's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    # --- the end --------------------------------------------------------------------------------------------------

    def reset(self) -> subprocess.CompletedProcess[str]:
        """Run ``kat-agent reset``, volumes included."""
        return self.command("reset", "--data-path", str(self.data), "--yes", "--delete-volumes")

    def leftovers(self) -> list[str]:
        """List what is still there of the node; right after a reset it must be nothing."""
        left = [f"process {pid} {line[:200]}" for pid, line in self.processes().items()]
        before_links, before_rules, before_routes = self.before
        left += [f"interface {name}" for name in host.interfaces(self.net) - before_links]
        if host.rules(self.net) != before_rules:
            left.append(f"rules {host.rules(self.net)[:500]}")
        left += [f"route {line}" for line in host.routes(self.net) - before_routes]
        run_folder = Path("/run/kat", self.tag or "nothing")
        mounts = host.mounts_below(self.folder, run_folder)
        left += [f"mount {point}" for point in mounts if point not in self.own_mounts]
        paths = [path for path in (self.data, run_folder, self.folder / "volumes") if path.exists()]
        left += [f"path {path}" for path in paths if str(path) not in self.own_mounts or any(path.iterdir())]
        if self.tag:
            left += [f"control group {path}" for path in host.control_groups(self.tag)]
            for folder in ("/run", "/run/wireguard", "/run/netns", "/tmp", "/dev/shm"):
                if Path(folder).is_dir():
                    left += [f"path {path}" for path in Path(folder).iterdir() if self.tag in path.name]
        return left

    def remove(self) -> list[str]:
        """Take everything away; gives what ``kat-agent reset`` had left behind."""
        left: list[str] = []
        try:
            if self._api is not None:
                self._api.close()
            if self.agent is not None and self.agent.poll() is None:
                try:
                    self.stop_agent()
                except subprocess.TimeoutExpired:
                    left.append(f"the agent did not end: {self.tail()}")
                    self.agent.kill()
                    self.agent.wait(5)
            if (self.data / "node.json").exists():
                done = self.reset()
                if done.returncode:
                    left.append(f"reset: {done.stderr[-2000:]}")
            time.sleep(0.1)  # a process that has been told to end may take a moment
            left += self.leftovers()
        finally:
            self._force()
        return left

    def _force(self) -> None:
        host.end(self.processes())
        for point in reversed(host.mounts_below(self.folder, Path("/run/kat", self.tag or "nothing"))):
            run("umount", "--lazy", point, check=False)
        self.space.close()
        self.outside.close()
        if self.tag:
            shutil.rmtree(f"/run/kat/{self.tag}", ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def fresh_name(prefix: str) -> str:
    """Give a name no other test has."""
    return f"{prefix}-{secrets.token_hex(3)}"
