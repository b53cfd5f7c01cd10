"""Recorder: threads that write, read, ask and look while a lab is broken, and put down what they saw.

None of them judges: what may be and what must not is for ``checks``, from the history alone.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from kat_platform.cli.client import Client, at
from kat_platform.errors import KatError

from ..quadlets import API
from .history import History
from .looking import Kernel, Running, alive, ask

CELL = "cell-"
"""What the names of the objects begin with that writers write: KAT namespaces, with a number as a label."""
WRITE_SECONDS = 3.0
SETTLED_SECONDS = 3.0
"""An instance is asked by its own address only once it has run, and was reported ready, for this long."""


@dataclass(slots=True)
class View:
    """What the recorder knows at this moment; its threads share it."""

    running: list[Running] = field(default_factory=list)
    since: dict[tuple[int, int], float] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    """Of the instances that were reported ready."""


class Recorder:
    """Runs from entering to leaving. ``through`` gives a client that knows one node only."""

    def __init__(
        self,
        history: History,
        *,
        namespace: str,
        nodes: Sequence[str],
        control_plane: Sequence[str],
        through: Callable[..., Client],
        space: Callable[[str], str],
        virtual: str,
    ) -> None:
        self._history, self._namespace, self._nodes = history, namespace, tuple(nodes)
        self._control_plane, self._through, self._space, self._virtual = tuple(control_plane), through, space, virtual
        self._stop = threading.Event()
        self.view = View()
        self._kernel = Kernel(namespace)
        work: list[tuple[str, Callable[[], None]]] = [("look", self._look), ("leaders", self._leaders)]
        work += [("reports", self._reports), ("read", self._read)]
        work += [(f"write-{node}", lambda n=node: self._write(n)) for node in self._control_plane]  # type: ignore[misc]
        work += [(f"ask-{node}", lambda n=node: self._ask(n)) for node in self._nodes]  # type: ignore[misc]
        self._threads = [threading.Thread(target=do, name=f"kt-{name}", daemon=True) for name, do in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
        late = [thread.name for thread in self._threads if thread.is_alive()]
        assert not late, f"threads of the recorder did not end: {late}"

    # --- writes and reads -----------------------------------------------------------------------------------

    def _write(self, node: str) -> None:
        """Write growing numbers, through one node. After a write of which nobody knows what became of it, to another
        place: it may take effect late, and is not to be taken for a later one undone.
        """
        client, cells = self._through(node), (f"{CELL}{node}-{number}" for number in itertools.count())
        cell, value = next(cells), 0
        while not self._stop.wait(0.3):
            value += 1
            began, outcome, error = time.monotonic(), "acknowledged", ""
            try:
                put(client, cell, value)
            except KatError as problem:
                outcome, error = "unknown", f"{problem.code}: {problem.message}"[:200]
            self._history.add("write", began=began, node=node, cell=cell, value=value, outcome=outcome, error=error)
            if outcome == "unknown":
                cell, value = next(cells), 0
                self._stop.wait(0.5)

    def _read(self) -> None:
        for node in itertools.cycle(self._control_plane):
            if self._stop.wait(1.0):
                return
            self.read(node)

    def read(self, node: str) -> bool:
        """Read everything that was written, through one node; tells whether it answered."""
        began = time.monotonic()
        try:
            items = (
                self._through(node)
                .request("GET", at("namespaces"), params={"consistent": True}, timeout=WRITE_SECONDS)
                .data["items"]
            )
        except KatError as problem:
            self._history.add("read", began=began, node=node, outcome="failed", error=problem.message[:200])
            return False
        cells = {i["name"]: int(_labels(i)["value"]) for i in items if i["name"].startswith(CELL)}
        self._history.add("read", began=began, node=node, outcome="ok", cells=cells)
        return True

    # --- looking --------------------------------------------------------------------------------------------

    def _look(self) -> None:
        while not self._stop.wait(0.25):
            self.look()

    def look(self) -> list[Running]:
        """See what runs now, from the kernel."""
        running, now = self._kernel.running(), time.monotonic()
        self.view.since = {(r.pid, r.start): self.view.since.get((r.pid, r.start), now) for r in running}
        self.view.running = running
        rows = [[r.node, r.workload, r.instance, r.pid, r.start] for r in running]
        self._history.add("runs", at=now, running=rows)
        return running

    def _leaders(self) -> None:
        while not self._stop.wait(0.5):
            said: dict[str, Any] = {}
            for node in self._control_plane:
                try:
                    found = self._through(node).request("GET", at("leader"), timeout=0.5).data["leader"]
                    said[node] = found
                except KatError:
                    said[node] = None
            self._history.add("leaders", said=said)

    def _reports(self) -> None:
        while not self._stop.wait(1.0):
            for node in self._control_plane:
                try:
                    path = at("namespaces", self._namespace, "instances")
                    items = self._through(node).request("GET", path, timeout=2.0).data["items"]
                except KatError:
                    continue
                self.view.addresses = {i["name"]: i["status"]["address"] for i in items if i["ready"]}
                break

    # --- clients --------------------------------------------------------------------------------------------

    def _ask(self, node: str) -> None:
        """Ask from one node: from the node itself or a container on it, a virtual IP or an instance's own address."""
        chance = random.Random(node)
        while not self._stop.wait(0.15):
            mine = [r for r in self.view.running if r.node == node]
            source = chance.choice(mine) if mine and chance.random() < 0.5 else None
            target = self._target(chance) if chance.random() < 0.5 else None
            self.ask(node, source, target)

    def _target(self, chance: random.Random) -> Running | None:
        view, ripe = self.view, time.monotonic() - SETTLED_SECONDS
        fit = [
            r for r in view.running if r.instance in view.addresses and view.since.get((r.pid, r.start), ripe) < ripe
        ]
        return chance.choice(fit) if fit else None

    def ask(self, node: str, source: Running | None, target: Running | None) -> None:
        """Send one request and put down what became of it."""
        space = f"/proc/{source.pid}/ns/net" if source else self._space(node)
        address, port = (self.view.addresses.get(target.instance, ""), 8080) if target else (self._virtual, 80)
        if not address:
            return
        began, outcome, by = time.monotonic(), "ok", ""
        try:
            by = ask(space, address, port, "/cgi-bin/who").split()[0]
        except (OSError, IndexError) as error:
            outcome = f"{type(error).__name__}: {error}"[:120]
        if outcome != "ok" and source is not None and not alive(source):
            outcome = "asker-gone"
        if outcome != "ok" and target is not None and not alive(target):
            outcome = "target-gone"
        self._history.add(
            "request",
            began=began,
            node=node,
            source=source.instance if source else "",
            target=[target.node, target.instance] if target else None,
            by=by,
            outcome=outcome,
        )


def put(client: Client, cell: str, value: int) -> None:
    """Write a number to a cell."""
    metadata = {"name": cell, "labels": {"value": str(value)}}
    body = {"apiVersion": API, "kind": "Namespace", "metadata": metadata, "spec": {}}
    client.request("PUT", at("namespaces", cell), body=json.dumps(body).encode(), timeout=WRITE_SECONDS)


def _labels(item: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = item["document"]["metadata"]["labels"]
    return found
