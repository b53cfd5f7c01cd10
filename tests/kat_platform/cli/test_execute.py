"""katcall exec and logs, through a live API to an agent that answers from memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import aiohttp
import pytest
from aiohttp import web

from kat_platform.model.identity import NodeName, NodeRole
from kat_platform.model.instance import InstanceRecord, InstanceStatus, Phase
from kat_platform.model.revision import WorkloadRecord
from kat_platform.pki.tls import client_context, server_context
from kat_platform.server.api import AgentTarget
from kat_platform.state import keys
from kat_platform.testing.control_plane import CLUSTER_ID


async def _logs(request):
    response = web.StreamResponse()
    await response.prepare(request)
    name = request.match_info["id"]
    if request.query.get("previous") == "1":
        if request.query["tail"] != "0":
            await response.write(json.dumps({"at": 0.5, "stream": "stdout", "text": "famous last words"}).encode())
        return response
    for at in (1.0, 2.0):
        await response.write(json.dumps({"at": at, "stream": "stdout", "text": f"{name} says {at:g}"}).encode() + b"\n")
    return response


async def _exec(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    words = request.query.getall("command")
    await socket.send_bytes(b"\x02" + f"running {words} tty={request.query['tty']}\n".encode())
    if request.query["stdin"] == "1":
        async for message in socket:
            if message.data == b"\x00":
                break
            await socket.send_bytes(b"\x01" + message.data[1:].upper())
    end = {"error": {"code": "runtime", "detail": "no such program"}} if words[0] == "none" else {"exitCode": 7}
    await socket.send_bytes(b"\x04" + json.dumps(end).encode())
    await socket.close()
    return socket


@pytest.fixture
def running(cluster):
    """Give the cluster an agent and one running instance."""
    plane = cluster.plane

    async def start():
        app = web.Application()
        app.router.add_get("/agent/v1/instances/{ns}/{id}/logs", _logs)
        app.router.add_get("/agent/v1/instances/{ns}/{id}/exec", _exec)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        files = plane.issue_node(NodeName(CLUSTER_ID, "n1", NodeRole.CONTROL_PLANE))
        tls = server_context(plane.authority.pem(), *files, require_client=True)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        session = aiohttp.ClientSession()
        target = AgentTarget(f"https://127.0.0.1:{port}", session, client_context(plane.authority.pem(), *files), "n1")
        api = plane.server.api
        object.__setattr__(api.deps, "agent_client", lambda _: target)
        return runner, session

    runner, session = cluster.run(start())
    cluster.put(keys.workload("default", "web"), WorkloadRecord(name="web", namespace="default", revision=1))
    record = InstanceRecord(id="web-00001", namespace="default", workload="web", revision=1, node="n1")
    cluster.put(keys.instance("default", "web-00001"), record)
    cluster.put(keys.status("default", "web-00001"), InstanceStatus(phase=Phase.RUNNING, ready=True))
    yield cluster

    async def stop():
        await session.close()
        await runner.cleanup()

    cluster.run(stop())


def katcall_process(*arguments, stdin=b""):
    return subprocess.run(
        [sys.executable, "-m", "kat_platform.cli.main", *arguments],
        input=stdin,
        capture_output=True,
        timeout=30,
        env={**os.environ},
    )


def test_exec_passes_streams_and_the_exit_code_through(running):
    done = katcall_process("exec", "-i", "web", "--", "sh", "-c", "x y", stdin=b"hello\n")
    assert (done.returncode, done.stdout) == (7, b"HELLO\n"), done.stderr
    assert b"['sh', '-c', 'x y'] tty=0" in done.stderr


def test_exec_needs_no_dashes_and_takes_the_commands_own_options(running):
    done = katcall_process("exec", "web/web-00001", "ls", "-l")
    assert (done.returncode, done.stdout) == (7, b"")
    assert b"['ls', '-l']" in done.stderr


def test_exec_that_fails_says_why(running):
    done = katcall_process("exec", "web", "--", "none")
    assert done.returncode == 1
    assert b"error: no such program" in done.stderr
    assert katcall_process("exec", "nothing", "--", "ls").returncode == 3
    assert katcall_process("exec", "web/web-9", "--", "ls").returncode == 3
    assert katcall_process("exec", "web").returncode == 2


def test_a_terminal_is_left_out_where_there_is_none(running):
    done = katcall_process("exec", "-it", "web", "--", "sh", stdin=b"")
    assert b"there is no terminal here" in done.stderr
    assert done.returncode == 7


def test_logs_name_their_instance(running, katcall):
    assert katcall("logs", "web").out == "web-00001 web-00001 says 1\nweb-00001 web-00001 says 2\n"
    assert katcall("logs", "web/web-00001", "--timestamps").out.startswith("1970-01-01T00:00:01.000Z web-00001")
    assert katcall("logs", "web/web-00001", "--previous").out == "famous last words\n"
    assert "no output of an earlier run" in katcall("logs", "web", "--previous", "--tail", "0").err
    katcall("logs", "web", "--previous", "-f", code=2)
    katcall("logs", "none", code=3)


def test_nothing_is_left_waiting_when_the_command_ends_first(running):
    reader, writer = os.pipe()  # a standard input that never ends
    done = subprocess.run(
        [sys.executable, "-m", "kat_platform.cli.main", "exec", "web", "--", "true"],
        stdin=reader,
        capture_output=True,
        timeout=30,
    )
    os.close(reader)
    os.close(writer)
    assert done.returncode == 7
