"""What a stranger's hook plugin does to a cluster, seen from outside: through the API, the leader and ``katcall``."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from kat_auth_mtls.driver import MtlsAuth, MtlsConfig
from kat_sched_binpack.driver import BinpackScheduler

from kat_platform.agent import facts
from kat_platform.agent.plugin_facts import PluginFacts
from kat_platform.cli import context
from kat_platform.errors import InvalidInput
from kat_platform.hooks.types import NodeFacts
from kat_platform.interfaces.driver import DriverContext
from kat_platform.leader.controller import Controller
from kat_platform.model.node import NodeRole
from kat_platform.quadlet.archive import pack_files
from kat_platform.registry.catalog import Catalog
from kat_platform.registry.hooks import load_hooks
from kat_platform.state import keys
from kat_platform.state.events import EventRecorder
from kat_platform.testing.conformance import run_for_hooks
from kat_platform.testing.control_plane import ControlPlane

API = "/v1alpha1"


def quadlet(name: str = "web", image: str = "registry.example/web:1", **spec: object) -> bytes:
    document = {
        "apiVersion": "kat.dws.rip/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name},
        "spec": {"type": "Service", "source": {"image": image}, **spec},
    }
    return pack_files({"workload.kat": json.dumps(document).encode()})


class Place:
    """A control plane with the plugin, and a way to ask it."""

    def __init__(self, plane: ControlPlane, session: aiohttp.ClientSession, announcer, scheduler, contributions):
        self.plane, self.announcer = plane, announcer
        self.session, self._scheduler, self._contributions = session, scheduler, contributions

    async def ask(self, method: str, path: str, *, role: str = "admin", status: int = 200, **more):
        tls = self.plane.user_tls(role, role)
        url = self.plane.url + (path if path.startswith("/openapi") else API + path)
        async with self.session.request(method, url, ssl=tls, server_hostname="kat-api", **more) as answer:
            text = await answer.text()
            assert answer.status == status, f"{answer.status} {text}"
            return json.loads(text)

    async def apply(self, archive: bytes, *, status: int, query: str = ""):
        return await self.ask("POST", "/apply" + query, status=status, data=archive)

    @asynccontextmanager
    async def led(self):
        """Lead the cluster for a while, as the agent's control plane does."""
        leadership = await self.plane.store.campaign(keys.ELECTION, "n1", ttl=5)
        recorder = EventRecorder(self.plane.store)
        controller = Controller(
            self.plane.store, self.plane.cache, self._scheduler, recorder, contributions=lambda: self._contributions
        )
        task = asyncio.create_task(controller.lead(leadership), name="lead")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def place(folder: Path, settings=None):
    announcer = load_hooks(settings or {}, Catalog.read())
    contributions = await announcer.scheduler_contributions()
    own = DriverContext("n1", folder, folder, "kt")
    scheduler = BinpackScheduler(BinpackScheduler.Config(), own)
    more = {"announce": announcer, "scheduler": scheduler, "contributions": contributions}
    plane = ControlPlane(folder, MtlsAuth(MtlsConfig(), own), more=more)
    await plane.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Place(plane, session, announcer, scheduler, contributions)
    finally:
        await plane.stop()


async def test_admission_refuses_and_nothing_changes(stranger, tmp_path):
    async with place(tmp_path) as here:
        for query in ("", "?dryRun=true"):
            problem = await here.apply(quadlet(image="registry.example/web:latest"), status=422, query=query)
            assert problem["code"] == "rejected"
            assert "house-rules" in problem["detail"]
            assert "no image may be tagged latest" in problem["detail"]
        assert (await here.ask("GET", "/workloads"))["items"] == []
        assert (await here.plane.store.list(keys.REVISIONS)).entries == ()


async def test_admission_changes_what_is_stored_and_says_so(stranger, tmp_path):
    async with place(tmp_path) as here:
        answer = await here.apply(quadlet(), status=201)
        assert any("house-rules: everything here matters" in text for text in answer["warnings"])
        assert any("house-rules: priority is set here" in text for text in answer["warnings"])
        item = await here.ask("GET", "/namespaces/default/workloads/web")
        assert item["revision"]["document"]["spec"]["priority"] == 7
        again = await here.apply(quadlet(), status=200)
        assert again["revision"] == answer["revision"], "changed in the same way, so the same revision"


