"""Lists, single objects, selectors, watches; problems for whatever is wrong about a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kat_platform.errors import UsageError
from kat_platform.model.instance import InstanceRecord, InstanceStatus, Phase
from kat_platform.model.meta import Metadata
from kat_platform.model.namespace import Namespace
from kat_platform.server import objects
from kat_platform.server.requests import parse_selector
from kat_platform.state import keys

from .samples import workload


async def put_instance(plane, id_, name="web", node="n1", **status):
    record = InstanceRecord(id=id_, namespace="default", workload=name, revision=1, node=node, created_at=1.0)
    await plane.store.put(keys.instance("default", id_), record.to_json())
    if status:
        await plane.store.put(keys.status("default", id_), InstanceStatus(node=node or "", **status).to_json())


async def test_objects_show_what_lies_below_them_at_once(plane, admin):
    await admin.apply(workload(), 201)
    await put_instance(plane, "web-00001", phase=Phase.RUNNING, ready=True, address="10.100.0.9")
    await plane.settled()
    item = await admin.get("/namespaces/default/workloads/web")
    assert item["summary"] == {"wanted": 2, "updated": 1, "ready": 1, "available": 1}
    instance = await admin.get("/namespaces/default/instances/web-00001")
    assert (instance["phase"], instance["ready"], instance["workload"]) == ("Running", True, "web")
    await plane.store.put(keys.vip("default", "web"), b'{"address":"10.101.0.1"}')
    await plane.settled()
    assert (await admin.get("/namespaces/default/workloads/web"))["virtualIp"] == "10.101.0.1"
    await plane.store.delete(keys.instance("default", "web-00001"))
    await plane.settled()
    assert (await admin.get("/namespaces/default/workloads/web"))["summary"]["ready"] == 0
    await admin.get("/namespaces/default/instances/web-00001", 404)


async def test_lists_are_selected_by_namespace_labels_and_owner(plane, admin):
    await admin.apply(workload("web"), 201)
    await admin.apply(workload("api"), 201)
    await put_instance(plane, "web-00001")
    await put_instance(plane, "api-00001", "api")
    await plane.settled()

    async def names(path, **params):
        return [item["name"] for item in (await admin.get(path, params=params))["items"]]

    assert await names("/workloads") == ["api", "web"]
    assert await names("/namespaces/none/workloads") == []
    assert await names("/workloads", labelSelector="app=web") == ["web"]
    assert await names("/workloads", labelSelector="app!=web,app") == ["api"]
    assert await names("/workloads", labelSelector="!app") == []
    assert await names("/instances", labelSelector="app=api") == ["api-00001"]
    assert await names("/namespaces/default/instances", workload="web") == ["web-00001"]
    assert await names("/nodes") == ["n1"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1alpha1/nothing", 404, "not-found"),
        ("GET", "/", 404, "not-found"),
        ("PATCH", "/v1alpha1/nodes", 405, "usage"),
        ("GET", "/v1alpha1/namespaces/default/workloads/none", 404, "not-found"),
        ("GET", "/v1alpha1/namespaces/default/workloads/none/revisions", 404, "not-found"),
        ("GET", "/v1alpha1/namespaces/default/workloads/none/logs", 404, "not-found"),
        ("GET", "/v1alpha1/namespaces/default/workloads/none/why", 404, "not-found"),
        ("GET", "/v1alpha1/namespaces/default/instances/none/exec?command=ls", 404, "not-found"),
        ("GET", "/v1alpha1/workloads?labelSelector=a%20b", 400, "usage"),
        ("GET", "/v1alpha1/workloads?watch=maybe", 400, "usage"),
        ("GET", "/v1alpha1/workloads?watch=true&fromRevision=-1", 400, "usage"),
        ("GET", "/v1alpha1/workloads?watch=true&fromRevision=0", 410, "compacted"),
        ("DELETE", "/v1alpha1/namespaces/default/workloads/none", 404, "not-found"),
        ("DELETE", "/v1alpha1/namespaces/default", 409, "conflict"),
        ("POST", "/v1alpha1/namespaces/default/workloads/none/scale", 422, "invalid"),
        ("POST", "/v1alpha1/nodes/none/cordon", 404, "not-found"),
        ("POST", "/v1alpha1/tokens", 422, "invalid"),
    ],
)
async def test_every_refusal_is_a_problem_document(admin, method, path, status, code):
    found, problem, headers = await admin.ask(method, path, json={} if method == "POST" else None)
    assert (found, problem["code"], problem["status"] in (found, 400)) == (status, code, True), problem
    assert headers["Content-Type"].startswith("application/problem+json")
    assert problem["type"] == f"urn:kat:problem:{code}"
    assert problem["detail"]


async def test_a_bug_tells_the_caller_nothing_of_the_inside(plane, admin, monkeypatch):
    def broken(*_):
        raise RuntimeError("secret detail in /srv/inside.py")

    monkeypatch.setattr(plane.server.api.objects, "get", broken)
    found, problem, _ = await admin.ask("GET", "/v1alpha1/nodes/n1", headers={"X-Request-Id": "abc-1"})
    assert (found, problem["code"], problem["instance"]) == (500, "internal", "abc-1")
    assert "secret" not in json.dumps(problem)


async def test_wrong_bodies_name_the_field_and_not_its_value(admin):
    await admin.apply(workload(), 201)
    path = "/namespaces/default/workloads/web/scale"
    problem = await admin.post(path, {"replicas": "topsecret"}, 422)
    assert problem["errors"][0]["path"] == "replicas"
    assert "topsecret" not in json.dumps(problem)
    for body in (
        b"{",
        b"[" * 100_000,
        b'{"replicas": 1e999}',
        b"\xff\xfe",
        b'{"replicas": -1}',
        b'{"replicas": 1, "x": 1}',
    ):
        assert (await admin.ask("POST", "/v1alpha1" + path, data=body))[0] == 422
    assert (await admin.ask("POST", "/v1alpha1" + path, data=b"x" * (5 << 20)))[0] == 413


async def test_a_watch_lists_then_follows(plane, admin):
    await admin.apply(workload(), 201)
    async with asyncio.timeout(10), admin.lines("/workloads", watch="true") as read:
        first = await read()
        assert (first["type"], first["object"]["name"]) == ("ADDED", "web")
        assert (await read())["type"] == "BOOKMARK"
        await admin.post("/namespaces/default/workloads/web/scale", {"replicas": 9})
        changed = await read()
        assert (changed["type"], changed["object"]["record"]["replicas"]) == ("MODIFIED", 9)
        await admin.apply(workload("api"), 201)
        assert (await read())["type"] == "ADDED"
        await plane.store.delete(keys.workload("default", "web"))
        gone = await read()
        assert (gone["type"], gone["object"]["name"]) == ("DELETED", "web")


async def test_a_watch_resumes_without_gap(plane, admin):
    await admin.apply(workload("old"), 201)
    start = (await admin.get("/workloads"))["revision"]
    await admin.apply(workload("new"), 201)
    await admin.post("/namespaces/default/workloads/old/scale", {"replicas": 3})
    await plane.store.delete(keys.workload("default", "new"))
    await plane.settled()
    async with asyncio.timeout(10), admin.lines("/workloads", watch="true", fromRevision=str(start)) as read:
        lines = [await read()]
        while lines[-1]["type"] != "BOOKMARK":
            lines.append(await read())
    found = {(line["type"], line["object"]["name"]) for line in lines[:-1]}
    assert found == {("MODIFIED", "old"), ("DELETED", "new")}
    assert lines[-1]["revision"] > start


async def test_a_watch_that_is_too_old_is_told_to_list_again(plane, admin, monkeypatch):
    monkeypatch.setattr(objects, "REMOVED_KEPT", 2)
    start = (await admin.get("/workloads"))["revision"]
    for number in range(5):
        document = Namespace(metadata=Metadata(name=f"n{number}"))
        await plane.store.put(keys.namespace(f"n{number}"), document.to_json())
        await plane.settled()
        await plane.store.delete(keys.namespace(f"n{number}"))
        await plane.settled()
    problem = await admin.get(f"/workloads?watch=true&fromRevision={start}", 410)
    assert problem["code"] == "compacted"


async def test_a_watch_of_a_state_that_is_no_more_is_told_to_list_again(plane, admin):
    await plane.settled()
    beyond = (await plane.store.store_status()).revision + 5
    found = await admin.get("/namespaces", status=410, params={"watch": "true", "fromRevision": str(beyond)})
    assert found["code"] == "compacted"
    assert "restored from a backup" in found["detail"]


async def test_a_server_that_is_a_moment_behind_does_not_take_itself_for_restored(plane, admin):
    await plane.settled()
    at = await plane.store.put("/kat/v1/namespaces/other", Namespace(metadata=Metadata(name="other")).to_json())
    async with admin.lines("/namespaces", watch="true", fromRevision=str(at)) as read:
        assert (await read())["type"] == "BOOKMARK"


async def test_watches_of_labels_tell_of_what_stops_matching(plane, admin):
    await admin.apply(workload(), 201)
    async with asyncio.timeout(10), admin.lines("/workloads", watch="true", labelSelector="app=web") as read:
        await read()
        await read()
        files = workload()
        await admin.apply({"workload.kat": files["workload.kat"].replace("app: web", "app: other")})
        assert (await read())["type"] == "DELETED"


async def test_stopping_ends_open_streams_quickly(plane, admin):
    async with asyncio.timeout(10), admin.lines("/workloads", watch="true") as read:
        await read()
        await plane.server.stop()

        async def rest():
            while True:
                await read()

        with pytest.raises(json.JSONDecodeError):  # the end of the stream
            await rest()


@given(st.text(max_size=30))
def test_a_selector_is_read_or_refused_and_never_crashes(text):
    with contextlib.suppress(UsageError):
        assert all(operator in ("=", "!=", "exists", "absent") for _, operator, _ in parse_selector(text))


_METHODS = st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"])
_ODD = st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="?#/%\\")
_KNOWN = ["namespaces", "default", "workloads", "web", "instances", "revisions", "nodes", "n1", "tokens"]
_SEGMENT = st.one_of(st.sampled_from(_KNOWN), st.text(_ODD, min_size=1, max_size=20))


async def test_nothing_a_stranger_sends_is_a_server_error(plane, admin):
    """A hundred odd requests: each is answered by a status below 500, errors as problem documents."""
    await admin.apply(workload(), 201)
    found = []

    @given(_METHODS, st.lists(_SEGMENT, max_size=6), st.dictionaries(st.sampled_from(
        ["watchx", "labelSelector", "fromRevision", "tail", "since", "node", "dryRun", "workload", "instance"]),
        st.text(max_size=12), max_size=3), st.binary(max_size=64))  # fmt: skip
    @settings(max_examples=120, deadline=None, database=None)
    def collect(method, segments, query, body):
        found.append((method, segments, query, body))

    collect()
    for method, segments, query, body in found:
        if segments[:1] == ["nodes"] and segments[-1:] == ["view"]:
            continue
        path = "/v1alpha1/" + "/".join(urllib.parse.quote(part) for part in segments)
        async with asyncio.timeout(5), admin.raw(method, path, params=query, data=body or None) as answer:
            assert answer.status < 500, (method, path, query, await answer.text())
            if answer.status >= 400:
                assert answer.content_type == "application/problem+json", (method, path)
