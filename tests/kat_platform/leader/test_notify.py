"""Hook plugins hear of every change of phase and readiness, and of nothing else."""

from __future__ import annotations

from dataclasses import replace

from kat_platform.leader.notify import instance_changes, node_changes
from kat_platform.model.instance import InstanceRecord, InstanceStatus, Phase
from kat_platform.model.node import NodeRecord, NodeReport
from kat_platform.state import keys
from kat_platform.state.cluster import ClusterState

PAIR = ("default", "web-abcde")
RECORD = InstanceRecord(id="web-abcde", namespace="default", workload="web", revision=1, node="n1")
TOUCHED = [keys.status(*PAIR)]


def state(**status: object) -> ClusterState:
    """A state with one instance; without a status if none is given."""
    known = {PAIR: InstanceStatus.model_validate(status)} if status else {}
    return ClusterState(instances={PAIR: RECORD}, statuses=known)


def test_a_new_phase_is_told_with_the_one_before() -> None:
    (change,) = instance_changes(state(), state(phase=Phase.RUNNING), TOUCHED)
    assert (change.phase_before, change.phase, change.ready) == ("Assigned", "Running", False)


def test_readiness_alone_is_told() -> None:
    (change,) = instance_changes(state(phase=Phase.RUNNING), state(phase=Phase.RUNNING, ready=True), TOUCHED)
    assert (change.phase, change.ready) == ("Running", True)


def test_what_does_not_matter_to_anybody_is_not_told() -> None:
    assert instance_changes(state(phase=Phase.RUNNING), state(phase=Phase.RUNNING, message="x"), TOUCHED) == []
    assert instance_changes(state(), state(phase=Phase.RUNNING), [keys.workload("default", "web")]) == []


def test_an_instance_that_is_gone_is_told_once() -> None:
    (change,) = instance_changes(state(phase=Phase.RUNNING), ClusterState(), [keys.instance(*PAIR), *TOUCHED])
    assert (change.phase, change.instance) == (None, "web-abcde")


def test_a_node_that_stops_giving_signs_of_life_is_told_with_the_reason() -> None:
    alive = ClusterState(nodes={"n1": NodeRecord(name="n1")}, reports={"n1": NodeReport()}, alive=frozenset({"n1"}))
    (change,) = node_changes(alive, replace(alive, alive=frozenset()), [keys.alive("n1")])
    assert (change.ready_before, change.ready) == (True, False)
    assert "sign of life" in change.reason
    (gone,) = node_changes(alive, ClusterState(), [keys.node("n1")])
    assert gone.ready is None
