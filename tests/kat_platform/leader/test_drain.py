"""Drains and NoExecute taints, tried in a pure world: bounds hold, everything that can leaves, the rest says why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kat_platform.leader.drain import progress
from kat_platform.leader.rollout import Fact, bounds, decide
from kat_platform.model.drain import Departure
from kat_platform.model.instance import Desired, Phase
from kat_platform.model.node import NodeTaint
from kat_platform.model.revision import Rollout, RolloutState
from kat_platform.state import keys
from kat_platform.testing.world import World
from kat_platform.testing.world import make_workload as workload

slow_machine = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
EVICT = NodeTaint(key="broken", effect="NoExecute")
OTHER = {"image": "localhost/app:2"}


def nodes_of(world: World, name: str = "web") -> set[str]:
    return {record.node or "" for record in world.running(name)}


def lead_within(world: World, name: str, most: int, fewest: int) -> None:
    """One pass of the leader that must neither exceed the bounds nor leave fewer ready than they allow."""
    ready, there = len(world.ready(name)), len(world.running(name))
    world.lead()
    assert len(world.running(name)) <= max(most, there), "more instances than the update rules allow"
    assert len(world.ready(name)) >= min(ready, fewest), "fewer ready than the update rules allow"


def test_a_drain_empties_the_node_and_keeps_every_instance_ready() -> None:
    world = World(3)
    world.apply(workload(replicas=6))
    world.settle()
    world.drain("n1")
    for _ in range(30):
        lead_within(world, "web", 7, 6)
        world.obey()
        world.now += 1
    assert nodes_of(world) == {"n2", "n3"}
    assert len(world.ready()) == 6
    assert progress(world.state, "n1").done
    assert world.state.rollouts["default", "web"].state is RolloutState.COMPLETE
    assert world.decide().changes == []


def test_only_what_is_on_the_node_is_replaced() -> None:
    world = World(3)
    world.apply(workload(replicas=6))
    world.settle()
    stay = {r.id for r in world.running() if r.node != "n1"}
    world.drain("n1")
    world.settle()
    assert stay <= {r.id for r in world.running()}


def test_uncordon_ends_a_drain_where_it_is() -> None:
    world = World(2)
    world.apply(workload(replicas=4))
    world.settle()
    world.drain("n1")
    world.lead()
    world.uncordon("n1")
    world.settle()
    assert len(world.ready()) == 4
    assert "n1" in nodes_of(world)


@pytest.mark.parametrize("replicas", [1, 3])
def test_simultaneous_moves_one_at_a_time_and_stops_it_before_its_successor_starts(replicas: int) -> None:
    world = World(2)
    world.apply(workload(replicas=replicas, updateStrategy={"type": "Simultaneous"}))
    world.settle()
    for record in world.running():
        world.put_instance(record.model_copy(update={"node": "n1"}))
    world.drain("n1")
    for turn in range(40):
        lead_within(world, "web", replicas, replicas - 1)
        assert len(world.state.instances_of("default", "web")) <= replicas, "a successor ran beside the instance"
        if turn % 3 == 2:  # containers take their time
            world.obey()
        world.now += 1
    assert nodes_of(world) == {"n2"}
    assert len(world.ready()) == replicas


def test_a_drain_works_while_the_operator_holds_a_rollout_and_brings_the_stable_revision() -> None:
    world = World(2)
    world.apply(workload(replicas=4))
    world.settle()
    world.change(paused=True)
    world.apply(workload(replicas=4, source=OTHER))
    world.drain("n1")
    world.settle()
    assert nodes_of(world) == {"n2"}
    assert {r.revision for r in world.ready()} == {1}


def test_a_drain_works_while_a_rollout_is_paused_by_its_deadline() -> None:
    world = World(3)
    strategy = {"rolling": {"progressDeadlineSeconds": 5}}
    world.apply(workload(replicas=3, updateStrategy=strategy))
    world.settle()
    world.apply(workload(replicas=3, updateStrategy=strategy, source=OTHER))
    for _ in range(12):
        world.lead()
        world.obey(healthy=lambda record: record.revision == 1)
        world.now += 1
    assert world.state.rollouts["default", "web"].state is RolloutState.PAUSED
    world.drain("n1")
    for _ in range(30):
        lead_within(world, "web", 4, 3)
        world.obey(healthy=lambda record: record.revision == 1)
        world.now += 1
    assert "n1" not in {r.node for r in world.ready()}
    assert [r.revision for r in world.ready()] == [1, 1, 1]


def test_a_drain_goes_before_the_rest_of_an_update_and_does_not_keep_it_from_its_end() -> None:
    world = World(2)
    world.apply(workload(replicas=4))
    world.settle()
    world.drain("n1")
    world.apply(workload(replicas=4, source=OTHER))
    stopped: list[str] = []
    for _ in range(40):
        world.lead()
        leaving = [r for r in world.state.instances.values() if r.desired is Desired.STOP and r.id not in stopped]
        stopped += [r.id for r in leaving]
        if any(r.node == "n1" for r in world.running()):
            assert all(r.node == "n1" for r in leaving), "an outdated instance elsewhere went first"
        world.obey()
        world.now += 1
    assert [r.revision for r in world.ready()] == [2] * 4
    assert world.state.rollouts["default", "web"].state is RolloutState.COMPLETE


def test_a_rollout_is_complete_when_its_instances_are_ready_wherever_they_are() -> None:
    facts = [
        Fact(id=f"web-{i}", current=True, ready=True, ready_since=1.0, created_at=1.0, must_move="its node is drained")
        for i in range(2)
    ]
    going_on = Rollout(revision=2, started_at=1.0, progress_at=1.0)
    decision = decide(workload(replicas=2).spec, 2, facts, going_on, held=False, stopping=0, now=9999.0)
    assert decision.rollout is not None
    assert decision.rollout.state is RolloutState.COMPLETE, "a drain that waits for room would pause it"
    assert decision.create == 1


def test_without_room_elsewhere_everything_stays_ready_and_the_drain_says_why() -> None:
    world = World(1)
    world.apply(workload(replicas=2))
    world.settle()
    world.drain("n1")
    for _ in range(5):
        world.lead()
        world.obey()
    waiting = next(r for r in world.running() if r.node is None)
    world.put_instance(waiting.model_copy(update={"unplaceable": "n1: it is cordoned"}))
    assert len(world.ready()) == 2
    found = progress(world.state, "n1")
    assert not found.done
    assert [item.state for item in found.instances] == [Departure.BLOCKED] * 2
    assert "finds no node: n1: it is cordoned" in found.instances[0].reason


def test_data_on_the_node_keeps_its_instance_there_running() -> None:
    world = World(2)
    storage: dict[str, Any] = {"volumes": [{"name": "data", "simpleClusterStorage": {}}]}
    world.apply(workload(replicas=1, **storage))
    world.put(keys.pin("default", "web", "data"), b'{"node": "n1"}')
    world.apply(workload(name="free", replicas=2))
    world.settle()
    world.drain("n1")
    world.node("n1", cordoned=True, draining=True, taints=(EVICT,))
    world.settle()
    assert [r.node for r in world.ready()] == ["n1"]
    assert nodes_of(world, "free") == {"n2"}
    found = progress(world.state, "n1")
    assert (found.left, found.pinned) == (1, 1)
    assert found.instances[0].reason == "its volume data lies on this node"


def test_a_progress_tells_what_is_awaited() -> None:
    world = World(2)
    world.apply(workload(replicas=1))
    world.settle()
    node = world.ready()[0].node or ""
    world.drain(node)
    world.lead()
    new = next(r for r in world.running() if r.node != node)
    world.report(new, phase=Phase.RUNNING, ready=False, message="GET /healthz: status 500")
    item = progress(world.state, node).instances[0]
    assert item.reason == f"waits until {new.id} is ready: GET /healthz: status 500"


def test_a_daemon_stays_through_a_drain_unless_daemons_are_asked_for() -> None:
    world = World(2)
    world.apply(workload(name="log", type="DaemonService"))
    world.settle()
    world.drain("n1")
    world.settle()
    assert nodes_of(world, "log") == {"n1", "n2"}
    found = progress(world.state, "n1")
    assert found.done
    assert [item.state for item in found.instances] == [Departure.STAYING]
    world.drain("n1", daemons=True)
    world.settle()
    assert nodes_of(world, "log") == {"n2"}
    assert progress(world.state, "n1").instances == ()
    world.uncordon("n1")
    world.settle()
    assert nodes_of(world, "log") == {"n1", "n2"}


def test_an_update_of_a_daemon_leaves_a_cordoned_node_alone_and_completes() -> None:
    world = World(3)
    world.apply(workload(name="log", type="DaemonService"))
    world.settle()
    world.node("n1", cordoned=True)
    world.apply(workload(name="log", type="DaemonService", source=OTHER))
    world.settle()
    assert {r.node: r.revision for r in world.ready("log")} == {"n1": 1, "n2": 2, "n3": 2}
    assert world.state.rollouts["default", "log"].state is RolloutState.COMPLETE
    world.uncordon("n1")
    world.settle()
    assert {r.revision for r in world.ready("log")} == {2}


@pytest.mark.parametrize("kind", ["Service", "DaemonService"])
def test_a_no_execute_taint_moves_what_does_not_tolerate_it(kind: str) -> None:
    world = World(3)
    world.apply(workload(type=kind, **({"replicas": 3} if kind == "Service" else {})))
    tolerant = {"tolerations": [{"key": "broken", "operator": "Exists"}]}
    world.apply(workload(name="tough", type="DaemonService", **tolerant))
    world.settle()
    world.node("n1", taints=(EVICT,))
    world.settle()
    assert nodes_of(world) == {"n2", "n3"}
    assert nodes_of(world, "tough") == {"n1", "n2", "n3"}


def test_a_no_schedule_taint_and_a_label_that_is_gone_move_nothing_that_runs() -> None:
    world = World(2)
    world.node("n1", labels={"disk": "ssd"})
    world.apply(workload(replicas=2, nodeSelector={"disk": "ssd"}))
    world.apply(workload(name="log", type="DaemonService"))
    world.settle()
    before = {r.id for r in world.state.instances.values()}
    world.node("n1", labels={}, taints=(NodeTaint(key="x", effect="NoSchedule"),))
    world.settle()
    assert {r.id for r in world.state.instances.values()} == before


def test_a_drained_node_that_dies_does_not_hold_up_anything() -> None:
    world = World(3)
    world.apply(workload(replicas=6))
    world.settle()
    world.drain("n1")
    for _ in range(3):
        world.lead()
        world.obey()
    world.kill_node("n1")
    world.settle()
    assert len(world.ready()) == 6
    assert progress(world.state, "n1").done
    world.revive_node("n1")
    world.settle()
    assert nodes_of(world) == {"n2", "n3"}
    assert len(world.state.instances) == 6


COUNTS = st.one_of(st.integers(0, 3), st.sampled_from(["0%", "25%", "50%", "100%"]))
STRATEGIES = st.one_of(
    st.just({"type": "Simultaneous"}),
    st.builds(lambda s, u, m: {"rolling": {"maxSurge": s, "maxUnavailable": u, "minReadySeconds": m}},
              COUNTS, COUNTS, st.integers(0, 2)).filter(
        lambda s: not {s["rolling"]["maxSurge"], s["rolling"]["maxUnavailable"]} <= {0, "0%"}
    ),
)  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["drain", "drain", "uncordon", "taint", "pause", "resume", "update", "obey", "kill", "revive"]),
        st.sampled_from(["n1", "n2", "n3"]),  # n4 always takes instances
        st.integers(0, 7),
    ),
    max_size=25,
)


@slow_machine
@given(replicas=st.integers(0, 6), strategy=STRATEGIES, steps=STEPS)
def test_whatever_is_drained_tainted_and_lost_bounds_hold_and_all_that_can_leaves(
    replicas: int, strategy: dict[str, Any], steps: list[tuple[str, str, int]]
) -> None:
    world = World(4)
    world.apply(workload(replicas=replicas, updateStrategy=strategy))
    world.apply(workload(name="log", type="DaemonService"))
    world.settle()
    most, fewest = bounds(world.state.revisions["default", "web", 1].document.spec, replicas)
    simultaneous = strategy.get("type") == "Simultaneous"
    for action, node, number in steps:
        act(world, action, node, number, update={"replicas": replicas, "updateStrategy": strategy}, calm=simultaneous)
        lead_within(world, "web", most, fewest)
        world.now += 1
    for node in ("n1", "n2", "n3"):
        world.revive_node(node)
    world.change(paused=False, resumes=world.state.workloads["default", "web"].resumes + 1)
    world.settle(passes=120)
    shunned = {n for n, record in world.state.nodes.items() if record.draining or record.taints}
    assert not nodes_of(world) & shunned
    assert len(world.ready()) == replicas
    assert len(world.state.instances_of("default", "web")) == replicas
    tainted = {n for n, record in world.state.nodes.items() if record.taints}
    assert nodes_of(world, "log") <= set(world.state.nodes) - tainted
    assert nodes_of(world, "log") >= {n for n, r in world.state.nodes.items() if not r.taints and not r.cordoned}


def act(world: World, action: str, node: str, number: int, *, update: dict[str, Any], calm: bool) -> None:
    """One thing that happens to the world."""
    if action == "drain":
        world.drain(node)
    elif action == "uncordon":
        world.uncordon(node)
        world.node(node, taints=())
    elif action == "taint":
        world.node(node, taints=(EVICT,))
    elif action in ("pause", "resume"):
        record = world.state.workloads["default", "web"]
        world.change(paused=action == "pause", resumes=record.resumes + (action == "resume"))
    elif action == "update" and not calm:  # a Simultaneous update takes everything down, as it should
        world.apply(workload(**update, source={"image": f"localhost/app:{number}"}))
    elif action == "kill":
        world.kill_node(node)
    elif action == "revive":
        world.revive_node(node)
    else:
        names = sorted(r.id for r in world.state.instances.values())
        world.obey(only=frozenset(names[number % 3 :]))
