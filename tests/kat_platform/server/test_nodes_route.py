"""Cordon, drain, labels, taints and removal through the API; a removed node's certificate is refused at once."""

from __future__ import annotations

import asyncio
import json

import pytest

from kat_platform.model.instance import InstanceRecord
from kat_platform.model.node import NodeRecord, NodeRole
from kat_platform.pki.certificates import load_certificate
from kat_platform.state import keys

from .samples import workload


@pytest.fixture
async def worker(plane):
    """A worker with a certificate that is noted as the join notes it."""
    await plane.add_node("w1", NodeRole.WORKER, "10.100.2.0/23")
    record = NodeRecord.from_json((await plane.store.get(keys.node("w1"))).value)
    await plane.store.put(keys.subnet_claim(record.subnet), b'{"node": "w1"}')
    await plane.store.put(keys.public_key_claim(record.public_key), b'{"node": "w1"}')
    tls = plane.node_tls("w1")
    serial = load_certificate((plane.folder / "node-w1.crt").read_bytes()).serial_number
    await plane.store.put(keys.certificate("w1", serial), b'{"expiresAt": 9e9}')
    await plane.settled()
    return tls, serial


async def put_instance(plane, node="w1", id_="web-aaaaa", **more):
    record = InstanceRecord(id=id_, namespace="default", workload="web", revision=1, node=node, **more)
    await plane.store.put(keys.instance("default", id_), record.to_json())
    await plane.settled()
    return record


async def events(plane, admin):
    await plane.server.api.events.flush()
    await plane.settled()
    return [item["event"]["reason"] for item in (await admin.get("/events"))["items"]]


async def still_open(read):
    try:
        await read()
    except json.JSONDecodeError:  # an empty line is the end of the stream
        return False
    return True


async def test_a_drain_cordons_says_what_is_left_and_ends_with_uncordon(plane, admin, worker):
    await admin.apply(workload(), 201)
    await put_instance(plane)
    await put_instance(plane, id_="log-aaaaa", only_node="w1")
    found = await admin.post("/nodes/w1/drain")
    assert (found["draining"], found["done"], found["left"]) == (True, False, 1)
    states = {item["instance"]: item["state"] for item in found["instances"]}
    assert states == {"web-aaaaa": "Moving", "log-aaaaa": "Staying"}
    assert (await admin.get("/nodes/w1/drain", params={"includeDaemons": "true"}))["left"] == 2
    record = (await admin.get("/nodes/w1"))["record"]
    assert (record["cordoned"], record["draining"]) == (True, True)
    assert (await admin.post("/nodes/w1/drain", {"includeDaemons": True}))["left"] == 2
    record = (await admin.post("/nodes/w1/uncordon"))["record"]
    assert not record.get("draining")
    assert not record.get("drainDaemons")
    assert not record.get("cordoned")
    assert {"Draining", "Uncordoned"} <= set(await events(plane, admin))


async def test_labels_and_taints_are_merged_checked_and_compared(plane, admin, worker):
    async def patch(body, status=200, **headers):
        return (await admin.ask("PATCH", "/v1alpha1/nodes/w1", status, json=body, headers=headers))[1]

    await patch({"labels": {"disk": "ssd", "zone": "a"}})
    found = await patch({"labels": {"zone": None}, "taints": [{"key": "gpu", "value": "yes", "effect": "NoExecute"}]})
    assert found["record"]["labels"] == {"disk": "ssd"}
    assert found["record"]["taints"] == [{"key": "gpu", "value": "yes", "effect": "NoExecute"}]
    etag = found["etag"]
    assert (await patch({"labels": {"disk": "hdd"}}, **{"If-Match": f'"{etag}"'}))["record"]["labels"] == {
        "disk": "hdd"
    }
    assert (await patch({"labels": {"disk": "x"}}, 412, **{"If-Match": f'"{etag}"'}))["code"] == "precondition-failed"
    before = (await admin.get("/nodes/w1"))["etag"]
    await patch({"labels": {"disk": "hdd"}})
    assert (await admin.get("/nodes/w1"))["etag"] == before, "nothing changed, so nothing is written"
    await patch({"taints": []})
    assert not (await admin.get("/nodes/w1"))["record"].get("taints")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"labels": {"no label": "x"}}, "invalid"),
        ({"labels": {"a": "x" * 64}}, "invalid"),
        ({"labels": {"kat.dws.rip/node": "other"}}, "invalid"),
        ({"labels": {f"a{i}": "b" for i in range(65)}}, "invalid"),
        ({"taints": [{"key": "a", "effect": "Explode"}]}, "invalid"),
        ({"taints": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}, "invalid"),
        ({"cordoned": True}, "invalid"),
        ({"subnet": "10.0.0.0/8"}, "invalid"),
    ],
)
async def test_a_change_that_is_not_the_operators_is_refused(plane, admin, worker, body, code):
    before = (await admin.get("/nodes/w1"))["record"]
    assert (await admin.ask("PATCH", "/v1alpha1/nodes/w1", 422, json=body))[1]["code"] == code
    assert (await admin.get("/nodes/w1"))["record"] == before


async def test_a_node_in_use_is_removed_by_force_only(plane, admin, worker):
    await put_instance(plane)
    await plane.store.put(keys.pin("default", "db", "data"), b'{"node": "w1"}')
    await plane.settled()
    _, problem, _ = await admin.ask("DELETE", "/v1alpha1/nodes/w1", 409)
    assert "it has 1 instance (default/web-aaaaa)" in problem["detail"]
    assert "default/db/data" in problem["detail"]
    assert "--force" in problem["hint"]
    await admin.ask("DELETE", "/v1alpha1/nodes/w1?force=true", 200)
    await admin.ask("GET", "/v1alpha1/nodes/w1", 404)
    assert "NodeRemoved" in await events(plane, admin)
    assert await plane.store.get(keys.pin("default", "db", "data")) is not None, "its data is not forgotten"


