"""Becoming a member of the store: what a control-plane node is given, and everybody else is refused."""

from __future__ import annotations

import pytest

from kat_platform.model.node import NodeRole
from kat_platform.pki.authority import Authority

WORKER, CONTROL = NodeRole.WORKER, NodeRole.CONTROL_PLANE
URL = "https://10.100.2.1:2380"


@pytest.fixture
async def second(plane, caller_of):
    """A second control-plane node that has joined."""
    await plane.store.bootstrap("n1", "https://10.100.0.1:2380")
    await plane.add_node("n2", CONTROL, "10.100.2.0/23")
    await plane.settled()
    async with caller_of(plane.node_tls("n2", CONTROL)) as caller:
        yield caller


async def test_a_control_plane_node_is_announced_and_given_the_key(plane, second):
    made = await second.post("/nodes/n2/membership", {})
    assert [(m["name"], m["peerUrls"], m["learner"]) for m in made["members"]] == [
        ("n1", ["https://10.100.0.1:2380"], False),
        ("n2", [URL], True),
    ]
    assert Authority.from_pem(plane.authority.pem(), made["caKey"].encode()).fingerprint == plane.authority.fingerprint
    again = await second.post("/nodes/n2/membership", {})
    assert len(again["members"]) == 2, "asking again announced it twice"
    await second.post("/nodes/n2/membership/vote", {})
    assert [member.learner for member in plane.store.members.values()] == [False, False]
    await second.post("/nodes/n2/membership/vote", {})


async def test_who_was_not_announced_has_no_vote(second):
    found = await second.post("/nodes/n2/membership/vote", {}, status=404)
    assert "announced" in found["detail"]


@pytest.mark.parametrize("path", ["/nodes/w1/membership", "/nodes/w1/membership/vote"])
@pytest.mark.parametrize("claimed", [WORKER, CONTROL])
async def test_a_worker_gets_nothing(plane, caller_of, path, claimed):
    """Also not with a certificate that says control plane: the record decides too."""
    await plane.store.bootstrap("n1", "https://10.100.0.1:2380")
    await plane.add_node("w1", WORKER, "10.100.4.0/23")
    await plane.settled()
    async with caller_of(plane.node_tls("w1", claimed)) as caller:
        found = await caller.post(path, {}, status=403)
    assert "caKey" not in found
    assert list(plane.store.members) == ["n1"]


async def test_nobody_asks_for_another_node(plane, second, admin):
    await plane.add_node("n3", CONTROL, "10.100.6.0/23")
    await plane.settled()
    for caller in (second, admin):
        assert "caKey" not in await caller.post("/nodes/n3/membership", {}, status=403)


async def test_it_waits_while_another_member_is_away(plane, second):
    await plane.add_node("n3", CONTROL, "10.100.6.0/23", alive=False)
    await plane.settled()
    found = await second.post("/nodes/n2/membership", {}, status=503)
    assert "n3 is away" in found["detail"]
