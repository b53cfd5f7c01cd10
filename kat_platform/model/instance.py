"""Instance: one container of one revision, bound to a node.

Two records describe it, so that no two writers share a key: :class:`InstanceRecord` is the leader's word (what
should be), :class:`InstanceStatus` the node's (what is).
"""

from __future__ import annotations

from enum import StrEnum

from kat_platform.model.base import Model
from kat_platform.model.node import Condition


class Phase(StrEnum):
    """Where an instance is in its life. ``ready`` is separate from it."""

    PENDING = "Pending"
    ASSIGNED = "Assigned"
    PREPARING = "Preparing"
    RUNNING = "Running"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    LOST = "Lost"

    @property
    def terminal(self) -> bool:
        """Whether no container of this instance runs or will run again."""
        return self in (Phase.STOPPED, Phase.SUCCEEDED, Phase.FAILED)


class Desired(StrEnum):
    """What the leader wants of an instance."""

    RUN = "Run"
    STOP = "Stop"


class InstanceRecord(Model):
    """The leader's word on an instance. ``id`` is unique in its namespace: ``WORKLOAD-xxxxx``."""

    id: str
    namespace: str
    workload: str
    revision: int
    generation: int = 0
    """The workload's restart generation it was made for."""
    node: str | None = None
    only_node: str = ""
    """The one node it is meant for, if it is one of a daemon's; empty otherwise."""
    desired: Desired = Desired.RUN
    created_at: float = 0.0
    stop_reason: str = ""
    stop_at: float | None = None
    """When the leader asked it to stop."""
    lost_at: float | None = None
    """When its node was found lost; the agent stops it on return if it was replaced."""
    unplaceable: str = ""
    """Why no node takes it, while it has none."""

    @property
    def key(self) -> str:
        """``NAMESPACE/ID``, unique in the cluster."""
        return f"{self.namespace}/{self.id}"


class InstanceStatus(Model):
    """The node's word on an instance."""

    phase: Phase = Phase.ASSIGNED
    ready: bool = False
    address: str | None = None
    restarts: int = 0
    exit_code: int | None = None
    reason: str = ""
    """A short word for the state, e.g. ``ImagePullFailed``, ``CrashLoop``, ``Unhealthy``."""
    message: str = ""
    pid: int | None = None
    image_id: str = ""
    started_at: float | None = None
    ready_since: float | None = None
    finished_at: float | None = None
    node: str = ""
    conditions: tuple[Condition, ...] = ()


def phase_of(record: InstanceRecord, status: InstanceStatus | None) -> Phase:
    """Tell the phase a person should see, from both records."""
    if record.lost_at is not None:
        return Phase.LOST
    if record.node is None:
        return Phase.PENDING if record.desired is Desired.RUN else Phase.STOPPED
    if status is None:
        return Phase.ASSIGNED if record.desired is Desired.RUN else Phase.STOPPING
    if record.desired is Desired.STOP and not status.phase.terminal:
        return Phase.STOPPING
    return status.phase


def is_ready(record: InstanceRecord, status: InstanceStatus | None) -> bool:
    """Tell whether it should get traffic: ready by its node's word and not on its way out."""
    return status is not None and status.ready and record.desired is Desired.RUN and record.lost_at is None
