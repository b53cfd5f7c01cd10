"""Loss of nodes: told once, acted on at once when it is one node, and held back when it is most of them."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kat_platform.leader import narrate
from kat_platform.leader.liveness import RETURN, SLOW, WINDOW, judge
from kat_platform.model.event import Event
from kat_platform.model.node import Condition, NodeRecord, NodeStanding
from kat_platform.state import keys
from kat_platform.testing.world import World
from kat_platform.testing.world import make_workload as workload

slow_machine = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
ABOUT_NODES = ("NodeReady", "NodeNotReady", "NodeLost", "LossHeld", "LossReleased")


def told(world: World, *, judge_loss: bool = True) -> list[tuple[str, str]]:
    """One pass of the leader; gives the events about nodes as (reason, object)."""
    before, result = world.state, world.decide(judge_loss=judge_loss)
    events: list[Event] = narrate.events_for(before, result.changes, now=world.now)
    for change in result.changes:
        world.commit(change)
    return [(event.reason, event.object_name) for event in events if event.reason in ABOUT_NODES]


def given_up(world: World) -> set[str]:
    return {name for name, standing in world.state.standings.items() if standing.given_up_at is not None}


def full(nodes: int) -> World:
    world = World(nodes)
    world.apply(workload(type="DaemonService"))
    world.apply(workload(name="free", replicas=nodes * 2))
    world.settle()
    return world


def test_each_change_of_a_node_is_told_exactly_once() -> None:
    world = World(3)
    assert told(world) == [("NodeReady", "n1"), ("NodeReady", "n2"), ("NodeReady", "n3")]
    assert told(world) == []
    world.kill_node("n2")
    assert told(world) == [("NodeNotReady", "n2")]
    for _ in range(3):
        world.now += 1
        assert told(world) == []
    world.revive_node("n2")
    assert told(world) == [("NodeReady", "n2")]
    report = world.state.reports["n2"].model_copy(
        update={"conditions": (Condition(type="Ready", status=False, message="the disk is full"),)}
    )
    world.put(keys.node_report("n2"), report.to_json())
    assert told(world) == [("NodeNotReady", "n2")]
    assert world.state.standings["n2"].reason == "the disk is full"
    assert told(world) == []


def test_a_new_leader_tells_nothing_again_and_judges_nobody_before_it_may() -> None:
    world = full(3)
    told(world)
    world.kill_node("n1")
    assert told(world, judge_loss=False) == []
    assert world.state.standings["n1"].ready, "a leader that does not know yet leaves the node as it was"
    assert told(world) == [("NodeNotReady", "n1"), ("NodeLost", "n1")]


def test_a_node_that_joined_and_never_came_up_is_no_loss() -> None:
    world = World(1)
    told(world)
    world.put(keys.node("n9"), NodeRecord(name="n9", subnet=world.state.nodes["n1"].subnet).to_json())
    assert told(world) == []
    assert "n9" not in world.state.standings


def test_what_is_known_of_a_removed_node_is_forgotten() -> None:
    world = World(2)
    told(world)
    world.delete(keys.node("n2"))
    told(world)
    assert set(world.state.standings) == {"n1"}


def test_one_of_two_and_two_of_five_are_given_up_at_once() -> None:
    for nodes, dead in ((2, ["n1"]), (5, ["n1", "n2"])):
        world = full(nodes)
        for name in dead:
            world.kill_node(name)
        world.lead()
        assert given_up(world) == set(dead)
        world.settle()
        assert len(world.ready("free")) == nodes * 2


def test_most_nodes_lost_at_once_move_nothing_and_it_is_said_once() -> None:
    world = full(5)
    before = {r.id for r in world.running("free")}
    for name in ("n1", "n2", "n3"):
        world.kill_node(name)
    assert ("LossHeld", "cluster") in told(world)
    for _ in range(100):
        world.now += 1
        assert told(world) == []
        world.lead()
    assert given_up(world) == set()
    assert {r.id for r in world.running("free")} == before
    for name in ("n1", "n2", "n3"):
        world.revive_node(name)
    assert ("LossReleased", "cluster") in told(world)
    world.settle()
    assert {r.id for r in world.running("free")} == before, "the partition healed, and nothing had moved"


def test_nodes_that_come_back_one_after_the_other_lose_nothing() -> None:
    world = full(5)
    before = {r.id for r in world.running("free")}
    for name in ("n1", "n2", "n3", "n4"):
        world.kill_node(name)
    told(world)
    world.now += 60
    for name in ("n1", "n2", "n3"):
        world.revive_node(name)
        told(world)
        world.now += RETURN / 4
        world.lead()
    assert given_up(world) == set(), "the last one is still on its way"
    world.revive_node("n4")
    assert ("LossReleased", "cluster") in told(world)
    world.settle()
    assert {r.id for r in world.running("free")} == before
    assert all(standing.due_at is None for standing in world.state.standings.values())


def test_a_node_that_stays_away_when_the_others_are_back_is_given_up_then() -> None:
    world = full(5)
    for name in ("n1", "n2", "n3", "n4"):
        world.kill_node(name)
    told(world)
    world.now += 60
    for name in ("n1", "n2"):
        world.revive_node(name)
    told(world)
    judgement = judge(world.state, now=world.now, judge_loss=True)
    assert judgement.wake_at == world.now + RETURN, "the leader must wake up by itself"
    world.now += RETURN - 0.1
    told(world)
    assert given_up(world) == set()
    world.kill_node("n1")  # most are silent again: the others are waited for as before
    told(world)
    world.now += RETURN
    told(world)
    assert given_up(world) == set()
    world.revive_node("n1")
    told(world)
    world.now += RETURN
    assert ("NodeLost", "n3") in told(world)
    assert given_up(world) == {"n3", "n4"}


def test_nodes_that_fall_silent_one_after_the_other_count_as_one_loss() -> None:
    world = full(5)
    for name in ("n1", "n2", "n3", "n4"):
        world.kill_node(name)
        world.lead()
        world.now += 2
    assert given_up(world) == {"n1", "n2"}


def test_losses_with_time_between_them_are_each_replaced() -> None:
    world = full(4)
    for name in ("n1", "n2", "n3"):
        world.kill_node(name)
        world.settle()
        world.now += WINDOW
    assert given_up(world) == {"n1", "n2", "n3"}
    assert {r.node for r in world.ready("free")} == {"n4"}


def test_a_cluster_that_really_lost_most_nodes_comes_back_one_node_at_a_time() -> None:
    world = full(5)
    for name in ("n1", "n2", "n3"):
        world.kill_node(name)
    world.lead()
    for expected in (1, 2, 3):
        wake = world.decide().wake_at
        assert wake is not None, "the leader must wake up by itself"
        world.now = wake - 0.5
        world.lead()
        assert len(given_up(world)) == expected - 1
        world.now = wake
        world.lead()
        assert len(given_up(world)) == expected
    world.settle()
    assert len(world.ready("free")) == 10


def test_while_most_nodes_are_silent_an_update_does_not_stop_what_still_answers() -> None:
    world = full(5)
    for name in ("n1", "n2", "n3"):
        world.kill_node(name)
    world.lead()
    answering = len(world.ready("free"))
    careless = {"rolling": {"maxUnavailable": 4}}
    world.apply(workload(name="free", replicas=10, updateStrategy=careless, source={"image": "localhost/app:2"}))
    for _ in range(12):
        world.lead()
        assert len(world.ready("free")) >= answering
        world.obey()
        world.now += 1


def test_a_lone_node_without_a_sign_of_life_loses_nothing() -> None:
    world = full(1)
    world.kill_node("n1")
    world.lead()
    assert given_up(world) == set()
    assert world.state.standings["n1"].held


def test_an_update_of_a_daemon_does_not_wait_for_a_lost_node_and_reaches_it_on_its_return() -> None:
    world = full(3)
    world.kill_node("n1")
    world.apply(workload(type="DaemonService", source={"image": "localhost/app:2"}))
    world.settle()
    assert world.state.rollouts["default", "web"].state.value == "Complete"
    world.revive_node("n1")
    world.settle()
    assert [r.revision for r in world.ready()] == [2, 2, 2]


def test_an_instance_that_was_stopping_on_a_lost_node_does_not_keep_a_rollout_from_its_end() -> None:
    world = World(2)
    world.apply(workload(replicas=2, updateStrategy={"type": "Simultaneous"}))
    world.settle()
    world.apply(workload(replicas=2, updateStrategy={"type": "Simultaneous"}, source={"image": "localhost/app:2"}))
    world.lead()
    world.kill_node("n1")
    world.settle()
    assert [r.revision for r in world.ready()] == [2, 2]
    assert world.state.rollouts["default", "web"].state.value == "Complete"
    world.revive_node("n1")
    world.settle()
    assert len(world.state.instances) == 2


@slow_machine
@given(
    nodes=st.integers(1, 7),
    steps=st.lists(
        st.tuples(st.sampled_from(["kill", "kill", "revive", "wait", "elect"]), st.integers(0, 40)), max_size=40
    ),
)
def test_never_is_more_than_half_given_up_within_a_window_beyond_the_slow_rate(
    nodes: int, steps: list[tuple[str, int]]
) -> None:
    world = World(nodes)
    told(world)
    ups: list[float] = []
    for action, number in steps:
        name = f"n{number % nodes + 1}"
        if action == "kill":
            world.kill_node(name)
        elif action == "revive":
            world.revive_node(name)
        else:
            world.now += number * (1 if action == "wait" else 0)
        before: dict[str, NodeStanding] = dict(world.state.standings)
        judgement = judge(world.state, now=world.now, judge_loss=action != "elect")
        fresh = judgement.given_up - {n for n, s in before.items() if s.given_up_at is not None}
        alive = len(world.state.alive)
        dead_recently = sum(
            1
            for s in judgement.standings.values()
            if not s.alive and (s.given_up_at is None or s.given_up_at > world.now - WINDOW)
        )
        if dead_recently > alive:
            assert len(fresh) <= 1, "more than one at a time while most are dead"
            assert all(world.now - at >= SLOW for at in ups) or not fresh
        ups = [at for at in (*ups, *[world.now] * len(fresh)) if at > world.now - SLOW]
        for change in judgement.changes:
            world.commit(change)
        again = judge(world.state, now=world.now, judge_loss=action != "elect")
        assert again.changes == (), "the same is said twice"
        assert given_up(world).isdisjoint(world.state.alive)
        assert all(not s.held or not s.alive for s in world.state.standings.values())
        assert all(s.held or s.due_at is None for s in world.state.standings.values())