async def test_a_change_that_breaks_the_rules_of_quadlets_is_refused_in_the_plugins_name(stranger, tmp_path):
    async with place(tmp_path) as here:
        problem = await here.apply(quadlet("odd"), status=422)
        assert "house-rules" in problem["detail"]
        assert "replicas" in problem["detail"]
        assert (await here.ask("GET", "/workloads"))["items"] == []


async def test_a_delete_is_asked_about_too_with_who_asks(stranger, tmp_path):
    async with place(tmp_path) as here:
        await here.apply(quadlet("kept", priority=1), status=201)
        problem = await here.ask("DELETE", "/namespaces/default/workloads/kept", status=422)
        assert "it is kept" in problem["detail"]
        assert not (await here.ask("GET", "/namespaces/default/workloads/kept"))["record"].get("deleting")
        plugin = here.announcer._manager.get_plugin("house-rules")
        assert plugin.heard[0] == ("create", "default", "kept", "admin", False)
        assert plugin.heard[-1][0] == "delete"


async def test_its_settings_are_its_own_and_it_can_be_switched_off(stranger, tmp_path):
    async with place(tmp_path, {"house-rules": {"refuse": "edge"}}) as here:
        await here.apply(quadlet(image="registry.example/web:latest"), status=201)
        await here.apply(quadlet("other", image="registry.example/web:edge"), status=422)
    (tmp_path / "off").mkdir()
    async with place(tmp_path / "off", {"house-rules": {"enabled": False}}) as here:
        await here.apply(quadlet(image="registry.example/web:latest"), status=201)
        await here.ask("GET", "/plugins/house-rules/tell/hello", status=404)


async def test_its_routes_are_served_to_those_who_may(stranger, tmp_path):
    async with place(tmp_path) as here:
        told = await here.ask("GET", "/plugins/house-rules/tell/hello")
        assert told == {"who": "admin", "word": "hello"}
        await here.ask("GET", "/plugins/house-rules/tell/hello", role="view")
        assert await here.ask("POST", "/plugins/house-rules/change", json={"a": 1}) == {"a": 1}
        denied = await here.ask("POST", "/plugins/house-rules/change", role="view", json={"a": 1}, status=403)
        assert denied["code"] == "denied"
        broken = await here.ask("GET", "/plugins/house-rules/broken", status=500)
        assert broken["code"] == "plugin"
        assert "plugin 'house-rules' failed" in broken["detail"]
        assert "inside" not in json.dumps(broken), "what broke is for the log"
        paths = (await here.ask("GET", "/openapi.json"))["paths"]
        assert paths[f"{API}/plugins/house-rules/tell/{{word}}"]["get"]["summary"] == "Tell a word."


@pytest.mark.parametrize("score", [True, False])
async def test_its_filter_and_score_decide_where_instances_go_and_why_tells_so(stranger, tmp_path, score):
    async with place(tmp_path) as here:
        for name, subnet in (("n2", "10.100.2.0/23"), ("n3", "10.100.4.0/23")):
            await here.plane.add_node(name, NodeRole.WORKER, subnet)
        loud = {"n1"} if score else {"n1", "n3"}
        for name in loud:
            record = here.plane.cache.state.nodes.get(name)
            async with asyncio.timeout(5):
                while record is None:
                    await here.plane.settled()
                    record = here.plane.cache.state.nodes.get(name)
            changed = record.model_copy(update={"labels": {"noise": "loud"}})
            await here.plane.store.put(keys.node(name), changed.to_json())
        await here.apply(quadlet(replicas=4), status=201)
        async with here.led(), asyncio.timeout(10):
            while True:
                items = (await here.ask("GET", "/namespaces/default/instances"))["items"]
                if len(items) == 4 and all(item.get("node") for item in items):
                    break
                await asyncio.sleep(0.02)
        # The score makes n3 the best by far; the filter keeps everything off the loud ones.
        assert {item["node"] for item in items} == ({"n3"} if score else {"n2"})
        why = {each["node"]: each for each in (await here.ask("GET", "/namespaces/default/workloads/web/why"))["nodes"]}
        assert {name for name, each in why.items() if each["fits"]} == {"n1", "n2", "n3"} - loud
        (verdict,) = [v for v in why["n1"]["verdicts"] if not v["passed"]]
        assert verdict["filter"] == "house-rules/quiet"
        assert "it is noisy" in verdict["reason"]


