"""Revision: an immutable record of one apply. And the workload's own record, which points at one."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from kat_platform.model.base import Model
from kat_platform.model.load_balancer import VirtualLoadBalancer
from kat_platform.model.workload import Workload


class Revision(Model):
    """What one apply asked for, whole. ``number`` counts from 1 within the workload."""

    namespace: str
    workload: str
    number: int
    created_at: float
    files_digest: str
    document: Workload
    load_balancer: VirtualLoadBalancer | None = None
    files: dict[str, str] = Field(default_factory=dict)
    """The ``.kat`` files as they were sent, by name."""
    created_by: str = ""
    cause: str = "apply"
    """``apply``, or ``rollback to N``."""
    image_digest: str = ""
    secret_versions: dict[str, int] = Field(default_factory=dict)


class WorkloadRecord(Model):
    """What the operator wants of a workload now. Written by the API only, with compare-and-set."""

    name: str
    namespace: str
    revision: int
    """The target revision."""
    replicas: int | None = None
    """For a Service: how many instances; follows ``scale`` until the next apply."""
    generation: int = 0
    """Raised by ``restart``: instances of an older generation are replaced."""
    paused: bool = False
    """The operator holds the rollout."""
    resumes: int = 0
    """Raised by ``rollout resume``: lets a rollout go on that was paused by its deadline."""
    deleting: bool = False
    created_at: float = 0.0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class RolloutState(StrEnum):
    """How the change to the target revision is going."""

    PROGRESSING = "Progressing"
    COMPLETE = "Complete"
    PAUSED = "Paused"
    """By the operator, or because it ran past its deadline with ``onFailure: Pause``."""
    ROLLED_BACK = "RolledBack"


class Rollout(Model):
    """The leader's word on a workload's change to its target; ``updated`` and ``ready`` count instances."""

    revision: int
    generation: int = 0
    state: RolloutState = RolloutState.PROGRESSING
    started_at: float = 0.0
    progress_at: float = 0.0
    """When it last came nearer to its end; the progress deadline counts from here."""
    wanted: int = 0
    updated: int = 0
    ready: int = 0
    """Ready instances of the target revision."""
    available: int = 0
    """Ready instances of any revision."""
    message: str = ""
    resumes: int = 0
    """The record's ``resumes`` that this rollout has followed."""
    stable_revision: int | None = None
    """The last revision that completed: where ``onFailure: Rollback`` goes back to."""
