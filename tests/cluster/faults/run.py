"""Run: breaks a lab by a schedule under load, waits until it is well again after each fault, and writes it all down."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kat_platform.cli.client import Client
from kat_platform.errors import KatError
from kat_platform.quadlet.archive import pack_files

from ..lab import RealLab
from ..quadlets import document, web, workload
from .checks import SETTLE_SECONDS
from .history import History
from .recorder import Recorder
from .schedule import Fault, Victim

CONTROL_PLANE = 3
VOLUME = {"volumes": [{"name": "data", "simpleClusterStorage": {}}]}
MOUNT = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
GIVEN_UP_SECONDS = 2 * SETTLE_SECONDS


class FaultLab(RealLab):
    """A lab of which three nodes are control plane."""

    def lab(self, verb: str, *words: str, **options: Any) -> str:
        """Run a verb of ``katcall lab`` on this lab."""
        more = ("--control-plane", str(CONTROL_PLANE)) if verb == "up" else ()
        return super().lab(verb, *words, *more, **options)

    def through(self, *nodes: str) -> Client:
        """Give a client that knows these nodes only."""
        servers = sorted(self.client.context.servers)
        return Client(replace(self.client.context, servers=tuple(servers[int(node[1:]) - 1] for node in nodes)))

    def space(self, node: str) -> str:
        """Where a node's network namespace is."""
        return f"/run/netns/kl-{self.name}-{node[1:]}"

    def log(self, node: str) -> Path:
        """Where a node's agent writes."""
        return self.folder / self.name / node / "agent.log"


class Run:
    """One fault run on a lab that is up; ``folder`` gets the history, and the logs when ``keep`` is called."""

    def __init__(self, lab: FaultLab, folder: Path, *, nodes: int, webs: int) -> None:
        self.lab, self.folder, self.namespace = lab, folder, lab.name
        self.nodes = tuple(f"n{number}" for number in range(1, nodes + 1))
        self.control_plane = self.nodes[:CONTROL_PLANE]
        self.wanted = {
            "web": {"replicas": webs, "pinned": False},
            "data": {"replicas": 1, "pinned": True},
            "each": {"replicas": nodes, "pinned": False},
        }
        folder.mkdir(parents=True)
        self.path = folder / "history.jsonl"

    def make_workloads(self) -> None:
        """Apply what shall run, and wait until it does."""
        space = self.namespace
        self.lab.client.request("POST", "/v1alpha1/apply", body=_packed({"n.kat": document("Namespace", space)}))
        made = (
            web("web", space, replicas=self.wanted["web"]["replicas"]),
            workload("data", space, container=MOUNT, **VOLUME),
            workload("each", space, type="DaemonService"),
        )
        for files in made:
            self.lab.client.request("POST", "/v1alpha1/apply", body=_packed(files))

    def go(self, faults: Sequence[Fault], *, seed: int) -> None:
        """Do the faults in turn. Raises nothing for what went wrong with the cluster: that is in the history."""
        with History(self.path) as history:
            history.add("wanted", workloads=self.wanted, seed=seed, nodes=self.nodes)
            with Recorder(
                history,
                namespace=self.namespace,
                nodes=self.nodes,
                control_plane=self.control_plane,
                through=self.lab.through,
                space=self.lab.space,
                virtual=self.lab.client.get("namespaces", self.namespace, "workloads", "web")["virtualIp"],
            ) as recorder:
                for number, fault in enumerate(faults, 1):
                    time.sleep(fault.pause)
                    self._strike(history, number, fault)
                    if not self.wait_settled(history, recorder, number):
                        break
                time.sleep(1.0)
                for node in self.control_plane:
                    recorder.read(node)
            self._add_changes(history)

    def _strike(self, history: History, number: int, fault: Fault) -> None:
        nodes, kind = self._victims(fault.victim), fault.kind
        others = [node for node in self.nodes if node not in nodes]
        history.add("fault", number=number, name=kind.name, nodes=nodes, reach=kind.reach.value, hold=fault.hold)
        began = time.monotonic()
        for node in nodes:
            self.lab.lab(kind.make[0], node, *kind.make[1:], *_from(others if kind.from_others else ()))
        time.sleep(max(0.0, fault.hold - (time.monotonic() - began)))
        history.add("healing", number=number)
        for node in nodes if kind.heal else ():
            self.lab.lab(kind.heal[0], node, *kind.heal[1:])
        history.add("healed", number=number)

    def _victims(self, victim: Victim | str) -> list[str]:
        """Say who is meant, at this moment."""
        if victim not in tuple(Victim):
            return [str(victim)]
        leader = str(self.lab.through(*self.control_plane).get("leader")["leader"])
        return {
            Victim.LEADER: [leader],
            Victim.FOLLOWER: [node for node in self.control_plane if node != leader][-1:],
            Victim.WORKER: list(self.nodes[-1:]),
            Victim.ALL: list(self.nodes),
        }[Victim(victim)]

    def wait_settled(self, history: History, recorder: Recorder, number: int) -> bool:
        """Wait until everything is as it should be; tells whether it is, and puts down what it lacked."""
        deadline, lacking = time.monotonic() + GIVEN_UP_SECONDS, ["nothing was looked at"]
        while lacking and time.monotonic() < deadline:
            time.sleep(0.2)
            lacking = self._lacking(recorder)
        history.add("stuck" if lacking else "settled", number=number, lacking=lacking)
        return not lacking

    def _lacking(self, recorder: Recorder) -> list[str]:
        """Say what is not as it should be, from the kernel first, then through every server."""
        counted = Counter(found.workload for found in recorder.look())
        wanted = {name: int(spec["replicas"]) for name, spec in self.wanted.items()}
        if counted != wanted:
            return [f"there run {dict(counted)}, wanted are {wanted}"]
        leaders = set()
        for node in self.control_plane:
            client = self.lab.through(node)
            try:
                items = client.request("GET", "/v1alpha1/nodes", params={"consistent": True}, timeout=3).data["items"]
                path = f"/v1alpha1/namespaces/{self.namespace}/instances"
                found = client.request("GET", path, params={"consistent": True}, timeout=3).data["items"]
                leaders.add(client.get("leader")["leader"])
            except KatError as error:
                return [f"{node}: {error.message}"]
            if away := [item["name"] for item in items if not item["ready"]]:
                return [f"{node}: not ready are the nodes {away}"]
            if idle := [f"{i['name']} {i['phase']}" for i in found if not i["ready"]]:
                return [f"{node}: not ready are the instances {idle}"]
            if len(found) != sum(wanted.values()):
                return [f"{node}: there are {len(found)} instances"]
        return [] if len(leaders) == 1 and None not in leaders else [f"leaders are {leaders}"]

    def _add_changes(self, history: History) -> None:
        """Put down what each leader says that the store accepted of it."""
        for node in self.control_plane:
            for line in self.lab.log(node).read_text(errors="replace").splitlines():
                entry = _parsed(line)
                if entry.get("event") == "change" and "term" in entry:
                    history.add("change", node=node, term=entry["term"], revision=entry["revision"])

    def keep(self, place: Path) -> None:
        """Copy the history and what every node said to a folder that outlives the test."""
        shutil.copytree(self.folder, place, dirs_exist_ok=True)
        for node in self.nodes:
            if self.lab.log(node).exists():
                shutil.copy(self.lab.log(node), place / f"{node}.log")


def _from(nodes: Sequence[str]) -> list[str]:
    return [word for node in nodes for word in ("--from", node)]


def _packed(files: dict[str, str]) -> bytes:
    return pack_files({name: text.encode() for name, text in files.items()})


def _parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
