"""Labs: clusters of several nodes under measurement. What is done to a node is what ``katcall lab`` does to it.

Without starting ``katcall`` anew for it, though: its own start would be a part of what is measured.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kat_platform.cli.client import Client
from kat_platform.errors import KatError
from kat_platform.lab import trouble, wires
from kat_platform.lab.build import switch_on
from kat_platform.lab.home import Home
from kat_platform.lab.machine import Machine, Part
from kat_platform.lab.plan import Lab
from tests.cluster.host import wait_for
from tests.cluster.lab import RealLab, several

NAME = "web"
EVERY = 0.03


class Cluster:
    """One lab that is up."""

    def __init__(self, lab: RealLab, nodes: int, up_seconds: float) -> None:
        self.lab, self.up_seconds = lab, up_seconds
        self.nodes = tuple(f"n{number}" for number in range(1, nodes + 1))
        self.home = Home(lab.name)

    def machine(self, node: str) -> Machine:
        """Give a machine as it is written down now."""
        written = self.home.load()
        return Machine(self.home, written, written.find(node))

    def space(self, node: str) -> str:
        """Give the path of a node's network namespace."""
        return f"/run/netns/{self.machine(node).namespace}"

    def through(self, *nodes: str) -> Client:
        """Give a client that knows these control-plane nodes only."""
        return self.lab.through(*nodes)

    def leader(self) -> str | None:
        """Name the leader; ``None`` while nobody knows of one."""
        return self.lab.leader()

    # --- what happens to nodes --------------------------------------------------------------------------------

    def power_off(self, node: str) -> None:
        """Cut a node's power."""
        self.machine(node).kill(Part.ALL)

    def start(self, node: str) -> None:
        """Switch a node on, or start its agent where only that is missing."""
        switch_on(self.machine(node))

    def cut(self, node: str) -> None:
        """Pull a node's cable."""
        machine = self.machine(node)
        self._disturb(trouble.cut(machine.lab, machine.node, (), ()), node)

    def heal(self, node: str) -> None:
        """Plug a node's cable in again."""
        machine = self.machine(node)
        self._disturb(trouble.heal(machine.lab, machine.node), node)

    def _disturb(self, changed: Lab, node: str) -> None:
        wires.apply_trouble(changed, changed.find(node))
        self.home.save(changed)

    # --- waiting ----------------------------------------------------------------------------------------------

    def well(self, instances: int | None = None) -> None:
        """Wait until every node is ready and, if told, exactly so many instances, all ready."""
        self.until(lambda: self.lab.ready_nodes() == set(self.nodes), "every node is ready", 90)
        if instances is not None:
            self.until(lambda: self.lab.settled(instances), f"{instances} instances are ready", 120)

    def serving(self) -> None:
        """Wait until every control-plane node serves what the others do, and there is a leader.

        A node that was away for less than the loss timeout counted as ready all the while.
        """
        for number in range(1, len(self.lab.client.context.servers) + 1):
            only = self.through(f"n{number}")
            self.until(lambda c=only: bool(c.get("nodes", consistent=True)), f"n{number} serves", 60)  # type: ignore[misc]
        self.until(lambda: self.leader() is not None, "there is a leader", 30)

    def until(self, look: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for something; an API that does not answer meanwhile is no answer. Fails after ``seconds``."""

        def bold() -> bool:
            try:
                return look()
            except KatError:
                return False

        wait_for(bold, what, seconds, EVERY)

    def web(self, replicas: int) -> None:
        """Have a web server behind a virtual IP, so many times, all ready."""
        self.lab.apply(NAME, replicas=replicas)
        self.well(replicas)

    def gather(self, node: str, count: int) -> int:
        """Have ``count`` instances on a node, by closing the others meanwhile; gives how many there are in all."""
        others = [other for other in self.nodes if other != node]
        for other in others:
            self.lab.katcall("node", "cordon", other)
        missing = count - len(self.lab.on(node))
        if missing > 0:
            self.lab.scale(NAME, len(self.lab.instances()) + missing)
        for other in others:
            self.lab.katcall("node", "uncordon", other)
        return len(self.lab.instances())


@contextmanager
def cluster(nodes: int, control_plane: int = 1) -> Iterator[Cluster]:
    """Bring a lab up, and take it down again whatever happens; raises ``AssertionError`` when something is left."""
    folder = Path(tempfile.mkdtemp(prefix="ktb"))
    before = signal.getsignal(signal.SIGINT)
    try:
        with several(folder) as make, pytest.MonkeyPatch.context() as patch:
            try:
                lab = make(RealLab)
                for name in ("KAT_LAB_HOME", "KAT_CONFIG", "PYTHONPATH"):
                    patch.setenv(name, lab.environment[name])
                took = lab.up(nodes, "--control-plane", str(control_plane))
                yield Cluster(lab, nodes, took)
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # taking down is not interrupted
    finally:
        signal.signal(signal.SIGINT, before)
        shutil.rmtree(folder, ignore_errors=True)


def seconds_until(cluster_: Cluster, look: Callable[[], bool], what: str, began: float, limit: float) -> float:
    """Wait for something; gives the seconds since ``began`` (monotonic)."""
    cluster_.until(look, what, limit)
    return time.monotonic() - began
