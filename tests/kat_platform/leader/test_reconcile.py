"""The leader's decisions, tried in a pure world: they settle, keep their bounds and repeat themselves exactly."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kat_platform.leader.changes import AssignSubnet, UpdateInstance
from kat_platform.leader.rollout import bounds
from kat_platform.model.instance import Desired, Phase
from kat_platform.model.node import NodeRecord
from kat_platform.model.revision import RolloutState
from kat_platform.state import keys
from kat_platform.testing.world import World
from kat_platform.testing.world import make_balancer as balancer
from kat_platform.testing.world import make_workload as workload

slow_machine = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def test_a_service_gets_its_instances_and_its_virtual_ip() -> None:
    world = World()
    world.apply(workload(replicas=3), balancer())
    world.settle()
    assert len(world.ready()) == 3
    assert world.state.vips["default", "web"] == "10.101.0.1"
    assert world.state.rollouts["default", "web"].state is RolloutState.COMPLETE


def test_nothing_is_changed_once_everything_is_as_it_should_be() -> None:
    world = World(2)
    world.apply(workload(replicas=4), balancer())
    world.settle()
    assert world.decide().changes == []


def test_the_same_state_gives_the_same_changes_ids_included() -> None:
    world = World()
    world.apply(workload(replicas=5), balancer())
    assert world.decide().changes == world.decide().changes


def test_scaling_down_stops_instances_without_a_node_and_unready_ones_first() -> None:
    world = World()
    world.apply(workload(replicas=4))
    world.lead(place=False)
    records = sorted(world.running(), key=lambda r: r.id)
    for record in records[:3]:
        world.put_instance(record.model_copy(update={"node": "n1"}))
    for record in records[:2]:
        world.report(record, phase=Phase.RUNNING, ready=True, ready_since=1.0)
    world.change(replicas=2)
    world.lead(place=False)
    assert {r.id for r in world.running()} == {r.id for r in records[:2]}


def test_deleting_leaves_nothing() -> None:
    world = World()
    world.apply(workload(replicas=3), balancer())
    world.settle()
    world.change(deleting=True)
    world.settle()
    left = [k for k in world.state.key_revisions if "/web" in k]
    assert left == []


def test_a_deleted_workload_keeps_its_virtual_ip_until_its_instances_are_gone() -> None:
    world = World()
    world.apply(workload(replicas=1), balancer())
    world.settle()
    world.change(deleting=True)
    world.lead()
    assert ("default", "web") in world.state.vips
    world.settle()
    assert ("default", "web") not in world.state.vips


def test_a_new_revision_with_the_same_containers_replaces_nothing() -> None:
    world = World()
    world.apply(workload(replicas=2), balancer())
    world.settle()
    before = {r.id for r in world.ready()}
    world.apply(workload(replicas=2, updateStrategy={"type": "Simultaneous"}), balancer(sessionAffinity="ClientIP"))
    world.settle()
    assert {r.id for r in world.ready()} == before


def test_a_restart_replaces_every_instance() -> None:
    world = World()
    world.apply(workload(replicas=3))
    world.settle()
    before = {r.id for r in world.ready()}
    world.change(generation=1)
    world.settle()
    assert len(world.ready()) == 3
    assert not before & {r.id for r in world.ready()}


def test_simultaneous_stops_all_before_it_starts_any() -> None:
    world = World()
    strategy = {"type": "Simultaneous"}
    world.apply(workload(replicas=3, updateStrategy=strategy))
    world.settle()
    world.apply(workload(replicas=3, updateStrategy=strategy, source={"image": "localhost/app:2"}))
    for _ in range(20):
        world.lead()
        revisions = {r.revision for r in world.state.instances_of("default", "web")}
        assert len(revisions) <= 1, "old and new stood side by side"
        world.obey()
        world.now += 1
    assert [r.revision for r in world.ready()] == [2, 2, 2]


def test_a_rollout_without_progress_is_paused_with_its_reason_and_old_instances_stay() -> None:
    world = World()
    strategy = {"rolling": {"progressDeadlineSeconds": 30}}
    world.apply(workload(replicas=2, updateStrategy=strategy))
    world.settle()
    world.apply(workload(replicas=2, updateStrategy=strategy, source={"image": "localhost/app:2"}))

    for _ in range(50):
        world.lead()
        for record in world.running():
            if record.revision == 2:
                world.report(record, phase=Phase.RUNNING, ready=False, message="GET /healthz: status 500")
        world.obey(only=frozenset(r.id for r in world.state.instances.values() if r.desired is Desired.STOP))
        world.now += 1
    rollout = world.state.rollouts["default", "web"]
    assert rollout.state is RolloutState.PAUSED
    assert "no progress for 30 s" in rollout.message
    assert "GET /healthz: status 500" in rollout.message
    assert [r.revision for r in world.ready()] == [1, 1]


def test_a_failed_rollout_goes_back_by_itself_when_asked_to() -> None:
    world = World()
    strategy = {"rolling": {"progressDeadlineSeconds": 30, "onFailure": "Rollback"}}
    world.apply(workload(replicas=2, updateStrategy=strategy))
    world.settle()
    good = {r.id for r in world.ready()}
    world.apply(workload(replicas=2, updateStrategy=strategy, source={"image": "localhost/app:2"}))
    for _ in range(60):
        world.lead()
        world.obey(healthy=lambda record: record.revision != 2)
        world.now += 1
    record = world.state.workloads["default", "web"]
    assert record.revision == 3
    assert world.state.revisions["default", "web", 3].document.spec.source.image == "localhost/app:1"
    assert good <= {r.id for r in world.ready()}, "good instances were replaced on the way back"
    assert world.state.rollouts["default", "web"].state is RolloutState.COMPLETE


def test_resume_lets_a_paused_rollout_go_on() -> None:
    world = World()
    strategy = {"rolling": {"progressDeadlineSeconds": 5}}
    world.apply(workload(replicas=1, updateStrategy=strategy))
    world.settle()
    world.apply(workload(replicas=1, updateStrategy=strategy, source={"image": "localhost/app:2"}))
    for _ in range(12):
        world.lead()
        world.obey(healthy=lambda record: record.revision == 1)
        world.now += 1
    assert world.state.rollouts["default", "web"].state is RolloutState.PAUSED
    world.change(resumes=1)
    world.settle()
    assert [r.revision for r in world.ready()] == [2]


def test_the_operator_can_hold_a_rollout_and_still_scale() -> None:
    world = World()
    world.apply(workload(replicas=2))
    world.settle()
    world.change(paused=True)
    world.apply(workload(replicas=2, source={"image": "localhost/app:2"}))
    world.settle()
    assert {r.revision for r in world.ready()} == {1}
    world.change(replicas=4)
    world.settle()
    assert [r.revision for r in world.ready()] == [1, 1, 1, 1]


def test_a_lost_node_is_judged_only_when_the_leader_may() -> None:
    world = World(2)
    world.apply(workload(replicas=2))
    world.settle()
    world.kill_node("n1")
    assert [c for c in world.decide(judge_loss=False).changes if isinstance(c, UpdateInstance)] == []
    lost = [c for c in world.decide().changes if isinstance(c, UpdateInstance)]
    assert [c.record.node for c in lost] == ["n1"]


def test_lost_instances_are_replaced_and_what_came_back_is_stopped() -> None:
    world = World(2)
    world.apply(workload(replicas=4))
    world.settle()
    world.kill_node("n1")
    world.settle()
    assert len(world.ready()) == 4
    assert {r.node for r in world.ready()} == {"n2"}
    world.revive_node("n1")
    world.lead()
    assert len(world.running()) == 4, "more than wanted ran on after one pass"
    assert {r.node for r in world.running()} == {"n2"}
    world.settle()
    assert len(world.state.instances) == 4


def test_an_instance_that_was_not_replaced_goes_on_when_its_node_is_back() -> None:
    world = World(1)
    world.apply(workload(replicas=2))
    world.settle()
    before = {r.id for r in world.ready()}
    world.kill_node("n1")
    world.lead(place=False)
    world.revive_node("n1")
    world.settle()
    assert {r.id for r in world.ready()} == before


def test_instances_of_a_removed_node_are_forgotten() -> None:
    world = World(2)
    world.apply(workload(replicas=2))
    world.settle()
    world.delete(keys.node("n1"))
    world.delete(keys.alive("n1"))
    world.settle()
    assert {r.node for r in world.state.instances.values()} == {"n2"}
    assert len(world.ready()) == 2


def test_each_new_node_gets_a_subnet_of_its_own() -> None:
    world = World(1)
    world.put(keys.node("n8"), NodeRecord(name="n8", created_at=5).to_json())
    world.put(keys.node("n9"), NodeRecord(name="n9", created_at=6).to_json())
    given_out = [c for c in world.decide().changes if isinstance(c, AssignSubnet)]
    assert [(c.node, str(c.subnet)) for c in given_out] == [("n8", "10.100.2.0/23"), ("n9", "10.100.4.0/23")]


def test_a_daemon_runs_once_on_each_node_that_will_have_it() -> None:
    world = World(3)
    world.put(keys.node("n2"), world.state.nodes["n2"].model_copy(update={"labels": {"disk": "ssd"}}).to_json())
    world.put(keys.node("n3"), world.state.nodes["n3"].model_copy(update={"labels": {"disk": "ssd"}}).to_json())
    world.apply(workload(type="DaemonService", nodeSelector={"disk": "ssd"}))
    world.settle()
    assert sorted(r.node or "" for r in world.ready()) == ["n2", "n3"]
    world.put(keys.node("n2"), world.state.nodes["n2"].model_copy(update={"labels": {}}).to_json())
    world.settle()
    assert [r.node for r in world.ready()] == ["n3"]


def test_a_daemon_is_updated_node_by_node() -> None:
    world = World(4)
    world.apply(workload(type="DaemonService"))
    world.settle()
    world.apply(workload(type="DaemonService", source={"image": "localhost/app:2"}))
    for _ in range(40):
        world.lead()
        assert len(world.ready()) >= 3
        world.obey()
        world.now += 1
    assert {r.revision for r in world.ready()} == {2}
    assert len(world.ready()) == 4


@slow_machine
@given(
    replicas=st.integers(0, 7),
    surge=st.one_of(st.integers(0, 4), st.sampled_from(["0%", "25%", "50%", "100%"])),
    unavailable=st.one_of(st.integers(0, 4), st.sampled_from(["0%", "25%", "50%", "100%"])),
    min_ready=st.integers(0, 3),
    data=st.data(),
)
def test_a_rolling_update_keeps_its_bounds_whatever_the_nodes_do(
    replicas: int, surge: int | str, unavailable: int | str, min_ready: int, data: st.DataObject
) -> None:
    if surge in (0, "0%") and unavailable in (0, "0%"):
        unavailable = 1
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable, "minReadySeconds": min_ready}
    world = World(2)
    old = workload(replicas=replicas, updateStrategy={"rolling": rolling})
    world.apply(old)
    world.settle()
    new = workload(replicas=replicas, updateStrategy={"rolling": rolling}, source={"image": "localhost/app:2"})
    most, fewest = bounds(new.spec, replicas)
    world.apply(new)
    for _ in range(12):
        world.lead()
        assert len(world.running()) <= most
        assert len(world.ready()) >= min(fewest, replicas), "fewer ready than the update may leave"
        chosen = data.draw(st.sets(st.sampled_from(sorted(r.id for r in world.state.instances.values()) or [""])))
        world.obey(only=frozenset(chosen))
        world.now += 1
    world.settle()
    assert [r.revision for r in world.ready()] == [2] * replicas


@slow_machine
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["apply", "scale", "restart", "obey", "kill", "revive"]), st.integers(0, 5)),
        max_size=25,
    )
)
def test_whatever_happens_the_world_settles_on_what_is_wanted(steps: list[tuple[str, int]]) -> None:
    world = World(3)
    world.apply(workload(replicas=2), balancer())
    for action, number in steps:
        if action == "apply":
            world.apply(workload(replicas=number, source={"image": f"localhost/app:{number}"}), balancer())
        elif action == "scale":
            world.change(replicas=number)
        elif action == "restart":
            world.change(generation=world.state.workloads["default", "web"].generation + 1)
        elif action == "obey":
            world.obey()
        elif action == "kill":
            world.kill_node(f"n{number % 2 + 1}")  # n3 always lives
        else:
            world.revive_node(f"n{number % 3 + 1}")
        world.lead()
        world.now += 1
    for name in ("n1", "n2"):
        world.revive_node(name)
    world.settle()
    record = world.state.workloads["default", "web"]
    assert len(world.ready()) == record.replicas
    assert len(world.state.instances) == record.replicas
    assert world.decide().changes == []


def test_an_unready_stable_instance_does_not_block_deletion_of_the_rest() -> None:
    world = World()
    world.apply(workload(replicas=2))
    world.lead()
    world.change(deleting=True)
    world.settle()
    assert world.state.instances == {}


@pytest.mark.parametrize("field", ["nodeSelector", "container"])
def test_a_changed_container_is_replaced(field: str) -> None:
    world = World()
    world.apply(workload(replicas=1))
    world.settle()
    change = {"nodeSelector": {"kat.dws.rip/node": "n1"}, "container": {"args": ["x"]}}[field]
    world.apply(workload(replicas=1, **{field: change}))
    world.settle()
    assert [r.revision for r in world.ready()] == [2]
