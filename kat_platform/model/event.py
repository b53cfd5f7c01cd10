"""Event: something a person would ask "why?" about. Kept for 24 hours, repeated ones counted."""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha256

from kat_platform.model.base import Model


class EventType(StrEnum):
    """Whether an event is the course of things or a sign of trouble."""

    NORMAL = "Normal"
    WARNING = "Warning"


class Event(Model):
    """One event; times are seconds since the epoch. ``object_kind`` is e.g. ``Workload``, ``Instance``, ``Node``."""

    type: EventType = EventType.NORMAL
    reason: str
    """A CamelCase word that never changes its meaning, e.g. ``Restarted``."""
    object_kind: str
    object_name: str
    namespace: str = ""
    """Empty for objects of the cluster."""
    message: str = ""
    source: str = ""
    """Which part says so: ``leader``, ``agent/NODE``, ``api``."""
    count: int = 1
    first_at: float = 0.0
    last_at: float = 0.0

    @property
    def identity(self) -> str:
        """The same for repetitions of the same event: they are counted, not kept one by one."""
        text = "\0".join((self.object_kind, self.object_name, self.reason, self.message, self.source))
        return f"{self.object_name}.{sha256(text.encode()).hexdigest()[:12]}"
