"""Memory: what the agent remembers of one instance across restarts of itself and of the machine."""

from __future__ import annotations

from kat_platform.model.base import Model
from kat_platform.model.instance import InstanceStatus, Phase
from kat_platform.model.view import AssignmentItem


class InstanceMemory(Model):
    """What is journalled of an instance. Times in seconds since the epoch."""

    key: str
    """``NAMESPACE/ID``."""
    assignment: AssignmentItem | None = None
    """The newest one received; without secrets, which are never written to disk."""
    address: str | None = None
    """Kept for as long as the instance is known, so that it has the same after a restart."""
    phase: Phase = Phase.ASSIGNED
    reason: str = ""
    message: str = ""
    restarts: int = 0
    failures: int = 0
    """Failures in a row that the back-off counts; forgotten after long enough a run."""
    next_try_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    image_id: str = ""
    ready: bool = False
    """Whether it got traffic when this was written: after a restart of the agent it goes on getting it."""
    ready_since: float | None = None
    attached_pid: int | None = None
    """Process whose network namespace has the interface."""
    boot_id: str = ""
    """Boot of the machine during which it last ran."""
    stop_began_at: float | None = None
    drained: bool = False
    network_released: bool = False
    unhealthy: bool = False
    """The health check failed and asks for a restart."""

    def status(self, *, node: str, pid: int | None) -> InstanceStatus:
        """Give the status to report."""
        return InstanceStatus(
            phase=self.phase,
            ready=self.ready,
            address=self.address,
            restarts=self.restarts,
            exit_code=self.exit_code,
            reason=self.reason,
            message=self.message,
            pid=pid,
            image_id=self.image_id,
            started_at=self.started_at,
            ready_since=self.ready_since,
            finished_at=self.finished_at,
            node=node,
        )
