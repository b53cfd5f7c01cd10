"""What agents use: the view and its changes, reports, heartbeats."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kat_platform
from kat_platform.interfaces.store import Change, ChangeType, Entry
from kat_platform.leader.placement import node_ready
from kat_platform.model.instance import Desired, InstanceRecord, InstanceStatus, Phase
from kat_platform.model.node import NodeRecord
from kat_platform.model.node import NodeRole as Recorded
from kat_platform.model.revision import Revision, WorkloadRecord
from kat_platform.model.workload import Workload
from kat_platform.server.index import Index
from kat_platform.server.node_view import all_keys, item_keys, render_item
from kat_platform.state import keys
from kat_platform.state.cluster import ClusterState, advance

from .samples import balancer, workload


async def bind(plane, id_, node="n1", **changes):
    record = InstanceRecord(
        id=id_, namespace="default", workload="web", revision=1, node=node, created_at=1.0, **changes
    )
    await plane.store.put(keys.instance("default", id_), record.to_json())
    await plane.settled()


@pytest.fixture
async def node(plane, caller_of):
    async with caller_of(plane.node_tls("n1")) as node:
        yield node


async def read_until(read, wanted):
    """Fold lines into a view until one of them satisfies ``wanted``."""
    view = {}
    async with asyncio.timeout(10):
        while True:
            line = await read()
            if "key" in line:
                view[line["key"]] = line["body"]
            if wanted(line):
                return view


async def test_the_view_has_all_a_node_needs_and_then_what_changes(plane, admin, node):
    await admin.apply({**workload(), **balancer()}, 201)
    await bind(plane, "web-00001")
    await bind(plane, "web-00002", node="n2")
    async with node.lines("/nodes/n1/view") as read:
        view = await read_until(read, lambda line: "synced" in line)
        assert set(view) == {"cluster", "node/n1", "service/default/web", "instance/default/web-00001"}
        assert view["cluster"]["apiEndpoints"] == ["https://192.0.2.1:9115", "https://10.100.0.1:9115"]
        assert view["instance/default/web-00001"]["document"]["spec"]["source"]["image"] == "example/web:1"
        assert view["service/default/web"]["endpoints"] == []
        body = {"instances": {"default/web-00001": {"phase": "Running", "ready": True, "address": "10.100.0.9"}}}
        assert (await node.post("/nodes/n1/report", body))["unknown"] == []
        found = await read_until(read, lambda line: line.get("key") == "service/default/web")
        endpoint = found["service/default/web"]["endpoints"][0]
        assert (endpoint["id"], endpoint["ready"], endpoint["draining"]) == ("web-00001", True, False)
        await bind(plane, "web-00001", desired=Desired.STOP)
        found = await read_until(read, lambda line: line.get("key") == "service/default/web")
        endpoint = found["service/default/web"]["endpoints"][0]
        assert (endpoint["ready"], endpoint["draining"]) == (False, True)
        await plane.store.delete(keys.instance("default", "web-00001"))
        found = await read_until(read, lambda line: line.get("key") == "instance/default/web-00001")
        assert found["instance/default/web-00001"] is None


async def test_a_report_is_stored_and_what_is_not_the_nodes_is_named(plane, admin, node):
    await admin.apply(workload(), 201)
    await bind(plane, "web-00001")
    await bind(plane, "web-00002", node="n2")
    status = {"phase": "Running", "ready": True}
    answer = await node.post(
        "/nodes/n1/report",
        {
            "node": {"bootId": "b1", "addresses": ["192.0.2.7"]},
            "instances": {"default/web-00001": status, "default/web-00002": status, "default/none": status},
            "events": [{"reason": "Pulled", "objectKind": "Instance", "objectName": "web-00001", "source": "liar"}],
        },
    )
    assert answer["unknown"] == ["default/none", "default/web-00002"]
    stored = InstanceStatus.from_json((await plane.store.get(keys.status("default", "web-00001"))).value)
    assert (stored.phase, stored.node) == (Phase.RUNNING, "n1")
    assert await plane.store.get(keys.status("default", "none")) is None
    assert (await admin.get("/nodes/n1"))["report"]["bootId"] == "b1"
    await plane.server.api.events.flush()
    event = json.loads((await plane.store.list(keys.EVENTS)).entries[0].value)
    assert event["source"] == "agent/n1"


async def test_the_same_report_again_writes_nothing(plane, admin, node):
    await admin.apply(workload(), 201)
    await bind(plane, "web-00001")
    body = {"instances": {"default/web-00001": {"phase": "Running"}}, "node": {"bootId": "b1"}}
    await node.post("/nodes/n1/report", body)
    entry = await plane.store.get(keys.status("default", "web-00001"))
    await node.post("/nodes/n1/report", body)
    assert (await plane.store.get(keys.status("default", "web-00001"))).revision == entry.revision
    await node.post("/nodes/n1/report", {"instances": {"default/web-00001": {"phase": "Failed"}}})
    await node.post("/nodes/n1/report", body)
    assert b"Running" in (await plane.store.get(keys.status("default", "web-00001"))).value


async def test_a_wrong_report_changes_nothing(plane, admin, node):
    await admin.apply(workload(), 201)
    await bind(plane, "web-00001")
    before = (await plane.store.store_status()).revision
    for body in (
        {"instances": {"default/web-00001": {"phase": "Flying"}}},
        {"instances": {"web-00001": {"phase": "Running"}}},
        {"node": {"bootId": 1}},
    ):
        await node.post("/nodes/n1/report", body, status=422)
    assert (await plane.store.store_status()).revision == before


async def test_an_instance_bound_a_moment_ago_is_known(plane, admin, node):
    """The agent may hear of it from another server before this one's cache has it."""
    await admin.apply(workload(), 201)
    record = InstanceRecord(id="web-00009", namespace="default", workload="web", revision=1, node="n1")
    plane.server.api.deps.cache._on_change = lambda *_: None  # this server's watch hangs
    await plane.store.put(keys.instance("default", "web-00009"), record.to_json())
    answer = await node.post("/nodes/n1/report", {"instances": {"default/web-00009": {"phase": "Running"}}})
    assert answer["unknown"] == []


