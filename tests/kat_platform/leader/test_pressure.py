"""A node that reports a full disk: nothing new is started there, what runs stays, and it is said why."""

from __future__ import annotations

from kat_platform.interfaces.scheduler import TaintEffect
from kat_platform.leader.placement import PRESSURE_TAINTS, scheduling_snapshot, taints_of
from kat_platform.model.node import Condition, NodeRecord, NodeReport, NodeTaint
from kat_platform.state import keys
from kat_platform.testing.world import World
from kat_platform.testing.world import make_workload as workload

KEY = PRESSURE_TAINTS["DiskPressure"].key


def press(world: World, node: str, *, full: bool) -> None:
    """Let a node report whether its disk is full."""
    report = world.state.reports[node]
    condition = Condition(type="DiskPressure", status=full)
    world.put(keys.node_report(node), report.model_copy(update={"conditions": (condition,)}).to_json())


def test_a_full_disk_is_a_taint_beside_those_of_the_operator() -> None:
    record = NodeRecord(name="n1", taints=(NodeTaint(key="a", value="b", effect="NoExecute"),))
    well = NodeReport(conditions=(Condition(type="DiskPressure", status=False), Condition(type="Ready", status=True)))
    full = NodeReport(conditions=(Condition(type="DiskPressure", status=True), Condition(type="Ready", status=True)))
    assert [t.key for t in taints_of(record, None)] == ["a"]
    assert [t.key for t in taints_of(record, well)] == ["a"]
    assert [(t.key, t.effect) for t in taints_of(record, full)] == [
        ("a", TaintEffect.NO_EXECUTE),
        (KEY, TaintEffect.NO_SCHEDULE),
    ]


def test_a_scheduler_sees_it() -> None:
    world = World(2)
    press(world, "n2", full=True)
    found = {node.name: [taint.key for taint in node.taints] for node in scheduling_snapshot(world.state).nodes}
    assert found == {"n1": [], "n2": [KEY]}


def test_what_runs_stays_and_what_is_new_goes_elsewhere() -> None:
    world = World(2)
    world.apply(workload(replicas=4))
    world.settle()
    before = {record.id: record.node for record in world.running()}
    press(world, "n2", full=True)
    world.settle()
    assert {record.id: record.node for record in world.running()} == before
    world.change(replicas=8)
    world.settle()
    assert all(record.node == "n1" for record in world.running() if record.id not in before)
    press(world, "n2", full=False)
    world.change(replicas=12)
    world.settle()
    assert {record.node for record in world.running() if record.id not in before} == {"n1", "n2"}


def test_a_tolerated_one_is_no_hindrance() -> None:
    world = World(1)
    press(world, "n1", full=True)
    world.apply(workload(replicas=2, tolerations=[{"key": KEY, "operator": "Exists"}]))
    world.settle()
    assert len(world.ready()) == 2


def test_a_daemon_that_runs_stays_and_one_that_is_lacking_waits() -> None:
    world = World(2)
    press(world, "n2", full=True)
    world.apply(workload(type="DaemonService"))
    world.settle()
    assert {record.node for record in world.running()} == {"n1"}
    press(world, "n2", full=False)
    world.settle()
    assert {record.node for record in world.running()} == {"n1", "n2"}
    press(world, "n1", full=True)
    world.settle()
    assert {record.node for record in world.running()} == {"n1", "n2"}