async def test_its_facts_become_labels_of_the_node_under_those_of_kat_and_of_the_operator(stranger, tmp_path):
    async with place(tmp_path) as here:
        told = []
        known = PluginFacts(here.announcer.node_facts, lambda: told.append(1))
        asking = asyncio.create_task(known.run(), name="facts")
        given = await asyncio.wait_for(known.current(), 5)
        asking.cancel()
        report = facts.node_report(
            data_path=tmp_path, addresses=("192.0.2.1",), public_key="k", listen_port=1, versions={}, plugins=given,
            extra=(), images=(),
        )  # fmt: skip
        tls = here.plane.node_tls("n1", NodeRole.CONTROL_PLANE)
        url = here.plane.url + API + "/nodes/n1/report"
        body = {"node": report.to_wire()}
        async with here.session.post(url, json=body, ssl=tls, server_hostname="kat-api") as answer:
            assert answer.status == 200, await answer.text()
        item = await here.ask("GET", "/nodes/n1")
        assert item["labels"]["disk"] == "ssd"
        assert item["labels"]["kat.dws.rip/arch"] != "pdp11", "what KAT says of the host wins"
        assert "not a label!" not in item["labels"]
        assert item["report"]["pluginFacts"] == {"house-rules": {"disks": [{"size": 4}]}}
        assert told == [1]
        selected = await here.ask("GET", "/nodes", params={"labelSelector": "disk=ssd"})
        assert [each["name"] for each in selected["items"]] == ["n1"]
        record = here.plane.cache.state.nodes["n1"].model_copy(update={"labels": {"disk": "tape"}})
        await here.plane.store.put(keys.node("n1"), record.to_json())
        await here.plane.settled()
        assert (await here.ask("GET", "/nodes/n1"))["labels"]["disk"] == "tape", "what the operator says wins"


async def test_facts_are_asked_again_and_what_is_not_given_any_more_goes():
    given = [NodeFacts({"a": "1"}), NodeFacts({"a": "1"}), NodeFacts(), NodeFacts({"b": "2"}, {"p": {"x": {1}}})]
    told = []

    async def ask():
        return given.pop(0) if len(given) > 1 else given[0]

    known = PluginFacts(ask, lambda: told.append(dict(known._known.labels)), every=0.005)
    task = asyncio.create_task(known.run(), name="facts")
    async with asyncio.timeout(5):
        while len(told) < 3:  # noqa: ASYNC110 - the test watches from outside
            await asyncio.sleep(0.005)
    task.cancel()
    assert told == [{"a": "1"}, {}, {"b": "2"}]
    assert (await known.current()).facts == {}, "a set is no JSON"


def test_katcall_lists_its_command_and_runs_it_and_keeps_its_own(stranger, tmp_path):
    config = tmp_path / "config.json"
    help_text = stranger.katcall("--help", config=config)
    assert "Say what the rules of the house are." in help_text.stdout
    done = stranger.katcall("house", "always", config=config)
    assert done.stdout == "the rule is latest always\n"
    assert "its name is taken" in done.stderr
    assert "hijacked" not in stranger.katcall("apply", "--help", config=config).stdout
    assert "Did you mean 'house'" in stranger.katcall("hause", config=config, code=2).stderr


def test_katcall_goes_by_the_settings_of_this_machine(stranger, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"contexts": {}, "pluginConfig": {"house-rules": {"refuse": "edge"}}}))
    assert stranger.katcall("house", "never", config=config).stdout == "the rule is edge never\n"
    config.write_text(json.dumps({"contexts": {}, "pluginConfig": {"house-rules": {"enabled": False}}}))
    stranger.katcall("house", "never", config=config, code=2)
    config.write_text(json.dumps({"contexts": {}, "pluginConfig": {"house-rules": {"refuse": 1}}}))
    assert "'house-rules' is left out" in stranger.katcall("house", "never", config=config, code=2).stderr


async def test_it_passes_the_kit_of_hooks_but_for_its_labels(stranger):
    failed = {each.check: each.failure for each in await run_for_hooks("house-rules") if not each.passed}
    assert failed == {}


def test_settings_of_plugins_stay_when_contexts_are_written(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    monkeypatch.setenv("KAT_CONFIG", str(path))
    path.write_text(json.dumps({"contexts": {}, "pluginConfig": {"house-rules": {"enabled": False}}}))
    context.add_context("here", server="https://127.0.0.1:9115", ca="ca", certificate="c", key="k")
    context.remove_context("here")
    assert context.plugin_config() == {"house-rules": {"enabled": False}}
    for broken in ('{"pluginConfig": []}', '{"pluginConfig": {"a": 1}}', "[]", "{"):
        path.write_text(broken)
        with pytest.raises(InvalidInput):
            context.plugin_config()