async def test_instances_that_were_replaced_do_not_keep_a_lost_node(plane, admin, worker):
    await put_instance(plane, lost_at=5.0)
    await plane.store.delete(keys.alive("w1"))
    await plane.settled()
    await admin.ask("DELETE", "/v1alpha1/nodes/w1", 200)


async def test_a_removed_node_is_refused_and_gives_up_all_it_had(plane, admin, worker, caller_of):
    tls, serial = worker
    async with caller_of(tls) as node, node.lines("/nodes/w1/view") as read:
        while "synced" not in await read():
            pass
        await node.post("/nodes/w1/heartbeat")
        await admin.ask("DELETE", "/v1alpha1/nodes/w1", 200)
        async with asyncio.timeout(5):
            while await still_open(read):
                pass
    async with caller_of(tls) as node:
        async with asyncio.timeout(5):
            while True:
                status, problem, _ = await node.ask("POST", "/v1alpha1/nodes/w1/heartbeat", json={})
                if status == 401:
                    break
                assert status == 404, "between removal and revocation it is no member"
        assert problem["code"] == "unauthenticated"
    assert await plane.store.get(keys.revoked(serial)) is not None
    for prefix in (keys.SUBNETS, keys.PUBLIC_KEYS, keys.CERTIFICATES, keys.ALIVE + "w1", keys.NODE_REPORTS + "w1"):
        assert [entry.key for entry in (await plane.store.list(prefix)).entries] == [], prefix


async def test_a_node_may_leave_by_itself_and_only_itself(plane, admin, worker, caller_of):
    await put_instance(plane)
    async with caller_of(worker[0]) as node:
        assert (await node.post("/nodes/w1/leave"))["progress"]["left"] == 1
        _, problem, _ = await node.ask("POST", "/v1alpha1/nodes/w1/leave", 409, json={"remove": True})
        assert "is in use" in problem["detail"]
        await node.ask("POST", "/v1alpha1/nodes/n1/leave", 403, json={"remove": True, "force": True})
        await node.ask("DELETE", "/v1alpha1/nodes/w1", 403)
        await node.ask("POST", "/v1alpha1/nodes/w1/drain", 403, json={})
        assert (await node.post("/nodes/w1/leave", {"remove": True, "force": True}))["deleted"]


async def test_the_only_control_plane_node_stays(admin):
    _, problem, _ = await admin.ask("DELETE", "/v1alpha1/nodes/n1?force=true", 409)
    assert "only control-plane node" in problem["detail"]


async def test_a_control_plane_node_takes_out_others_and_not_itself(plane, admin):
    await plane.add_node("n2", NodeRole.CONTROL_PLANE, "10.100.2.0/23")
    await plane.settled()
    _, problem, _ = await admin.ask("DELETE", "/v1alpha1/nodes/n1?force=true", 409)
    assert "n2" in problem["hint"]
    await plane.store.bootstrap("n1", "https://10.100.0.1:2380")
    await plane.store.add_member("", "https://10.100.2.1:2380")  # announced, and never started: it has no name
    await admin.ask("DELETE", "/v1alpha1/nodes/n2", 200)
    assert [member.name for member in (await plane.store.store_status()).members] == ["n1"]


@pytest.mark.parametrize("role", ["edit", "view"])
async def test_only_administrators_change_nodes(plane, worker, caller_of, role):
    async with caller_of(plane.user_tls("eve", role)) as eve:
        assert (await eve.get("/nodes/w1/drain"))["done"]
        for method, path in (
            ("POST", "/drain"),
            ("PATCH", ""),
            ("DELETE", ""),
            ("POST", "/cordon"),
            ("POST", "/leave"),
        ):
            await eve.ask(method, f"/v1alpha1/nodes/w1{path}", 403, json={})


async def test_a_node_with_the_only_copy_of_a_volume_is_not_even_drained(plane, admin, worker, caller_of):
    await plane.store.put(keys.pin("default", "db", "data"), b'{"node": "w1"}')
    await plane.settled()
    async with caller_of(worker[0]) as node:
        _, problem, _ = await node.ask("POST", "/v1alpha1/nodes/w1/leave", 409, json={})
    assert "default/db/data" in problem["detail"]
    assert not (await admin.get("/nodes/w1"))["record"].get("cordoned")


async def test_a_control_plane_node_that_the_quorum_needs_does_not_leave(plane, admin, caller_of):
    own = plane.node_tls("n2", NodeRole.CONTROL_PLANE)
    async with caller_of(plane.node_tls("n1", NodeRole.CONTROL_PLANE)) as first:
        _, problem, _ = await first.ask("POST", "/v1alpha1/nodes/n1/leave", 409, json={})
        assert "only control-plane node" in problem["detail"]
    await plane.add_node("n2", NodeRole.CONTROL_PLANE, "10.100.2.0/23")
    await plane.add_node("n3", NodeRole.CONTROL_PLANE, "10.100.4.0/23", alive=False)
    await plane.settled()
    async with caller_of(own) as node:
        _, problem, _ = await node.ask("POST", "/v1alpha1/nodes/n2/leave", 409, json={})
        assert "n3 is away" in problem["detail"]
        await plane.store.put(keys.alive("n3"), b"{}")
        await plane.settled()
        assert (await node.post("/nodes/n2/leave"))["progress"]["draining"]
