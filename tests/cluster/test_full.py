"""No space: in the store's quota, or on its disk. Told clearly, and KAT goes on once there is room again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .host import run, wait_for
from .node import RealNode
from .quadlets import web, workload

MakeNode = Callable[..., RealNode]


def fat(turn: int) -> dict[str, str]:
    """Give a workload of 60 KiB that runs nothing."""
    env = [{"name": f"V{n}", "value": f"{turn}-{n}-" + "x" * 900} for n in range(60)]
    return workload(f"fat-{turn}", "default", replicas=0, container={"env": env})


def fill(node: RealNode, most: int) -> dict[str, Any]:
    """Apply large workloads until one is refused; gives its problem."""
    for turn in range(most):
        answer = node.api.apply(fat(turn))
        if answer.status >= 300:
            found: dict[str, Any] = answer.data
            return found
    raise AssertionError(f"{most} large workloads and nothing is full")


def delete_fat(node: RealNode) -> None:
    """Delete them again."""
    for item in node.api.get("/namespaces/default/workloads")["items"]:
        if item["name"].startswith("fat-"):
            node.api.ask("DELETE", f"/v1alpha1/namespaces/default/workloads/{item['name']}")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_full_store_is_told_and_what_runs_goes_on(own_node: MakeNode):
    node = own_node(spec={"pluginConfig": {"etcd": {"quotaMib": 16}}})
    node.make()
    node.apply(web("web", "default", replicas=2))
    node.wait_rolled_out("default", "web")
    before = node.pids("default", "web")
    problem = fill(node, 400)
    assert problem["code"] == "store-full", problem
    assert problem["status"] == 507
    assert node.api.ask("GET", "/v1alpha1/workloads").status == 200
    assert node.pids("default", "web") == before
    told = node.katcall("scale", "web", "--replicas", "3")
    assert told.returncode not in (0, 2)
    assert "Traceback" not in told.stderr
    assert node.agent is not None
    assert node.agent.poll() is None, node.tail()
    delete_fat(node)  # removing is the way out
    wait_for(
        lambda: node.api.ask("POST", "/v1alpha1/namespaces/default/workloads/web/scale", {"replicas": 3}).status == 200,
        "writes are taken again",
        60,
        every=0.5,
    )
    node.wait_rolled_out("default", "web")
    assert before.items() <= node.pids("default", "web").items()


@pytest.fixture
def small_disk() -> Iterator[Callable[[RealNode], Path]]:
    """Puts a node's data on a small file system in memory."""
    mounted: list[Path] = []

    def mount(node: RealNode) -> Path:
        node.data.mkdir(mode=0o700)
        run("mount", "-t", "tmpfs", "-o", "size=300m,mode=0700", "kt-small-disk", str(node.data))
        mounted.append(node.data)
        node.own_mounts.add(str(node.data))
        return node.data

    yield mount
    for path in mounted:
        run("umount", "--lazy", str(path), check=False)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_full_disk_is_told_and_what_runs_goes_on(small_disk: Callable[[RealNode], Path], own_node: MakeNode):
    node = own_node()
    data = small_disk(node)
    node.make()
    node.apply(web("web", "default", replicas=2))
    node.wait_rolled_out("default", "web")
    before = node.pids("default", "web")
    filler = data / "filler"
    run("sh", "-c", f"cat /dev/zero > {filler}", check=False)
    # The store writes into space it has set aside, so it takes a while until it notices.
    problem = fill(node, 600)
    assert problem["code"] in ("store", "store-full", "unavailable", "timed-out"), problem
    assert all(Path(f"/proc/{pid}").exists() for pid, _ in before.values()), "a full disk ended containers"
    filler.unlink()
    if node.agent is not None and node.agent.poll() is not None:
        node.start_agent()
    node.wait_ready(60)
    wait_for(
        lambda: node.api.ask("POST", "/v1alpha1/namespaces/default/workloads/web/scale", {"replicas": 3}).status == 200,
        "writes are taken again",
        60,
        every=0.5,
    )
    node.wait_rolled_out("default", "web")
    assert before.items() <= node.pids("default", "web").items()
