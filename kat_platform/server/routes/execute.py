"""Route that runs a command inside an instance: a websocket, relayed frame by frame to the node's agent."""

from __future__ import annotations

import asyncio
import json
from typing import Final

import aiohttp
import structlog
from aiohttp import web

from kat_platform.errors import Conflict, KatError, NotFound, RuntimeFailure, Unavailable, UsageError
from kat_platform.interfaces.auth import Verb
from kat_platform.model.instance import InstanceRecord
from kat_platform.server import problems
from kat_platform.server.api import AgentTarget, Api
from kat_platform.server.requests import flag
from kat_platform.server.table import PREFIX, Query, Route

log = structlog.get_logger(__name__)

FRAME_LIMIT: Final = 1024 * 1024
COMMAND_LIMIT: Final = 64 * 1024
EXIT_CHANNEL: Final = b"\x04"
HEARTBEAT_SECONDS: Final = 20.0


async def execute(request: web.Request, api: Api) -> web.StreamResponse:
    """Relay between the caller and the agent that has the instance, until one of them ends it."""
    ns, name = request.match_info["ns"], request.match_info["name"]
    record = api.state.instances.get((ns, name))
    if record is None:
        raise NotFound(f"there is no instance '{name}' in namespace '{ns}'")
    command = request.query.getall("command", [])
    if not command:
        raise UsageError("parameter command is missing: give it once for each word of the command")
    if sum(len(word) for word in command) > COMMAND_LIMIT:
        raise UsageError(f"the command has more than {COMMAND_LIMIT} characters")
    tty, stdin = flag(request, "tty"), flag(request, "stdin")
    caller = web.WebSocketResponse(max_msg_size=FRAME_LIMIT, heartbeat=HEARTBEAT_SECONDS, compress=False)
    if not caller.can_prepare(request):
        raise UsageError("exec is a websocket: send an Upgrade")
    target = _target(api, record)
    params = [("command", word) for word in command] + [("tty", str(int(tty))), ("stdin", str(int(stdin)))]
    url = f"{target.url}/agent/v1/instances/{ns}/{name}/exec"
    try:
        async with (
            api.streams.task("exec"),
            target.session.ws_connect(
                url,
                params=params,
                ssl=target.tls,
                server_hostname=target.server_hostname,
                max_msg_size=FRAME_LIMIT,
                heartbeat=HEARTBEAT_SECONDS,
            ) as agent,
        ):
            await caller.prepare(request)
            await _relay(caller, agent)
            return caller
    except aiohttp.WSServerHandshakeError as error:
        raise _refused(error, record) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        log.info("exec-failed", instance=record.key, node=record.node, error=str(error))
        failure = Unavailable(f"node '{record.node}', which has instance '{name}', does not answer")
        if not caller.prepared:
            raise failure from error
        await _end(caller, failure)
        return caller


def _target(api: Api, record: InstanceRecord) -> AgentTarget:
    if record.node is None:
        raise Conflict(f"instance '{record.key}' has no node yet, so there is nothing to run a command in")
    if api.deps.agent_client is None:
        raise Unavailable("this server cannot reach the nodes' agents")
    return api.deps.agent_client(record.node)


def _refused(error: aiohttp.WSServerHandshakeError, record: InstanceRecord) -> KatError:
    if error.status == 404:
        return NotFound(f"instance '{record.key}' has no running container on node '{record.node}'")
    if error.status == 409:
        return Conflict(f"instance '{record.key}' is not running")
    if error.status == 500:
        text = f"node '{record.node}' could not run the command in instance '{record.key}'"
        return RuntimeFailure(text, hint="is that program in the image?")
    return Unavailable(f"the agent of node '{record.node}' answered {error.status}")


async def _relay(caller: web.WebSocketResponse, agent: aiohttp.ClientWebSocketResponse) -> None:
    """Pass frames both ways; the first side to end ends the other."""

    async def inwards() -> None:
        async for message in caller:
            if message.type is aiohttp.WSMsgType.BINARY:
                await agent.send_bytes(message.data)

    async def outwards() -> None:
        async for message in agent:
            if message.type is aiohttp.WSMsgType.BINARY:
                await caller.send_bytes(message.data)

    tasks = [asyncio.create_task(inwards(), name="exec-in"), asyncio.create_task(outwards(), name="exec-out")]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not caller.closed:
            await caller.close()


async def _end(caller: web.WebSocketResponse, error: KatError) -> None:
    if not caller.closed:
        await caller.send_bytes(EXIT_CHANNEL + json.dumps({"error": problems.document(error)}).encode())
        await caller.close()


ROUTES = (
    Route(
        "GET",
        f"{PREFIX}/namespaces/{{ns}}/instances/{{name}}/exec",
        execute,
        "Run a command in an instance (websocket; the first byte of a frame is its channel).",
        "instances/exec",
        Verb.EXEC,
        query=(
            Query("command", "One word of the command.", repeated=True),
            Query("tty", "Give the command a terminal.", "boolean"),
            Query("stdin", "Pass standard input on.", "boolean"),
        ),
        media="",
        status=101,
        stream=True,
    ),
)
