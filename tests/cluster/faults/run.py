"""Run: breaks a lab by a schedule under load, waits until it is well again after each fault, and writes it all down."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kat_platform.errors import KatError
from kat_platform.quadlet.archive import pack_files

from ..lab import RealLab
from ..quadlets import document, web, workload
from .checks import SETTLE_SECONDS
from .history import History
from .recorder import Recorder
from .schedule import Fault, Step, Victim

CONTROL_PLANE = 3
DISK_MIB = 400
VOLUME = {"volumes": [{"name": "data", "simpleClusterStorage": {}}]}
MOUNT = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
GIVEN_UP_SECONDS = 2 * SETTLE_SECONDS


class FaultLab(RealLab):
    """A lab of which three nodes are control plane."""

    def lab(self, verb: str, *words: str, **options: Any) -> str:
        """Run a verb of ``katcall lab`` on this lab."""
        more = ("--control-plane", str(CONTROL_PLANE), "--disk", str(DISK_MIB)) if verb == "up" else ()
        return super().lab(verb, *words, *more, **options)

    def space(self, node: str) -> str:
        """Where a node's network namespace is."""
        return f"/run/netns/kl-{self.name}-{node[1:]}"


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

    def go(self, steps: Sequence[Step], *, seed: int) -> None:
        """Do the steps in turn. Raises nothing for what went wrong with the cluster: that is in the history."""
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
                numbers = itertools.count(1)
                for step in steps:
                    time.sleep(1.0)
                    struck = {next(numbers): fault for fault in step}
                    self._strike(history, struck)
                    if not self.wait_settled(history, recorder, list(struck)):
                        break
                time.sleep(1.0)
                for node in self.control_plane:
                    recorder.read(node)
            self._add_changes(history)

    def _strike(self, history: History, step: dict[int, Fault]) -> None:
        """Make the faults of a step and heal them, each at its time; ``step`` has their numbers."""
        due = [(fault.at, 0, number) for number, fault in step.items()]
        due += [(fault.at + fault.hold, 1, number) for number, fault in step.items()]
        nodes: dict[int, list[str]] = {}
        began = time.monotonic()
        for moment, healing, number in sorted(due):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            if healing:
                self._heal(history, number, step[number], nodes[number])
            else:
                taken = {node for number in nodes for node in nodes[number]}
                nodes[number] = [node for node in self._victims(step[number].victim, taken) if node not in taken]
                self._make(history, number, step[number], nodes[number])

    def _make(self, history: History, number: int, fault: Fault, nodes: list[str]) -> None:
        kind = fault.kind
        others = [node for node in self.nodes if node not in nodes]
        history.add("fault", number=number, name=kind.name, nodes=nodes, reach=kind.reach.value, hold=fault.hold)
        for node in nodes:
            self.lab.lab(kind.make[0], node, *kind.make[1:], *_from(others if kind.from_others else ()))

    def _heal(self, history: History, number: int, fault: Fault, nodes: list[str]) -> None:
        kind = fault.kind
        history.add("healing", number=number)
        for node in nodes if kind.heal else ():
            self.lab.lab(kind.heal[0], node, *kind.heal[1:])
        history.add("healed", number=number)

    def _victims(self, victim: Victim | str, taken: set[str]) -> list[str]:
        """Say who is meant, at this moment; of those that are struck already nobody is struck again."""
        if victim not in tuple(Victim):
            return [str(victim)]
        if victim is Victim.ALL:
            return list(self.nodes)
        if victim is Victim.WORKER:
            return [node for node in self.nodes[CONTROL_PLANE:] if node not in taken][-1:]
        free = [node for node in self.control_plane if node not in taken]
        leader = self._leader(free)
        if victim is Victim.LEADER:
            return [leader] if leader in free else free[:1]
        return [node for node in free if node != leader][-1:]

    def _leader(self, asked: Sequence[str]) -> str | None:
        for node in asked:
            try:
                found = self.lab.through(node).request("GET", "/v1alpha1/leader", timeout=1).data["leader"]
            except KatError:
                continue
            if found:
                return str(found)
        return None

    def wait_settled(self, history: History, recorder: Recorder, numbers: Sequence[int]) -> bool:
        """Wait until everything is as it should be; tells whether it is, and puts down what it lacked."""
        deadline, lacking = time.monotonic() + GIVEN_UP_SECONDS, ["nothing was looked at"]
        while lacking and time.monotonic() < deadline:
            time.sleep(0.2)
            lacking = self._lacking(recorder)
        for number in numbers:
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
