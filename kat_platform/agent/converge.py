"""Converge: the next step for one instance, from what is wanted, remembered and observed. Pure.

Each step is idempotent; after it the decision is made anew, so a crash between any two steps resumes where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from kat_platform.agent.memory import InstanceMemory
from kat_platform.interfaces.runtime import Container, ContainerState
from kat_platform.model.instance import Desired, Phase
from kat_platform.model.view import AssignmentItem
from kat_platform.model.workload import RestartPolicy

BACKOFF_FIRST: Final = 1.0
BACKOFF_MOST: Final = 60.0
BACKOFF_RESET: Final = 600.0
"""Seconds of running after which earlier failures are forgotten."""


class Action(StrEnum):
    """What can be done for an instance; the value is how it is told to a person."""

    ENSURE_IMAGE = "get the image"
    CREATE = "create the container"
    INIT = "prepare its namespaces"
    ATTACH = "attach it to the network"
    START = "start the command"
    RESTART = "restart it"
    FINISH = "note that it has ended"
    DRAIN = "let its connections end"
    STOP = "stop it"
    RELEASE = "take it off the network"
    REMOVE = "remove the container"
    NOTE_STOPPED = "note that it is gone"
    FORGET = "forget it"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Step:
    """One step, why it is taken, and for ``WAIT`` until when.

    ``until`` is in seconds since the epoch; ``None``: until something happens.
    """

    action: Action
    why: str = ""
    until: float | None = None

    def __str__(self) -> str:
        return f"{self.action.value}: {self.why}" if self.why else self.action.value


def next_step(
    assignment: AssignmentItem | None,
    memory: InstanceMemory,
    container: Container | None,
    *,
    now: float,
    boot_id: str,
) -> Step:
    """Decide the next step. ``assignment`` is ``None`` when the control plane knows nothing of the instance."""
    if assignment is None or assignment.record.desired is Desired.STOP:
        return _towards_gone(assignment, memory, container)
    if memory.phase in (Phase.FAILED, Phase.SUCCEEDED):
        return _settled(memory)
    if memory.next_try_at is not None and now < memory.next_try_at:
        return Step(Action.WAIT, f"next try after {memory.reason or 'a failure'}", memory.next_try_at)
    if container is None:
        return Step(Action.CREATE) if memory.image_id else Step(Action.ENSURE_IMAGE)
    match container.state:
        case ContainerState.CREATED:
            return Step(Action.INIT)
        case ContainerState.INITIALIZED:
            attached = memory.attached_pid is not None and memory.attached_pid == container.pid
            return Step(Action.START) if attached else Step(Action.ATTACH)
        case ContainerState.RUNNING:
            if memory.unhealthy:
                return Step(Action.STOP, "its health check failed")
            attached = memory.attached_pid is not None and memory.attached_pid == container.pid
            return Step(Action.WAIT) if attached else Step(Action.ATTACH, "found running without its interface")
        case ContainerState.EXITED:
            return _after_exit(assignment.document.spec.restart_policy, memory, container, now, boot_id)
        case _:
            return Step(Action.REMOVE, "the runtime cannot say in what state the container is")


def _settled(memory: InstanceMemory) -> Step:
    return Step(Action.WAIT) if memory.network_released else Step(Action.RELEASE, "it has ended")


def _towards_gone(assignment: AssignmentItem | None, memory: InstanceMemory, container: Container | None) -> Step:
    if container is not None:
        if container.state in (ContainerState.RUNNING, ContainerState.INITIALIZED):
            if container.state is ContainerState.RUNNING and not memory.drained:
                return Step(Action.DRAIN)
            return Step(Action.STOP, assignment.record.stop_reason if assignment else "nothing wants it any more")
        if not memory.network_released:
            return Step(Action.RELEASE)
        return Step(Action.REMOVE)
    if not memory.network_released:
        return Step(Action.RELEASE)
    if assignment is None:
        return Step(Action.FORGET)
    if memory.phase is not Phase.STOPPED:
        return Step(Action.NOTE_STOPPED)
    return Step(Action.WAIT)


def _after_exit(policy: RestartPolicy, memory: InstanceMemory, container: Container, now: float, boot_id: str) -> Step:
    if memory.started_at is None or memory.boot_id != boot_id:
        return Step(Action.INIT, "the machine was restarted" if memory.started_at is not None else "")
    if memory.finished_at is None:
        return Step(Action.FINISH)
    if memory.next_try_at is not None and now >= memory.next_try_at:
        return Step(Action.RESTART)
    return Step(Action.WAIT, "its end was noted, nothing more to do")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the end of a container means: its new phase, and when to try again (``None``: never)."""

    phase: Phase
    next_try_at: float | None
    failures: int
    reason: str
    message: str


def judge_exit(
    policy: RestartPolicy, memory: InstanceMemory, *, exit_code: int, oom_killed: bool, now: float
) -> Verdict:
    """Decide what follows the end of a container, by its restart policy. Pure; ``now`` in seconds since the epoch.

    The first restart comes at once, further ones after 1, 2, 4 … 60 s; ten minutes of running make it the first again.
    """
    ran = 0.0 if memory.started_at is None else max(0.0, now - memory.started_at)
    reset = BACKOFF_RESET if policy.reset_seconds is None else float(policy.reset_seconds)
    failures = 0 if ran >= reset else memory.failures
    what = _describe(exit_code, oom_killed, memory.unhealthy)
    reason = (
        "OOMKilled" if oom_killed else "Unhealthy" if memory.unhealthy else "Completed" if exit_code == 0 else "Error"
    )
    ended = Phase.SUCCEEDED if exit_code == 0 and not memory.unhealthy else Phase.FAILED
    if policy.condition == "Never":
        return Verdict(ended, None, failures, reason, what)
    if policy.condition == "MaxCount" and failures >= (policy.max_restarts or 0):
        return Verdict(ended, None, failures, reason, f"{what}; restarted {failures} times, which is maxRestarts")
    delay = backoff(failures)
    message = what if delay == 0 else f"{what}; next start in {delay:g} s"
    return Verdict(Phase.PREPARING, now + delay, failures + 1, "CrashLoop" if delay else reason, message)


def backoff(failures: int) -> float:
    """Give the seconds to wait before the next try after this many failures in a row: 0, 1, 2, 4 … 60."""
    if failures == 0:
        return 0.0
    return float(min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(failures - 1, 16)))


def _describe(exit_code: int, oom_killed: bool, unhealthy: bool) -> str:
    if oom_killed:
        return "killed because it used more memory than its limit"
    if unhealthy:
        return "stopped because its health check failed"
    if exit_code > 128:
        return f"ended by signal {exit_code - 128} (exit code {exit_code})"
    return f"exited with code {exit_code}"
