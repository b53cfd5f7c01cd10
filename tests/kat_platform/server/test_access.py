"""Who may: certificates, tokens, nodes; and what a stranger hears."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time

import aiohttp
import pytest
from structlog.testing import capture_logs

from kat_platform.model.identity import NodeName, NodeRole
from kat_platform.model.node import NodeRole as Recorded
from kat_platform.pki.authority import Authority
from kat_platform.pki.tls import client_context
from kat_platform.server import app
from kat_platform.state import keys
from kat_platform.testing.control_plane import CLUSTER_ID

from .samples import workload


async def test_without_a_credential_there_is_a_clear_401(plane, caller_of):
    async with caller_of(plane.anonymous_tls()) as nobody:
        status, problem, headers = await nobody.ask("GET", "/v1alpha1/nodes")
        assert (status, problem["code"], problem["status"]) == (401, "unauthenticated", 401)
        assert headers["Content-Type"].startswith("application/problem+json")
        assert headers["WWW-Authenticate"].startswith("Bearer")
        assert problem["instance"] == headers["X-Request-Id"]
        assert (await nobody.ask("GET", "/livez"))[0] == 200
        assert (await nobody.ask("GET", "/readyz"))[0] == 200
        assert (await nobody.ask("GET", "/openapi.json"))[0] == 200
        assert (await nobody.ask("GET", "/metrics"))[0] == 401


@pytest.mark.parametrize(
    "header", ["Basic YTpi", "Bearer", "Bearer ", "Bearer x y", "Bearer kat_0123456789ab_" + "f" * 48, "bearer \u00e9"]
)
async def test_bad_tokens_are_refused_and_never_repeated(plane, caller_of, header):
    async with caller_of(plane.anonymous_tls()) as nobody:
        with capture_logs() as logs:
            found = await nobody.ask("GET", "/v1alpha1/nodes", headers={"Authorization": header})
        assert found[0] == 401
        assert "f" * 48 not in json.dumps(found[1])
        assert "f" * 48 not in str(logs)


async def test_tokens_work_until_they_expire_or_are_withdrawn(plane, admin, caller_of, monkeypatch):
    made = await admin.post("/tokens", {"name": "ci", "role": "view", "ttlSeconds": 60}, 201)
    stored = (await plane.store.list(keys.TOKENS)).entries
    assert made["token"].split("_")[-1] not in stored[0].value.decode()
    async with caller_of(plane.anonymous_tls(), made["token"]) as ci:
        await ci.get("/nodes")
        assert (await ci.ask("POST", "/v1alpha1/tokens", json={"name": "x"}))[1]["code"] == "denied"
        monkeypatch.setattr(plane.server.api.access, "_now", lambda: time.time() + 61)
        problem = (await ci.ask("GET", "/v1alpha1/nodes", 401))[1]
        assert "expired" in problem["detail"]
        monkeypatch.undo()
        await admin.ask("DELETE", f"/v1alpha1/tokens/{made['id']}", 200)
        await ci.ask("GET", "/v1alpha1/nodes", 401)
    await admin.ask("DELETE", f"/v1alpha1/tokens/{made['id']}", 404)


async def test_another_servers_token_is_learnt_from_the_store(plane, admin, caller_of):
    made = await admin.post("/tokens", {"name": "ci", "role": "view"}, 201)
    entry = await plane.store.get(keys.token(made["id"]))
    await admin.ask("DELETE", f"/v1alpha1/tokens/{made['id']}", 200)
    await plane.store.put(entry.key, entry.value)
    await plane.settled()
    await asyncio.sleep(0.05)
    async with caller_of(plane.anonymous_tls(), made["token"]) as ci:
        await ci.get("/nodes")


@pytest.mark.parametrize(
    ("role", "namespace", "method", "path", "status"),
    [
        ("view", "*", "GET", "/workloads", 200),
        ("view", "*", "DELETE", "/namespaces/default/workloads/web", 403),
        ("view", "*", "POST", "/nodes/n1/cordon", 403),
        ("view", "*", "GET", "/tokens", 403),
        ("edit", "*", "POST", "/namespaces/default/workloads/web/restart", 200),
        ("edit", "*", "PUT", "/namespaces/shop", 403),
        ("edit", "shop", "GET", "/namespaces/shop/workloads", 200),
        ("edit", "shop", "GET", "/namespaces/default/workloads", 403),
        ("edit", "shop", "GET", "/workloads", 403),
        ("edit", "shop", "POST", "/namespaces/default/workloads/web/restart", 403),
        ("admin", "*", "POST", "/nodes/n1/report", 403),
        ("admin", "*", "GET", "/nodes/n1/view", 403),
    ],
)
async def test_roles_hold_where_they_are_bound(plane, admin, caller_of, role, namespace, method, path, status):
    await admin.apply(workload(), 201)
    async with caller_of(plane.user_tls("somebody", role, namespace)) as caller:
        found = await caller.ask(method, "/v1alpha1" + path, json={} if method != "GET" else None)
        assert found[0] == status, found[1]
        if status == 403:
            assert found[1]["code"] == "denied"


async def test_applying_into_anothers_namespace_is_denied(plane, admin, caller_of):
    async with caller_of(plane.user_tls("somebody", "edit", "shop")) as caller:
        assert (await caller.apply(workload(), 403))["code"] == "denied"
        await caller.apply(workload(), 403, path="/namespaces/default/workloads/web")
        await caller.apply(workload(), 422, path="/namespaces/shop/workloads/web")
    await admin.get("/namespaces/default/workloads/web", 404)


async def test_a_node_speaks_only_for_itself(plane, caller_of):
    await plane.add_node("n2", Recorded.WORKER, "10.100.2.0/23")
    await plane.settled()
    async with caller_of(plane.node_tls("n2")) as node:
        await node.post("/nodes/n2/heartbeat")
        for path in ("report", "heartbeat"):
            problem = await node.post(f"/nodes/n1/{path}", status=403)
            assert "may not speak for node 'n1'" in problem["detail"]
        await node.get("/nodes/n1/view", 403)
        await node.apply(workload(), 403)
        await node.get("/tokens", 403)


async def test_a_node_that_is_no_member_is_told(plane, caller_of):
    async with caller_of(plane.node_tls("n9")) as node:
        assert "not a member" in (await node.post("/nodes/n9/heartbeat", status=404))["detail"]


async def test_a_certificate_of_another_ca_fails_in_the_handshake_and_is_logged(plane):
    other = Authority.create(CLUSTER_ID)
    files = plane.issue_node(NodeName(CLUSTER_ID, "n2", NodeRole.WORKER), other)
    tls = client_context(plane.authority.pem(), *files)
    with capture_logs() as logs:
        async with aiohttp.ClientSession() as session:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                async with session.get(f"{plane.url}/v1alpha1/nodes", ssl=tls, server_hostname="kat-api") as answer:
                    await answer.read()
        for _ in range(500):  # the server's side ends later than the client's
            if any(line["event"] == "tls-handshake-failed" for line in logs):
                break
            await asyncio.sleep(0.01)
    found = [line for line in logs if line["event"] == "tls-handshake-failed"]
    assert found[0]["remote"] == "127.0.0.1"
    assert "certificate" in found[0]["reason"]


async def test_every_mutation_is_audited_and_strangers_fill_nothing(plane, admin, caller_of):
    await admin.apply(workload(), 201)
    await admin.apply(workload(replicas=5), 200, params={"dryRun": "true"})
    async with caller_of(plane.user_tls("peeper", "view")) as caller:
        await caller.post("/namespaces/default/workloads/web/restart", status=403)
    async with caller_of(plane.anonymous_tls()) as nobody:
        await nobody.post("/namespaces/default/workloads/web/restart", status=401)
    await plane.server.api.audit.flush()
    records = [json.loads(entry.value) for entry in (await plane.store.list(keys.AUDIT)).entries]
    assert [(r["who"], r["decision"], r["status"]) for r in records] == [
        ("root", "allowed", 201),
        ("peeper", "denied", 403),
    ]


async def test_a_silent_connection_is_ended(plane, monkeypatch):
    monkeypatch.setattr(app, "FIRST_REQUEST_SECONDS", 0.2)
    port = plane.server.port
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=plane.anonymous_tls(), server_hostname="kat-api"
    )
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    async with asyncio.timeout(3):
        assert await reader.read() == b""
    writer.close()


async def test_plain_tcp_does_not_hold_the_server_up(plane, admin):
    held = [socket.create_connection(("127.0.0.1", plane.server.port)) for _ in range(20)]
    for each in held:
        each.sendall(b"GET / HTTP/1.1\r\n")
    await admin.get("/nodes")
    for each in held:
        each.close()