async def test_heartbeats_keep_a_node_alive_without_writing(plane, node):
    await plane.store.delete(keys.alive("n1"))
    await plane.settled()
    answer = await node.post("/nodes/n1/heartbeat", {"ttlSeconds": 3})
    assert answer["ttlSeconds"] == 8
    await plane.settled()
    entry = await plane.store.get(keys.alive("n1"))
    assert entry.lease
    revision = (await plane.store.store_status()).revision
    for _ in range(5):
        await node.post("/nodes/n1/heartbeat")
    assert (await plane.store.store_status()).revision == revision
    await plane.store.revoke(entry.lease)
    await plane.settled()
    assert await plane.store.get(keys.alive("n1")) is None
    await node.post("/nodes/n1/heartbeat")
    assert (await plane.store.get(keys.alive("n1"))).lease not in (0, entry.lease)


# --- folding the stream gives the same as rendering afresh ------------------------------------------------------

_IDS = ["web-00001", "web-00002", "api-00001"]
_DOCUMENT = Workload.model_validate(
    {"metadata": {"name": "web"}, "spec": {"type": "Service", "source": {"image": "example/web:1"}}}
)


@st.composite
def changes(draw):
    kind = draw(st.sampled_from(["instance", "status", "workload", "revision", "vip", "node", "alive", "namespace"]))
    name = draw(st.sampled_from(["web", "api"]))
    if draw(st.booleans()) and draw(st.booleans()):
        value = None
    elif kind == "instance":
        id_ = draw(st.sampled_from(_IDS))
        record = InstanceRecord(
            id=id_,
            namespace="default",
            workload=draw(st.sampled_from(["web", "api"])),
            revision=draw(st.integers(1, 2)),
            node=draw(st.sampled_from([None, "n1", "n2"])),
            desired=draw(st.sampled_from(list(Desired))),
            lost_at=draw(st.sampled_from([None, 5.0])),
        )
        return keys.instance("default", id_), record.to_json()
    elif kind == "status":
        value = InstanceStatus(
            phase=draw(st.sampled_from(list(Phase))),
            ready=draw(st.booleans()),
            address=draw(st.sampled_from([None, "10.100.0.7", "10.100.0.8"])),
        ).to_json()
    elif kind == "workload":
        value = WorkloadRecord(name=name, namespace="default", revision=draw(st.integers(1, 2))).to_json()
    elif kind == "revision":
        value = Revision(
            namespace="default", workload=name, number=1, created_at=1.0, files_digest="", document=_DOCUMENT
        ).to_json()
    elif kind == "vip":
        value = b'{"address":"10.101.0.1"}'
    elif kind == "node":
        value = NodeRecord(name="n2", role=draw(st.sampled_from(list(Recorded)))).to_json()
    else:
        value = b'{"metadata":{"name":"shop"}}'
    id_ = draw(st.sampled_from(_IDS))
    key = {
        "instance": keys.instance("default", id_),
        "status": keys.status("default", id_),
        "workload": keys.workload("default", name),
        "revision": keys.revision("default", name, 1),
        "vip": keys.vip("default", name),
        "node": keys.node("n2"),
        "alive": keys.alive("n2"),
        "namespace": keys.namespace("shop"),
    }[kind]
    return key, value


