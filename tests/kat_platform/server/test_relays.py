"""Logs and exec, relayed to agents over mTLS; and why."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web

from kat_platform.model.identity import NodeName, NodeRole
from kat_platform.model.instance import InstanceRecord
from kat_platform.pki.tls import client_context, server_context
from kat_platform.server.api import AgentTarget
from kat_platform.state import keys
from kat_platform.testing.control_plane import CLUSTER_ID, ControlPlane

from .conftest import Caller, auth
from .samples import workload


class FakeAgent:
    """Serves what an agent does, from canned answers."""

    def __init__(self):
        self.lines = {}
        self.asked = []
        self.hold = asyncio.Event()

    async def logs(self, request):
        name = request.match_info["id"]
        if name not in self.lines:
            return web.json_response({"code": "not-found"}, status=404)
        self.asked.append(dict(request.query))
        response = web.StreamResponse()
        await response.prepare(request)
        for at, text in self.lines[name]:
            await response.write(json.dumps({"at": at, "stream": "stdout", "text": text}).encode() + b"\n")
        if request.query["follow"] == "1":
            await self.hold.wait()
        return response

    async def exec(self, request):
        self.asked.append(request.query.getall("command"))
        if request.query["command"] == "refuse":
            return web.json_response({}, status=500)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.data[0] == 0 and len(message.data) == 1:
                await socket.send_bytes(b"\x04" + json.dumps({"exitCode": 7}).encode())
                break
            await socket.send_bytes(b"\x01" + message.data[1:].upper())
        await socket.close()
        return socket


@pytest.fixture
async def agent(tmp_path):
    agent = FakeAgent()
    agent.session = aiohttp.ClientSession()
    target = {}
    plane = ControlPlane(tmp_path, auth(tmp_path), more={"agent_client": lambda node: target[node]})
    await plane.start()
    app = web.Application()
    app.router.add_get("/agent/v1/instances/{ns}/{id}/logs", agent.logs)
    app.router.add_get("/agent/v1/instances/{ns}/{id}/exec", agent.exec)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    files = plane.issue_node(NodeName(CLUSTER_ID, "n2", NodeRole.WORKER))
    site = web.TCPSite(
        runner, "127.0.0.1", 0, ssl_context=server_context(plane.authority.pem(), *files, require_client=True)
    )
    await site.start()
    mine = plane.issue_node(NodeName(CLUSTER_ID, "n1", NodeRole.CONTROL_PLANE))
    port = site._server.sockets[0].getsockname()[1]
    tls = client_context(plane.authority.pem(), *mine)
    target["n2"] = AgentTarget(f"https://127.0.0.1:{port}", agent.session, tls, "n2")
    target["gone"] = AgentTarget("https://127.0.0.1:1", agent.session, tls, "gone")
    agent.plane = plane
    yield agent
    agent.hold.set()
    await plane.stop()
    await agent.session.close()
    await runner.cleanup()


@pytest.fixture
async def admin(agent):
    async with Caller(agent.plane, agent.plane.user_tls("root", "admin")) as caller:
        await caller.apply(workload(), 201)
        for id_, node in (("web-00001", "n2"), ("web-00002", "n2"), ("web-00003", "gone"), ("web-00004", None)):
            record = InstanceRecord(id=id_, namespace="default", workload="web", revision=1, node=node)
            await agent.plane.store.put(keys.instance("default", id_), record.to_json())
        await agent.plane.settled()
        yield caller


LOGS = "/v1alpha1/namespaces/default/workloads/web/logs"


async def test_logs_are_merged_by_time_and_a_lost_node_is_named(agent, admin):
    agent.lines = {"web-00001": [(1.0, "a"), (3.0, "c")], "web-00002": [(2.0, "b"), (4.0, "d")]}
    _, text, _ = await admin.ask("GET", LOGS + "?tail=5", 200)
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["text"] for line in lines if "text" in line] == ["a", "b", "c", "d"]
    [lost] = [line for line in lines if "error" in line]
    assert (lost["instance"], lost["error"]["code"]) == ("web-00003", "unavailable")
    assert agent.asked[0] == {"follow": "0", "tail": "5"}


async def test_one_instances_log(agent, admin):
    agent.lines = {"web-00001": [(1.0, "a")]}
    _, text, _ = await admin.ask("GET", LOGS + "?instance=web-00001", 200)
    assert json.loads(text) == {"instance": "web-00001", "node": "n2", "at": 1.0, "stream": "stdout", "text": "a"}
    assert (await admin.ask("GET", "/v1alpha1/namespaces/default/instances/web-00001/logs", 200))[1] == text
    await admin.ask("GET", LOGS + "?instance=web-99999", 404)
    await admin.ask("GET", LOGS + "?since=yesterday", 400)
    await admin.ask("GET", LOGS + "?instance=web-00001&previous=true&tail=3", 200)
    assert agent.asked[-1] == {"follow": "0", "previous": "1", "tail": "3"}
    await admin.ask("GET", LOGS + "?previous=true&follow=true", 400)


async def test_following_takes_in_instances_that_come_later(agent, admin):
    agent.lines = {"web-00001": [(1.0, "a")], "web-00009": [(2.0, "late")]}
    async with asyncio.timeout(10), admin.lines("/namespaces/default/workloads/web/logs", follow="true") as read:
        seen = set()
        while "a" not in seen:
            seen.add((await read()).get("text"))
        record = InstanceRecord(id="web-00009", namespace="default", workload="web", revision=1, node="n2")
        await agent.plane.store.put(keys.instance("default", "web-00009"), record.to_json())
        while "late" not in seen:
            seen.add((await read()).get("text"))


async def test_exec_is_relayed_both_ways_with_its_exit_code(agent, admin):
    path = "/v1alpha1/namespaces/default/instances/web-00001/exec?command=sh&command=-c&command=x%20y&stdin=1"
    async with (
        asyncio.timeout(10),
        admin._session.ws_connect(agent.plane.url + path, ssl=admin._tls, server_hostname="kat-api") as socket,
    ):
        await socket.send_bytes(b"\x00hello")
        assert (await socket.receive()).data == b"\x01HELLO"
        await socket.send_bytes(b"\x00")
        assert (await socket.receive()).data == b'\x04{"exitCode": 7}'
    assert agent.asked == [["sh", "-c", "x y"]]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("web-00001/exec", 400),
        ("web-00003/exec?command=ls", 503),
        ("web-00004/exec?command=ls", 409),
        ("none/exec?command=ls", 404),
        ("web-00001/exec?command=refuse", 500),
    ],
)
async def test_exec_that_cannot_be_says_so(agent, admin, target, status):
    url = f"{agent.plane.url}/v1alpha1/namespaces/default/instances/{target}"
    with pytest.raises(aiohttp.WSServerHandshakeError) as failure:
        async with asyncio.timeout(10), admin._session.ws_connect(url, ssl=admin._tls, server_hostname="kat-api"):
            pass
    assert failure.value.status == status


async def test_exec_needs_a_role_that_may_write(agent, admin):
    async with Caller(agent.plane, agent.plane.user_tls("peeper", "view")) as peeper:
        await peeper.get("/namespaces/default/instances/web-00001/exec?command=ls", 403)


async def test_why_without_a_scheduler_is_unavailable(admin):
    await admin.get("/namespaces/default/workloads/web/why", 503)
