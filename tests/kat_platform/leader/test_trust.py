"""The change of a CA: whatever happens in whatever order, nobody meets a certificate that it does not accept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kat_platform.leader.trust import advance, waiting
from kat_platform.model.node import Condition, NodeRecord, NodeReport, NodeRole
from kat_platform.model.trust import NodeTrust, RotationPhase, TrustedAuthority, TrustRecord
from kat_platform.state.cluster import ClusterState

OLD, NEW = (TrustedAuthority(fingerprint=name, certificate=name) for name in ("old", "new"))
WELL = (Condition(type="Ready", status=True), Condition(type="DriversHealthy", status=True))
NODES = {
    "n1": NodeRole.CONTROL_PLANE,
    "n2": NodeRole.CONTROL_PLANE,
    "n3": NodeRole.CONTROL_PLANE,
    "w1": NodeRole.WORKER,
}


@dataclass
class Node:
    """What a node has on disk, and what it has reported of that; ``seen`` is the record as its view has it."""

    name: str
    role: NodeRole
    seen: TrustRecord
    trusts: frozenset[str] = frozenset({"old"})
    holds: frozenset[str] = frozenset({"old"})
    store: frozenset[str] = frozenset({"old"})
    issuer: str = "old"
    up: bool = True
    report: NodeTrust = field(default_factory=NodeTrust)

    def look(self, record: TrustRecord) -> None:
        self.seen = record
        self.trusts = record.trusted
        if self.role is NodeRole.CONTROL_PLANE:
            self.holds = self.holds & record.trusted

    def hold(self, record: TrustRecord) -> None:
        if self.role is NodeRole.CONTROL_PLANE and record.sealed_key:
            self.holds = self.holds | {record.newest}

    def renew(self, signer: str) -> None:
        if signer in self.trusts:
            self.issuer = signer

    def restart_store(self) -> None:
        if self.seen.store_turn == self.name:
            self.store = self.trusts

    def tell(self) -> None:
        member = self.role is NodeRole.CONTROL_PLANE
        self.report = NodeTrust(
            trusts=tuple(self.trusts),
            holds=tuple(self.holds) if member else (),
            store_trusts=tuple(self.store) if member else None,
            issuer=self.issuer,
        )


class World:
    """A cluster: the record in the store, and nodes that do things late, in any order, or not at all for a while."""

    def __init__(self) -> None:
        self.record = TrustRecord(phase=RotationPhase.SPREADING, authorities=(OLD, NEW), signer="old", sealed_key="s")
        before = TrustRecord(authorities=(OLD,), signer="old")
        self.nodes = {name: Node(name, role, before) for name, role in NODES.items()}
        for node in self.nodes.values():
            node.tell()

    def state(self) -> ClusterState:
        return ClusterState(
            nodes={n.name: NodeRecord(name=n.name, role=n.role) for n in self.nodes.values()},
            reports={n.name: NodeReport(trust=n.report, conditions=WELL) for n in self.nodes.values()},
            alive=frozenset(n.name for n in self.nodes.values() if n.up),
            trust=self.record,
        )

    def do(self, name: str, action: str) -> None:
        node = self.nodes[name]
        if action == "lead":
            self.record = advance(self.state()) or self.record
        elif action == "finish":
            self.record = self.record.model_copy(update={"finish_wanted": True})
        elif action == "power":
            node.up = not node.up
            if node.up and node.role is NodeRole.CONTROL_PLANE:
                node.store = node.trusts  # it reads the file at its start
        elif not node.up:
            return
        elif action == "look":
            node.look(self.record)
        elif action == "hold":
            node.hold(self.record)
        elif action == "renew":
            node.renew(self.record.signer)
        elif action == "restart":
            node.restart_store()
        else:
            node.tell()

    def check(self) -> None:
        used = {node.issuer for node in self.nodes.values()}
        for node in self.nodes.values():
            assert used <= node.trusts | node.seen.trusted, f"{node.name} refuses a certificate in use"
        members = [node for node in self.nodes.values() if node.role is NodeRole.CONTROL_PLANE]
        for node in members:
            assert {member.issuer for member in members} <= node.store, f"the store's member on {node.name} is alone"
            assert self.record.signer in node.holds, f"{node.name} cannot sign"
        assert self.record.signer in self.record.trusted


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(sorted(NODES)),
        st.sampled_from(["lead", "look", "hold", "renew", "restart", "tell", "power", "finish"]),
    ),
    max_size=120,
)


ROUND = ("look", "hold", "renew", "restart", "tell", "lead")
LAZY = st.sets(st.tuples(st.sampled_from(sorted(NODES)), st.sampled_from(ROUND[:-1])), max_size=3)


@settings(max_examples=300, deadline=None)
@given(ACTIONS, LAZY)
def test_whatever_happens_nobody_is_locked_out_and_all_come_through(actions, lazy):
    """``lazy`` is what some node does not get to for a long time, while the others do all they should."""
    world = World()
    for name, action in actions:
        world.do(name, action)
        world.check()
    for node in world.nodes.values():  # all are there again, and do what they should
        if not node.up:
            world.do(node.name, "power")
    world.do("n1", "finish")
    for number in range(40):
        for name in NODES:
            for action in ROUND:
                if number >= 20 or (name, action) not in lazy:
                    world.do(name, action)
                    world.check()
    assert world.record.phase is RotationPhase.SETTLED
    assert world.record.trusted == {"new"}
    assert (world.record.sealed_key, world.record.link, world.record.former) == ("", "", ("old",))
    assert all(node.trusts == {"new"} and node.issuer == "new" for node in world.nodes.values())
    assert all(node.store == {"new"} for node in world.nodes.values() if node.role is NodeRole.CONTROL_PLANE)


@settings(max_examples=200, deadline=None)
@given(ACTIONS)
def test_one_member_of_the_store_at_a_time_and_none_while_one_is_away(actions):
    world = World()
    for name, action in actions:
        before, away = world.record, [n for n in world.nodes.values() if not n.up and n.role is NodeRole.CONTROL_PLANE]
        world.do(name, action)
        if world.record.store_turn and world.record.store_turn != before.store_turn:
            assert not away, "a turn was given while a member was away"
            if before.store_turn and world.record.phase is before.phase:
                done = world.nodes[before.store_turn].report.store_trusts or ()
                assert set(done) == before.trusted, "the one before had not answered yet"


def test_it_stays_where_both_are_trusted_until_the_finish_is_asked_for():
    world = World()
    for _ in range(20):
        for name in NODES:
            for action in ("look", "hold", "renew", "restart", "tell", "lead"):
                world.do(name, action)
    assert world.record.phase is RotationPhase.SIGNING
    assert waiting(world.state()) == ()
    assert advance(world.state()) is None, "nothing is written for nothing"


@pytest.mark.parametrize(
    ("trust", "reason"),
    [
        (None, "has not said which CAs it trusts"),
        (NodeTrust(trusts=("old",), holds=("old",)), "does not trust the new CA yet"),
        (NodeTrust(trusts=("old", "new"), holds=("old",)), "does not have the new CA's key yet"),
        (
            NodeTrust(trusts=("old", "new"), holds=("old", "new"), store_trusts=("old",)),
            "its member of the store has yet to start anew",
        ),
    ],
)
def test_it_is_said_what_a_node_lacks(trust, reason):
    world = World()
    state = replace(
        world.state(),
        nodes={"n1": NodeRecord(name="n1", role=NodeRole.CONTROL_PLANE)},
        reports={"n1": NodeReport(trust=trust)},
        alive=frozenset(),
    )
    (found,) = waiting(state)
    assert (found.node, found.reason, found.away) == ("n1", reason, True)


def test_who_is_left_behind_is_not_waited_for_unless_it_comes_back():
    world = World()
    for name in ("n1", "n2", "n3"):
        world.nodes[name].look(world.record)
        world.nodes[name].hold(world.record)
        world.nodes[name].store = frozenset({"old", "new"})
        world.nodes[name].tell()
    world.nodes["w1"].up = False
    assert [each.node for each in waiting(world.state())] == ["w1"]
    world.record = world.record.model_copy(update={"left_behind": ("w1",)})
    assert waiting(world.state()) == ()
    world.nodes["w1"].up = True
    assert [each.node for each in waiting(world.state())] == ["w1"]


def test_nothing_happens_without_a_change():
    assert advance(ClusterState()) is None
    assert advance(ClusterState(trust=TrustRecord(authorities=(OLD,), signer="old"))) is None
