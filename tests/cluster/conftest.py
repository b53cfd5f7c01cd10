"""One complete node for all tests that can share one, and a KAT namespace for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from . import host
from .host import wait_for
from .lab import RealLab
from .node import RealNode, fresh_name
from .quadlets import document, web, workload


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs real parts, but for the decisions about fault runs."""
    for item in items:
        if "tests/cluster" in str(item.path) and "tests/cluster/faults" not in str(item.path):
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def shared_node() -> Iterator[RealNode]:
    """A node that lives as long as the run; whatever it leaves behind at its end is a failure."""
    node = RealNode()
    try:
        node.make()
        yield node
    except BaseException:
        print(node.tail(100))
        node.remove()
        raise
    left = node.remove()
    assert not left, left


@pytest.fixture
def node(shared_node: RealNode) -> RealNode:
    """The shared node, made well again if an earlier test left it without its agent."""
    if shared_node.agent is None or shared_node.agent.poll() is not None:
        shared_node.start_agent()
    shared_node.wait_ready()
    return shared_node


@pytest.fixture
def own_node() -> Iterator[Callable[..., RealNode]]:
    """Makes nodes for one test alone; not started."""
    made: list[RealNode] = []

    def make(**options: Any) -> RealNode:
        made.append(RealNode(**options))
        return made[-1]

    yield make
    left = [line for one in made for line in one.remove()]
    assert not left, left


@dataclass(frozen=True, slots=True)
class Place:
    """A KAT namespace of the shared node's for one test."""

    node: RealNode
    name: str

    def web(self, name: str = "web", **options: Any) -> Any:
        """Apply a web server."""
        return self.node.apply(web(name, self.name, **options))

    def service(self, name: str = "job", **options: Any) -> Any:
        """Apply a workload without a load balancer."""
        return self.node.apply(workload(name, self.name, **options))

    def rolled_out(self, name: str = "web", seconds: float = 60.0) -> Any:
        """Wait until a workload is as it should be."""
        return self.node.wait_rolled_out(self.name, name, seconds)

    def post(self, name: str, verb: str, body: Any = None) -> Any:
        """Ask something of a workload: scale, restart, rollback …"""
        return self.node.api.need("POST", f"/namespaces/{self.name}/workloads/{name}/{verb}", body or {})

    def instances(self, name: str | None = None) -> list[Any]:
        """Give the instances."""
        return self.node.instances(self.name, name)

    def node_pids_from_kernel(self) -> dict[int, int]:
        """Give the processes of this namespace's web servers and their start times, without asking KAT."""
        found = {}
        for pid, line in self.node.processes().items():
            if line.endswith("/bin/serve"):
                found[pid] = host.start_time(pid)
        return found

    def delete(self, name: str, seconds: float = 40.0) -> None:
        """Delete a workload and wait until nothing of it is left."""
        path = f"/namespaces/{self.name}/workloads/{name}"
        if self.node.api.ask("DELETE", f"/v1alpha1{path}").status == 404:
            return
        wait_for(lambda: self.node.api.ask("GET", f"/v1alpha1{path}").status == 404, f"{name} is deleted", seconds)
        wait_for(lambda: not self.instances(name), f"the instances of {name} are gone", seconds)


@pytest.fixture
def place(node: RealNode) -> Iterator[Place]:
    """A namespace on the shared node; everything in it is deleted at the end."""
    name = fresh_name("t")
    node.apply({"namespace.kat": document("Namespace", name)})
    place = Place(node, name)
    yield place
    if node.agent is None or node.agent.poll() is not None:
        node.start_agent()
    node.wait_ready()
    for item in node.api.get(f"/namespaces/{name}/workloads")["items"]:
        node.api.ask("DELETE", f"/v1alpha1/namespaces/{name}/workloads/{item['name']}")
    for item in node.api.get(f"/namespaces/{name}/workloads")["items"]:
        place.delete(item["name"])
    assert node.api.ask("DELETE", f"/v1alpha1/namespaces/{name}").status < 300
    assert node.agent is not None
    assert node.agent.poll() is None, node.tail()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Put the end of every agent's log into the report of a failed test."""
    outcome: Any = yield
    report = outcome.get_result()
    node = getattr(item, "funcargs", {}).get("shared_node")
    if report.failed and isinstance(node, RealNode):
        report.sections.append(("agent", node.tail(60)))
    if report.failed:
        for lab in RealLab.known:
            report.sections += [(f"agent of {node} in {lab.name}", text) for node, text in lab.tails(60).items()]
