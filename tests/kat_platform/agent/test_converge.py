"""The next step for an instance: from every state there is a way to what is wanted, and no step repeats for ever."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kat_platform.agent.converge import Action, Step, backoff, judge_exit, next_step
from kat_platform.agent.memory import InstanceMemory
from kat_platform.interfaces.runtime import Container, ContainerState
from kat_platform.model.instance import Desired, InstanceRecord, Phase
from kat_platform.model.view import AssignmentItem
from kat_platform.model.workload import RestartPolicy, Workload

ALWAYS = RestartPolicy(condition="Always")


def assignment(desired: Desired = Desired.RUN, **policy: Any) -> AssignmentItem:
    """An instance bound to this node."""
    spec: dict[str, Any] = {"type": "Service", "source": {"image": "localhost/app:1"}}
    if policy:
        spec["restartPolicy"] = policy
    document = Workload.model_validate({"metadata": {"name": "web"}, "spec": spec})
    record = InstanceRecord(id="web-abcde", namespace="default", workload="web", revision=1, node="n1", desired=desired)
    return AssignmentItem(record=record, document=document)


class Pretend:
    """Carries steps out in memory, as the worker would."""

    def __init__(self, memory: InstanceMemory, container: Container | None) -> None:
        self.memory, self.container = memory, container
        self.pid = 100
        self.now = 10_000.0
        self.taken: list[Action] = []

    def take(self, step: Step, wanted: AssignmentItem | None) -> None:
        """Do what the step says."""
        self.taken.append(step.action)
        change: dict[str, Any] = {}
        name = "default.web-abcde"
        match step.action:
            case Action.ENSURE_IMAGE:
                change = {"image_id": "sha256:1"}
            case Action.CREATE:
                self.container = Container(name, ContainerState.CREATED)
            case Action.INIT | Action.RESTART:
                self.pid += 1
                self.container = Container(name, ContainerState.INITIALIZED, pid=self.pid)
                change = {"attached_pid": None, "finished_at": None, "next_try_at": None, "network_released": False}
                change["unhealthy"] = False
            case Action.ATTACH:
                assert self.container is not None
                change = {"attached_pid": self.container.pid, "network_released": False}
            case Action.START:
                assert self.container is not None
                self.container = replace(self.container, state=ContainerState.RUNNING)
                change = {"phase": Phase.RUNNING, "started_at": self.now, "boot_id": "b", "unhealthy": False}
            case Action.FINISH:
                assert wanted is not None
                policy = wanted.document.spec.restart_policy
                verdict = judge_exit(policy, self.memory, exit_code=1, oom_killed=False, now=self.now)
                change = {
                    "phase": verdict.phase,
                    "next_try_at": verdict.next_try_at,
                    "failures": verdict.failures,
                    "finished_at": self.now,
                }
            case Action.DRAIN:
                change = {"drained": True}
            case Action.STOP:
                self.container = Container(name, ContainerState.EXITED, exit_code=0)
                change = {"finished_at": None}
            case Action.RELEASE:
                change = {"network_released": True, "attached_pid": None}
            case Action.REMOVE:
                self.container = None
                change = {"attached_pid": None}
            case Action.NOTE_STOPPED:
                change = {"phase": Phase.STOPPED}
            case _:
                pass
        self.memory = self.memory.model_copy(update=change)

    def settle(self, wanted: AssignmentItem | None) -> Step:
        """Take steps until one says to wait for something other than time, or to forget."""
        for _ in range(40):
            step = next_step(wanted, self.memory, self.container, now=self.now, boot_id="b")
            if step.action is Action.FORGET or (step.action is Action.WAIT and step.until is None):
                return step
            if step.until is not None:
                self.now = step.until
            self.take(step, wanted)
        raise AssertionError(f"never settles: {self.taken[-12:]}")


states = st.sampled_from(list(ContainerState))
containers = st.one_of(
    st.none(),
    st.builds(
        lambda state, pid: Container(
            "default.web-abcde",
            state,
            pid=pid if state in (ContainerState.RUNNING, ContainerState.INITIALIZED) else None,
        ),
        states,
        st.sampled_from([100, 101]),
    ),
)
memories = st.builds(
    InstanceMemory,
    key=st.just("default/web-abcde"),
    phase=st.sampled_from([Phase.ASSIGNED, Phase.PREPARING, Phase.RUNNING, Phase.STOPPING]),
    image_id=st.sampled_from(["", "sha256:1"]),
    attached_pid=st.sampled_from([None, 100, 101]),
    started_at=st.sampled_from([None, 1.0, 9_999.0]),
    finished_at=st.sampled_from([None, 2.0]),
    next_try_at=st.sampled_from([None, 5.0, 10_030.0]),
    failures=st.integers(0, 9),
    boot_id=st.sampled_from(["", "a", "b"]),
    drained=st.booleans(),
    network_released=st.booleans(),
    unhealthy=st.booleans(),
)


@given(memory=memories, container=containers)
def test_from_anywhere_an_instance_comes_to_run_attached(memory: InstanceMemory, container: Container | None) -> None:
    pretend = Pretend(memory, container)
    if (
        container is not None
        and container.state is ContainerState.EXITED
        and memory.finished_at
        and not memory.next_try_at
    ):
        return  # an end that was noted as final: the phase would say so too, which this generator leaves out
    pretend.settle(assignment())
    assert pretend.container is not None
    assert pretend.container.state is ContainerState.RUNNING
    assert pretend.memory.attached_pid == pretend.container.pid


@given(memory=memories, container=containers, known=st.booleans())
def test_from_anywhere_an_unwanted_instance_goes_away_whole(
    memory: InstanceMemory, container: Container | None, known: bool
) -> None:
    pretend = Pretend(memory, container)
    step = pretend.settle(assignment(Desired.STOP) if known else None)
    assert pretend.container is None
    assert pretend.memory.network_released
    assert step.action is (Action.WAIT if known else Action.FORGET)
    assert not set(pretend.taken) & {Action.CREATE, Action.START, Action.INIT, Action.ATTACH}


@given(memory=memories, container=containers)
def test_a_running_attached_healthy_container_is_left_alone(
    memory: InstanceMemory, container: Container | None
) -> None:
    running = Container("default.web-abcde", ContainerState.RUNNING, pid=100)
    memory = memory.model_copy(update={"attached_pid": 100, "unhealthy": False, "next_try_at": None})
    assert next_step(assignment(), memory, running, now=1.0, boot_id="b").action is Action.WAIT


def test_the_connections_of_a_running_container_may_end_before_it_is_stopped() -> None:
    running = Container("default.web-abcde", ContainerState.RUNNING, pid=100)
    memory = InstanceMemory(key="default/web-abcde", phase=Phase.RUNNING)
    pretend = Pretend(memory, running)
    pretend.settle(assignment(Desired.STOP))
    assert pretend.taken == [Action.DRAIN, Action.STOP, Action.RELEASE, Action.REMOVE, Action.NOTE_STOPPED]


def test_the_first_restart_comes_at_once_and_later_ones_wait_longer_and_longer() -> None:
    assert [backoff(n) for n in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_ten_minutes_of_running_make_earlier_failures_forgotten() -> None:
    memory = InstanceMemory(key="a/b", started_at=100.0, failures=7)
    assert judge_exit(ALWAYS, memory, exit_code=1, oom_killed=False, now=699.0).failures == 8
    assert judge_exit(ALWAYS, memory, exit_code=1, oom_killed=False, now=701.0).failures == 1


@pytest.mark.parametrize(("code", "phase"), [(0, Phase.SUCCEEDED), (3, Phase.FAILED)])
def test_never_means_never(code: int, phase: Phase) -> None:
    policy = RestartPolicy(condition="Never")
    verdict = judge_exit(policy, InstanceMemory(key="a/b", started_at=1.0), exit_code=code, oom_killed=False, now=2.0)
    assert (verdict.phase, verdict.next_try_at) == (phase, None)


def test_max_count_restarts_as_often_as_it_says() -> None:
    policy = RestartPolicy(condition="MaxCount", max_restarts=2)
    memory = InstanceMemory(key="a/b", started_at=1.0)
    for _ in range(2):
        verdict = judge_exit(policy, memory, exit_code=1, oom_killed=False, now=2.0)
        assert verdict.next_try_at is not None
        memory = memory.model_copy(update={"failures": verdict.failures})
    verdict = judge_exit(policy, memory, exit_code=1, oom_killed=False, now=2.0)
    assert verdict.phase is Phase.FAILED
    assert verdict.next_try_at is None
    assert "maxRestarts" in verdict.message


def test_reset_seconds_lets_a_count_begin_again() -> None:
    policy = RestartPolicy(condition="MaxCount", max_restarts=1, reset_seconds=30)
    memory = InstanceMemory(key="a/b", started_at=100.0, failures=1)
    assert judge_exit(policy, memory, exit_code=1, oom_killed=False, now=131.0).next_try_at is not None
    assert judge_exit(policy, memory, exit_code=1, oom_killed=False, now=129.0).next_try_at is None


def test_an_end_is_told_in_words() -> None:
    memory = InstanceMemory(key="a/b", started_at=1.0)
    assert "signal 9" in judge_exit(ALWAYS, memory, exit_code=137, oom_killed=False, now=2.0).message
    oom = judge_exit(ALWAYS, memory, exit_code=137, oom_killed=True, now=2.0)
    assert "more memory than its limit" in oom.message


def test_after_a_reboot_a_container_is_started_without_counting_it_as_a_failure() -> None:
    memory = InstanceMemory(key="default/web-abcde", image_id="x", started_at=1.0, boot_id="old", phase=Phase.RUNNING)
    exited = Container("default.web-abcde", ContainerState.EXITED, exit_code=0)
    step = next_step(assignment(), memory, exited, now=5.0, boot_id="new")
    assert step.action is Action.INIT
    assert "restarted" in step.why
