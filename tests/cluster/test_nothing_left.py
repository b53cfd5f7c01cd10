"""After a reset nothing of KAT's is on the host, whatever had happened before."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from . import host
from .host import wait_for
from .node import RealNode
from .quadlets import web, workload

MakeNode = Callable[..., RealNode]


def busy(node: RealNode) -> None:
    """Put something of everything on a node."""
    node.make()
    volume = {"volumes": [{"name": "data", "simpleClusterStorage": {}}]}
    mounted = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    ports = [{"name": "http", "port": 80, "containerPort": 8080, "nodePort": 30090}]
    node.apply(web("web", "default", replicas=2, ports=ports))
    node.apply(workload("keeps", "default", container=mounted, **volume))
    node.wait_rolled_out("default", "web")
    node.wait_rolled_out("default", "keeps")


@pytest.mark.slow
def test_reset_after_the_agent_was_killed_leaves_nothing(own_node: MakeNode):
    node = own_node()
    busy(node)
    seen = node.leftovers()
    kinds = {line.split()[0] for line in seen}
    assert kinds >= {"process", "interface", "rules", "mount", "path", "route"}, f"the look sees too little: {kinds}"
    node.stop_agent(signal.SIGKILL)
    (volume,) = [path for path in (node.folder / "volumes").rglob("*") if path.name == "data"]
    (volume / "precious").write_text("kept")
    kept = node.command("reset", "--data-path", str(node.data), "--yes")
    assert kept.returncode == 0, kept.stderr
    assert (volume / "precious").read_text() == "kept"
    left = [line for line in node.leftovers() if not line.startswith(f"path {node.folder / 'volumes'}")]
    assert not left, left
    assert str(node.folder / "volumes") in kept.stdout, "it does not say what it kept"
    assert node.command("reset", "--data-path", str(node.data), "--yes").returncode == 3
    shutil.rmtree(node.folder / "volumes")


@pytest.mark.slow
def test_a_second_cluster_can_be_made_in_the_same_place(own_node: MakeNode):
    node = own_node()
    busy(node)
    first = node.context()["ca"]
    assert node.stop_agent() == 0
    assert node.reset().returncode == 0
    assert not node.leftovers()
    node.init()
    node.forget_credentials()
    node.start_agent()
    node.wait_ready()
    assert node.context()["ca"] != first
    assert not node.api.get("/workloads")["items"]


def test_an_init_that_fails_leaves_nothing(own_node: MakeNode):
    node = own_node(spec={"plugins": {"scheduler": "there-is-none"}})
    done = node.command("init", "--config", str(node.config), "--name", "n1")
    assert done.returncode == 1
    assert "there-is-none" in done.stderr
    assert not node.data.exists()
    assert not (node.folder / "config.json").exists()
    node.config.write_text(node.config.read_text().replace("there-is-none", "binpack"))
    node.config.write_text(node.config.read_text().replace('"spec"', '"sepc"'))
    wrong = node.command("init", "--config", str(node.config))
    assert wrong.returncode in (1, 2)
    assert "spec" in wrong.stderr
    assert not node.data.exists()


def containers_mounts(node: RealNode) -> list[str]:
    """List what is mounted for containers; the storage itself is mounted once and for all."""
    return [point for point in host.mounts_below(node.folder) if not point.endswith("/storage/overlay")]


def lasting_rules(node: RealNode) -> str:
    """Give a node's rules but for addresses that are noted as gone for some seconds, to reset their connections."""
    return re.sub(r"(timeout 30s)\s+elements = \{[^}]*\}", r"\1", host.rules(node.net))


@pytest.mark.slow
def test_deleting_a_workload_leaves_nothing_of_it(own_node: MakeNode):
    node = own_node()
    node.make()
    # The network's own rules and interfaces stand as soon as the node is ready; that is the state to come back to.
    rules, links = lasting_rules(node), host.interfaces(node.net)
    store = Path(next(node.data.glob("drivers/runtime-*/storage")))
    node.apply(web("web", "default", replicas=3))
    node.wait_rolled_out("default", "web")
    assert host.interfaces(node.net) != links
    assert containers_mounts(node)
    assert node.api.ask("DELETE", "/v1alpha1/namespaces/default/workloads/web").status == 202
    wait_for(lambda: not node.api.get("/workloads")["items"], "it is gone")
    wait_for(lambda: host.interfaces(node.net) == links, "its interfaces are gone", 10)
    wait_for(lambda: lasting_rules(node) == rules, "its rules are gone", 10)
    wait_for(lambda: not containers_mounts(node), "its mounts are gone", 10)
    assert not node.instances("default")
    containers = store / "overlay-containers"
    assert not [path for path in containers.iterdir() if path.is_dir()], "containers' folders are left"
    assert "NXDOMAIN" in node.dig("web.default.kat.cluster.local")
    assert not any("conmon" in line for line in node.processes().values())