@given(st.lists(st.lists(changes(), min_size=1, max_size=4), max_size=20))
@settings(max_examples=200, deadline=None)
def test_what_a_change_touches_is_all_that_changes(batches):
    """Rendering again only the items that the index names keeps the folded view equal to a fresh one."""
    state, index = ClusterState(), Index()
    folded = {}
    for number, batch in enumerate(batches, 1):
        made = tuple(
            Change(ChangeType.DELETE if value is None else ChangeType.PUT, Entry(key, value or b"", number, number))
            for key, value in dict(batch).items()
        )
        state = advance(state, made, number)
        for ref in index.fold(state, made):
            for key in item_keys(ref):
                item = render_item(state, index, "n1", key)
                folded[key] = None if item is None else item.to_json()
        fresh_index = Index()
        fresh_index.load(state)
        fresh = {}
        for key in all_keys(state, fresh_index, "n1"):
            item = render_item(state, fresh_index, "n1", key)
            if item is not None:
                fresh[key] = item.to_json()
        assert {key: body for key, body in folded.items() if body is not None} == fresh


async def test_what_a_newer_agent_adds_to_its_report_is_left_out(plane, admin, node):
    await admin.apply(workload(), 201)
    await bind(plane, "web-00001")
    later = {"later": {"a": 1}}
    body = {
        "node": {"bootId": "b2", "conditions": [{"type": "Ready", "status": True, **later}], **later},
        "instances": {"default/web-00001": {"phase": "Running", **later}},
        "events": [{"reason": "New", "objectKind": "Node", "objectName": "n1", **later}],
        **later,
    }
    assert (await node.post("/nodes/n1/report", body))["unknown"] == []
    assert b"Running" in (await plane.store.get(keys.status("default", "web-00001"))).value
    await node.post("/nodes/n1/heartbeat", {"ttlSeconds": 8, **later})
    await admin.ask("PUT", "/v1alpha1/configuration", 422, json={"spec": {}, **later})


@pytest.mark.parametrize(("by", "welcome"), [(0, True), (1, True), (2, False)])
async def test_an_agent_too_far_away_gets_no_view_but_stays_alive(plane, admin, node, by, welcome):
    major, minor, _ = kat_platform.__version__.split(".", 2)
    agent = f"{major}.{int(minor) + by}.3"
    headers = {"User-Agent": f"kat-agent/{agent}"}
    if welcome:
        async with node.raw("GET", "/v1alpha1/nodes/n1/view", headers=headers) as answer:
            assert answer.status == 200
    else:
        _, problem, _ = await node.ask("GET", "/v1alpha1/nodes/n1/view", 409, headers=headers)
        assert f"install kat {major}.{minor}" in problem["detail"]
    await node.post("/nodes/n1/report", {"node": {"versions": {"agent": agent}}})
    await node.post("/nodes/n1/heartbeat")
    await plane.settled()
    ready, why = node_ready(plane.cache.state, "n1")
    assert ready == welcome
    assert ("install" in why) != welcome
