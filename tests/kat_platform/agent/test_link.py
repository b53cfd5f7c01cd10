"""The way to the API: another control-plane node is asked in time when one hangs, goes or refuses."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from aiohttp import web

from kat_platform import __version__
from kat_platform.agent.link import ApiLink
from kat_platform.errors import Denied, Unavailable
from kat_platform.pki import tls


class Server:
    """A stand-in for one control-plane node's API; plain HTTP, so that only the failing over is under test."""

    def __init__(self):
        self.beats, self.views, self.hangs, self.status = 0, 0, False, 200
        self.reports = []
        self.lines = asyncio.Queue()
        self.agents = set()

    async def start(self):
        app = web.Application()
        app.router.add_post("/v1alpha1/nodes/w1/heartbeat", self._beat)
        app.router.add_post("/v1alpha1/nodes/w1/report", self._report)
        app.router.add_get("/v1alpha1/nodes/w1/view", self._view)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    async def _beat(self, request):
        self.agents.add(request.headers["User-Agent"])
        if self.hangs:
            await asyncio.sleep(60)
        if self.status != 200:
            return web.json_response({"detail": "no"}, status=self.status)
        self.beats += 1
        return web.json_response({})

    async def _report(self, request):
        if self.hangs:
            await asyncio.sleep(60)
        if self.status != 200:
            return web.json_response({"detail": "no"}, status=self.status)
        self.reports.append(await request.json())
        return web.json_response({})

    async def _view(self, request):
        self.views += 1
        self.agents.add(request.headers["User-Agent"])
        if self.hangs:
            await asyncio.sleep(60)
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(json.dumps(await self.lines.get()).encode() + b"\n")


@pytest.fixture
async def servers():
    made = [Server(), Server(), Server()]
    for server in made:
        await server.start()
    yield made
    for server in made:
        await server.runner.cleanup()


@pytest.fixture
async def link(servers):
    link = ApiLink("w1", [server.url for server in servers], tls.unverified_context())
    yield link
    await link.close()


async def test_every_call_tells_the_agents_version(servers, link):
    view = link.view()
    await servers[0].lines.put({"synced": 1})
    assert await anext(view) == {"synced": 1}
    assert servers[0].agents == {f"kat-agent/{__version__}"}
    await link.heartbeat(8.0)
    assert servers[0].agents == {f"kat-agent/{__version__}"}
    await view.aclose()


async def test_a_heartbeat_finds_another_server_before_the_node_counts_as_lost(servers, link):
    servers[0].hangs = servers[1].hangs = True
    began = time.monotonic()
    await link.heartbeat(8.0)
    assert servers[2].beats == 1
    assert time.monotonic() - began < 5.0, "of the 8 s after which a node is lost"
    began = time.monotonic()
    await link.heartbeat(8.0)
    assert time.monotonic() - began < 1.0, "the one that answered is asked first from now on"


async def test_a_report_with_patience_goes_to_whoever_takes_it(servers, link):
    servers[0].hangs, servers[1].status = True, 503
    began = time.monotonic()
    await link.report({"instances": {}}, patience=0.5)
    assert [server.reports for server in servers] == [[], [], [{"instances": {}}]]
    assert time.monotonic() - began < 2.0
    await link.report({"instances": {}})
    assert len(servers[2].reports) == 2, "the one that took it is asked first from now on"


async def test_without_patience_a_report_asks_one_server(servers, link):
    servers[0].status = 503
    with pytest.raises(Unavailable):
        await link.report({"instances": {}})
    assert not any(server.reports for server in servers)


async def test_no_server_at_all_is_said(servers, link):
    for server in servers:
        await server.runner.cleanup()
    with pytest.raises(Unavailable):
        await link.heartbeat(8.0)


async def test_a_refusal_is_no_reason_to_ask_another(servers, link):
    servers[0].status = 403
    with pytest.raises(Denied):
        await link.heartbeat(8.0)
    assert servers[1].beats == 0


async def test_the_view_leaves_a_server_that_hangs(servers, link):
    seen = []

    async def follow():
        async for line in link.view():
            seen.append(line)

    task = asyncio.create_task(follow())
    servers[0].lines.put_nowait({"ping": 1})
    async with asyncio.timeout(5):
        while not seen:  # noqa: ASYNC110 - the other side of a socket
            await asyncio.sleep(0.01)
    servers[0].hangs = True  # frozen: the stream stays open and says nothing
    await link.heartbeat(4.0)
    with pytest.raises(Unavailable):
        async with asyncio.timeout(1):
            await task
    servers[1].lines.put_nowait({"ping": 2})
    async with asyncio.timeout(2):
        async for line in link.view():
            assert line == {"ping": 2}
            break
    assert (servers[0].views, servers[1].views) == (1, 1)


async def test_the_view_does_not_wait_for_a_server_that_never_begins_to_answer(servers, link):
    servers[0].hangs = True
    task = asyncio.create_task(anext(link.view()))
    async with asyncio.timeout(5):
        while not servers[0].views:  # noqa: ASYNC110 - the other side of a socket
            await asyncio.sleep(0.01)
    doubts = []
    await link.heartbeat(4.0, lambda: doubts.append(servers[1].beats))
    assert doubts == [0], "told once, before the next server was asked"
    with pytest.raises(Unavailable):
        async with asyncio.timeout(1):
            await task
    servers[1].lines.put_nowait({"ping": 1})
    async with asyncio.timeout(2):
        assert await anext(link.view()) == {"ping": 1}


async def test_two_failures_at_one_server_skip_none(servers, link):
    servers[0].hangs = True
    results = await asyncio.gather(
        *(link._post("heartbeat", {}, timeout=0.3) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, Unavailable) for result in results)
    await link.heartbeat(8.0)
    assert (servers[1].beats, servers[2].beats) == (1, 0)


async def test_known_endpoints_are_replaced_and_the_present_one_stays_first(servers, link):
    link.set_endpoints([servers[2].url, servers[0].url])
    await link.heartbeat(8.0)
    assert servers[0].beats == 1
    link.set_endpoints([servers[1].url])
    await link.heartbeat(8.0)
    assert servers[1].beats == 1
    link.set_endpoints([])
    await link.heartbeat(8.0)
    assert servers[1].beats == 2
