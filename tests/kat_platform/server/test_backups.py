"""Backups over the API: for administrators only, written down, and never with the key in an answer."""

from __future__ import annotations

import asyncio

import pytest

from kat_platform.backup.archive import check
from kat_platform.model.node import NodeRole
from kat_platform.state import keys


async def test_an_administrator_makes_lists_tries_and_fetches_one(plane, admin, tmp_path):
    made = await admin.post("/backups", status=201)
    assert made["node"] == "n1"
    assert made["keyId"] == plane.backups.key.id
    listed = await admin.get("/backups")
    assert (listed["node"], listed["items"]) == ("n1", [made])
    tried = await admin.post(f"/backups/{made['name']}/verify")
    assert tried["keys"] > 0
    async with admin.raw("GET", f"/v1alpha1/backups/{made['name']}/content") as answer:
        assert answer.status == 200
        data = await answer.read()
    assert len(data) == made["size"] == answer.content_length
    (tmp_path / "fetched").write_bytes(data)
    found = check(tmp_path / "fetched", plane.backups.key)
    assert found.manifest.view["cluster"]["configuration"]["kind"] == "ClusterConfiguration"
    assert found.manifest.view["node/n1"]["subnet"] == "10.100.0.0/23"
    for seen in (made, listed, tried):
        assert plane.backups.key.text not in str(seen)


async def test_what_is_not_there_is_not_found(admin):
    for name in ("nobody", "..", "%2e%2e%2fn1"):
        await admin.post(f"/backups/{name}/verify", status=404)
        await admin.get(f"/backups/{name}/content", status=404)


@pytest.mark.parametrize("role", ["edit", "view"])
async def test_only_administrators_see_them(plane, caller_of, admin, role):
    made = await admin.post("/backups", status=201)
    async with caller_of(plane.user_tls("somebody", role)) as caller:
        await _refused(caller, made["name"])


@pytest.mark.parametrize("role", list(NodeRole))
async def test_no_node_sees_them(plane, caller_of, admin, role):
    made = await admin.post("/backups", status=201)
    async with caller_of(plane.node_tls("n1", role)) as caller:
        await _refused(caller, made["name"])


async def _refused(caller, name):
    await caller.get("/backups", status=403)
    await caller.post("/backups", status=403)
    await caller.post(f"/backups/{name}/verify", status=403)
    await caller.get(f"/backups/{name}/content", status=403)


async def test_who_made_tried_and_took_one_is_written_down(plane, admin):
    name = (await admin.post("/backups", status=201))["name"]
    await admin.post(f"/backups/{name}/verify")
    async with admin.raw("GET", f"/v1alpha1/backups/{name}/content") as answer:
        await answer.read()
    wanted = {"backups POST", "backups/verify POST", "backups/content GET"}
    async with asyncio.timeout(10):
        while True:
            records = [entry.value.decode() for entry in (await plane.store.list(keys.AUDIT)).entries]
            if all(any(f'"{resource}"' in record for record in records) for resource in wanted):
                break
            await asyncio.sleep(0.05)
    assert not any(plane.backups.key.text in record for record in records)


async def test_a_further_control_plane_node_is_given_the_recovery_key(plane, caller_of):
    await plane.store.bootstrap("n1", "https://10.100.0.1:2380")
    await plane.add_node("n2", NodeRole.CONTROL_PLANE, "10.100.2.0/23")
    await plane.settled()
    async with caller_of(plane.node_tls("n2", NodeRole.CONTROL_PLANE)) as caller:
        made = await caller.post("/nodes/n2/membership", {})
    assert made["backupKey"] == plane.backups.key.text
