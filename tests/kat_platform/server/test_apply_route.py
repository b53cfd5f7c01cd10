"""Applying Quadlets over the API: what is stored, what is answered, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio
import gzip
import io
import tarfile

import pytest

from kat_platform.state import keys

from ...hostile import empty_members
from .samples import balancer, namespace, workload


async def test_apply_stores_a_revision_and_says_what_it_made(plane, admin):
    plan = await admin.apply({**workload(), **balancer()}, 201)
    assert [(e["action"], e["kind"], e["name"]) for e in plan["plan"]] == [
        ("create", "Workload", "web"),
        ("create", "VirtualLoadBalancer", "web"),
    ]
    assert (plan["namespace"], plan["workload"], plan["revision"]) == ("default", "web", 1)
    item = await admin.get("/namespaces/default/workloads/web")
    assert item["record"]["replicas"] == 2
    assert item["summary"] == {"wanted": 2, "updated": 0, "ready": 0, "available": 0}
    assert item["revision"]["files"] == {}
    revision = await admin.get("/namespaces/default/workloads/web/revisions/1")
    assert "kind: Workload" in revision["revision"]["files"]["workload.kat"]
    assert revision["revision"]["createdBy"] == "root"


async def test_the_same_content_makes_no_new_revision(plane, admin):
    await admin.apply(workload(), 201)
    before = (await plane.store.store_status()).revision
    again = await admin.apply({"workload.kat": workload()["workload.kat"] + "# a remark\n"}, 200)
    assert [e["action"] for e in again["plan"]] == ["none"]
    assert again["revision"] == 1
    await plane.server.api.audit.flush()
    assert await plane.store.get(keys.revision("default", "web", 2)) is None
    assert (await plane.store.get(keys.workload("default", "web"))).revision <= before


async def test_a_change_is_shown_field_by_field_and_makes_a_revision(admin):
    await admin.apply(workload(), 201)
    plan = await admin.apply({**workload(replicas=3, image="example/web:2"), **balancer()}, 200)
    found = {(e["action"], e["path"]): (e.get("before"), e.get("after")) for e in plan["plan"]}
    assert found == {
        ("change", "spec.replicas"): (2, 3),
        ("change", "spec.source.image"): ("example/web:1", "example/web:2"),
        ("create", ""): (None, None),
    }
    assert plan["revision"] == 2


async def test_scaled_replicas_come_back_with_the_next_apply(admin):
    await admin.apply(workload(), 201)
    await admin.post("/namespaces/default/workloads/web/scale", {"replicas": 7})
    plan = await admin.apply(workload(), 200)
    assert [(e["path"], e["before"], e["after"]) for e in plan["plan"]] == [("spec.replicas", 7, 2)]
    assert plan["revision"] == 1, "the content is that of revision 1"
    assert (await admin.get("/namespaces/default/workloads/web"))["record"]["replicas"] == 2


async def test_a_dry_run_changes_nothing(plane, admin):
    before = (await plane.store.store_status()).revision
    plan = await admin.apply(workload(), 200, params={"dryRun": "true"})
    assert plan["dryRun"] is True
    assert plan["plan"][0]["action"] == "create"
    await admin.get("/namespaces/default/workloads/web", 404)
    assert len((await plane.store.list(keys.WORKLOADS)).entries) == 0
    assert (await plane.store.store_status()).revision == before


async def test_history_is_trimmed_but_keeps_what_is_used(plane, admin):
    for number in range(1, 15):
        await admin.apply(workload(image=f"example/web:{number}"))
    found = await admin.get("/namespaces/default/workloads/web/revisions")
    assert [item["number"] for item in found["items"]] == sorted(range(5, 15), key=lambda n: f"web/{n}")


async def test_a_namespace_comes_with_its_workload(admin):
    problem = await admin.apply(workload(ns="shop"), 422)
    assert problem["code"] == "invalid"
    assert problem["errors"][0]["file"] == "workload.kat"
    assert problem["errors"][0]["line"] == 3
    plan = await admin.apply({**workload(ns="shop"), **namespace("shop")}, 201)
    assert ("create", "Namespace", "shop") in [(e["action"], e["kind"], e["name"]) for e in plan["plan"]]
    assert (await admin.get("/namespaces/shop"))["document"]["metadata"]["name"] == "shop"


async def test_resources_alone_can_be_applied(admin):
    plan = await admin.apply(namespace("shop"), 200)
    assert plan["workload"] is None
    await admin.get("/namespaces/shop")


async def test_the_path_must_name_what_the_documents_do(admin):
    problem = await admin.apply(workload("other"), 422, path="/namespaces/default/workloads/web")
    assert "default/other" in problem["detail"]
    await admin.apply(workload(), 201, path="/namespaces/default/workloads/web")


async def test_a_node_port_that_is_taken_is_a_conflict_at_its_place(admin):
    await admin.apply({**workload(), **balancer(node_port=30080)}, 201)
    problem = await admin.apply({**workload("two"), **balancer("two", node_port=30080)}, 409)
    assert problem["code"] == "conflict"
    assert problem["errors"][0]["file"] == "VirtualLoadBalancer.kat"
    assert problem["errors"][0]["path"] == "spec.ports.0.nodePort"
    assert "default/web" in problem["detail"]
    problem = await admin.apply({**workload("two"), **balancer("two", node_port=9115)}, 409)
    assert "KAT itself" in problem["detail"]
    await admin.get("/namespaces/default/workloads/two", 404)


async def test_errors_name_file_line_column_and_what_was_meant(admin):
    text = workload()["workload.kat"].replace("replicas", "replica")
    problem = await admin.apply({"workload.kat": text}, 422)
    found = problem["errors"][0]
    assert (found["file"], found["line"], found["suggestion"]) == ("workload.kat", 4, "replicas")
    assert found["column"] > 1


async def test_what_is_not_built_yet_is_refused(admin):
    text = workload()["workload.kat"].replace("type: Service, replicas: 2", "type: Job")
    problem = await admin.apply({"workload.kat": text}, 422)
    assert problem["code"] == "not-supported-yet"
    assert problem["errors"][0]["line"] == 4


def tar(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
    return buffer.getvalue()


HOSTILE = {
    "empty": (lambda: b"", (422,)),
    "text": (lambda: b"no archive at all", (422,)),
    "zeros": (lambda: gzip.compress(b"\0" * 200), (422,)),
    "dotdot": (lambda: tar(("../workload.kat", tarfile.REGTYPE)), (422,)),
    "absolute": (lambda: tar(("/workload.kat", tarfile.REGTYPE)), (422,)),
    "symlink": (lambda: tar(("workload.kat", tarfile.SYMTYPE)), (422,)),
    "hardlink": (lambda: tar(("workload.kat", tarfile.LNKTYPE)), (422,)),
    "device": (lambda: tar(("workload.kat", tarfile.CHRTYPE)), (422,)),
    "many": (lambda: empty_members(10_100, "f{:05}".format), (413,)),
    "bomb": (lambda: gzip.compress(b"\0" * (80 << 20)), (413, 422)),
    "oversized": (lambda: b"x" * (9 << 20), (413,)),
}
"""What is sent, made by the test that sends it, and what may be answered."""


@pytest.mark.parametrize("what", HOSTILE)
async def test_hostile_archives_are_refused_and_nothing_changes(plane, admin, what):
    make, statuses = HOSTILE[what]
    before = (await plane.store.store_status()).revision
    found, problem, headers = await admin.ask("POST", "/v1alpha1/apply", data=make())
    assert found in statuses, problem
    assert headers["Content-Type"].startswith("application/problem+json")
    assert problem["detail"]
    assert "Traceback" not in str(problem)
    assert (await plane.store.store_status()).revision == before


async def test_if_match_decides_between_two_who_read_the_same(admin):
    path = "/v1alpha1/namespaces/default/workloads/web"
    await admin.apply(workload(), 201)
    _, _, headers = await admin.ask("GET", path, 200)
    etag = headers["ETag"]
    target = "/namespaces/default/workloads/web"
    await admin.apply(workload(replicas=3), 200, path=target, headers={"If-Match": etag})
    problem = await admin.apply(workload(replicas=4), 412, path=target, headers={"If-Match": etag})
    assert problem["code"] == "precondition-failed"
    problem = await admin.apply(workload(replicas=4), 400, path=target, headers={"If-Match": "web"})
    assert problem["code"] == "usage"
    await admin.apply(workload("new"), 412, path="/namespaces/default/workloads/new", headers={"If-Match": "*"})


async def test_many_at_once_lose_nothing(admin):
    await admin.apply(workload(), 201)
    await asyncio.gather(*(admin.apply(workload(image=f"example/web:{n}")) for n in range(2, 6)))
    found = await admin.get("/namespaces/default/workloads/web/revisions")
    numbers = [item["number"] for item in found["items"]]
    assert len(set(numbers)) == len(numbers)
    assert (await admin.get("/namespaces/default/workloads/web"))["record"]["revision"] == max(numbers)


async def test_a_full_store_and_one_that_is_away_are_told_apart(plane, admin):
    plane.store.down = True
    problem = await admin.apply(workload(), 503)
    assert (problem["code"], problem["retryable"]) == ("store", True)
    plane.store.down = False
    plane.store.state.quota_bytes = 1
    problem = await admin.apply(workload(), 507)
    assert problem["code"] == "store-full"
    assert problem["retryable"] is False
