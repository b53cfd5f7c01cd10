"""A hook plugin on a real node: asked and told by the running agent, the API and katcall."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .host import wait_for
from .node import RealNode
from .quadlets import workload
from .site import add_distribution

PLUGIN = """
import json
import os

import click
from aiohttp import web

from kat_platform.hooks import AdmissionReply, ApiRoute, HookInfo, NodeFacts, hookimpl
from kat_platform.interfaces.scheduler import Contributions

HEARD = os.path.join(os.path.dirname(__file__), "heard")


def hear(**what):
    with open(HEARD, "a") as file:
        file.write(json.dumps(what) + "\\n")


class Watcher:
    info = HookInfo(name="watcher", version="1.0")

    @hookimpl
    async def admit_workload(self, change):
        if change.name == "unwanted":
            return AdmissionReply.reject("nobody wants it")

    @hookimpl
    async def scheduler_contributions(self):
        picky = lambda demand, node: "it is no place for picky ones" if demand.workload == "picky" else None
        return Contributions((("picky", picky),))

    @hookimpl
    async def node_facts(self):
        return NodeFacts({"disk": "ssd"}, {"disks": 1})

    @hookimpl
    async def cli_commands(self):
        return [click.Command("watched", callback=lambda: click.echo("all is watched"), help="Tell what is watched.")]

    @hookimpl
    async def api_routes(self):
        async def tell(request):
            return web.json_response({"who": request["identity"].name})
        return [ApiRoute("GET", "tell", tell)]

    @hookimpl
    async def instance_changed(self, change):
        hear(hook="instance", instance=change.instance, phase=change.phase, ready=change.ready)

    @hookimpl
    async def event_recorded(self, event):
        hear(hook="event", reason=event.reason)

    @hookimpl
    async def leadership_changed(self, change):
        hear(hook="leadership", leads=change.is_leader)
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    """A node on which the plugin is installed."""
    site: Path = tmp_path_factory.mktemp("site")
    (site / "kt_watcher.py").write_text(PLUGIN)
    add_distribution(site, "kt-watcher", "1.0", {"kat.hooks": {"watcher": "kt_watcher:Watcher"}})
    node = RealNode(path=str(site))
    try:
        node.make()
        yield node
    except BaseException:
        print(node.tail(100))
        node.remove()
        raise
    left = node.remove()
    assert not left, left


def heard(node: RealNode) -> list[dict]:
    path = Path(node.environment["PYTHONPATH"].split(":")[0]) / "heard"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_running_agent_asks_and_tells_a_plugin(watched: RealNode):
    node = watched
    wait_for(lambda: node.api.get("/nodes/n1")["labels"].get("disk") == "ssd", "the plugin's label is on the node")
    assert node.api.get("/nodes/n1")["report"]["pluginFacts"] == {"watcher": {"disks": 1}}
    assert 'watcher:  {"disks": 1}' in node.katcall("node", "describe", "n1").stdout
    assert "who" in node.api.get("/plugins/watcher/tell")
    assert node.katcall("watched").stdout == "all is watched\n"
    assert "watched" in node.katcall("--help").stdout
    refused = node.api.apply(workload("unwanted", "default"))
    assert refused.status == 422
    assert "nobody wants it" in json.dumps(refused.data)
    node.apply(workload("picky", "default"))
    wait_for(lambda: "no place for picky ones" in node.katcall("why", "picky").stdout, "why tells the plugin's filter")
    assert all(item.get("node") is None for item in node.instances("default", "picky"))
    node.api.need("DELETE", "/namespaces/default/workloads/picky")
    node.apply(workload("here", "default", nodeSelector={"disk": "ssd"}))
    node.wait_rolled_out("default", "here")
    (item,) = node.instances("default", "here")
    mine = {"hook": "instance", "instance": item["name"], "phase": "Running", "ready": True}
    wait_for(lambda: mine in heard(node), "the plugin hears of the instance")
    assert {"hook": "leadership", "leads": True} in heard(node)
    assert {"hook": "event", "reason": "Started"} in heard(node)


def test_earlier_output_and_the_own_name_of_an_instance(watched: RealNode):
    node = watched
    script = 'echo "run $(hostname)"; grep "[[:space:]]$(hostname)$" /etc/hosts; sleep 1000'
    node.apply(workload("talk", "default", container={"command": ["/bin/sh", "-c", script]}))
    node.wait_rolled_out("default", "talk")
    (item,) = node.instances("default", "talk")
    one = [f"run {item['name']}", f"{item['status']['address']}\t{item['name']}"]

    def log(*options: str) -> list[str]:
        done = node.katcall("logs", f"talk/{item['name']}", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    wait_for(lambda: log() == one, "it has said its lines")
    assert log("--previous") == []
    ((pid, _),) = node.pids("default", "talk").values()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: log() == [*one, *one], "it runs again and has said its lines")
    assert log("--previous") == one
    assert log("--previous", "--tail", "1") == one[1:]
    node.agent.kill()
    node.agent.wait()
    node.start_agent()
    node.wait_ready()
    wait_for(lambda: log("--previous") == one, "an agent that adopted the container tells the same")
