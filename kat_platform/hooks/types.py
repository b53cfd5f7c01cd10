"""What the hooks take and give: frozen data, so that no plugin can change what another one sees.

Workload documents travel in their wire form (the JSON of ``to_wire``, camelCase), because a plugin may be older or
newer than the host that calls it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from kat_platform.interfaces.auth import Identity, Verb
from kat_platform.interfaces.driver import API_VERSION

if TYPE_CHECKING:
    from aiohttp import web

Document = Mapping[str, Any]
"""One document in its wire form, e.g. ``{"kind": "Workload", "metadata": {...}, "spec": {...}}``."""


@dataclass(frozen=True, slots=True)
class HookInfo:
    """What a plugin of group ``kat.hooks`` says of itself; ``name`` is its entry point's name."""

    name: str
    version: str
    api_version: str = API_VERSION
    summary: str = ""


class Operation(StrEnum):
    """What a change does to a workload."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """A change of one workload that a caller asked for and that is valid so far; nothing of it is stored yet."""

    operation: Operation
    namespace: str
    name: str
    caller: Identity
    documents: tuple[Document, ...] = ()
    """The whole Quadlet as it would be stored, the Workload first; empty for a delete."""
    previous: tuple[Document, ...] = ()
    """The Quadlet as it is stored now; empty for a create."""
    dry_run: bool = False
    """Whether the caller only asks what would happen."""


@dataclass(frozen=True, slots=True)
class AdmissionReply:
    """One plugin's word on a change. Make it with :meth:`allow`, :meth:`reject` or :meth:`change`."""

    allowed: bool = True
    reason: str = ""
    """For the person who asked; never empty when the change is refused."""
    documents: tuple[Document, ...] | None = None
    """The Quadlet as the plugin wants it, whole; ``None`` leaves it as it is."""
    warnings: tuple[str, ...] = ()
    """Shown to the caller, whatever becomes of the change."""

    @classmethod
    def allow(cls, *warnings: str) -> AdmissionReply:
        """Let the change pass as it is."""
        return cls(warnings=warnings)

    @classmethod
    def reject(cls, reason: str, *warnings: str) -> AdmissionReply:
        """Refuse the change; ``reason`` says what is wrong and what to do instead."""
        return cls(allowed=False, reason=reason, warnings=warnings)

    @classmethod
    def change(cls, documents: tuple[Document, ...], reason: str, *warnings: str) -> AdmissionReply:
        """Let ``documents`` pass instead; names and namespace must stay. ``reason`` is shown to the caller."""
        return cls(reason=reason, documents=documents, warnings=warnings)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a plugin knows of the node it runs on."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels for ``nodeSelector`` and friends. A label that the administrator or KAT set wins over these."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON for people, shown by ``node describe`` under the plugin's name."""


@dataclass(frozen=True, slots=True)
class InstanceChange:
    """An instance that got another phase or readiness; ``phase`` is ``None`` when it is gone."""

    namespace: str
    workload: str
    instance: str
    node: str | None
    phase_before: str | None
    """``None`` when the instance is new."""
    phase: str | None
    ready: bool
    reason: str = ""
    document: Document = field(default_factory=dict)
    """The instance in its wire form, as last known."""


@dataclass(frozen=True, slots=True)
class NodeChange:
    """A node that joined, left, or became ready or not; ``ready`` is ``None`` when it is gone."""

    node: str
    ready_before: bool | None
    """``None`` when the node is new."""
    ready: bool | None
    reason: str = ""
    document: Document = field(default_factory=dict)
    """The node in its wire form, as last known."""


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An event as it was recorded; times in seconds since the epoch."""

    type: str
    """``Normal`` or ``Warning``."""
    reason: str
    kind: str
    """Kind of the object the event is about, e.g. ``Workload``, ``Instance``, ``Node``."""
    name: str
    message: str
    namespace: str | None = None
    count: int = 1
    first_seen: float = 0.0
    last_seen: float = 0.0


@dataclass(frozen=True, slots=True)
class LeadershipChange:
    """This node's agent became leader of the cluster, or stopped being it."""

    node: str
    is_leader: bool


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """A route a plugin adds to the API, at ``/v1alpha1/plugins/PLUGIN/path``.

    The host has authenticated the caller and has asked ``auth`` whether it may do ``verb`` on resource
    ``plugins/PLUGIN`` before ``handler`` is called. The caller is in ``request["identity"]``.
    """

    method: str
    """``GET``, ``PUT``, ``POST``, ``PATCH`` or ``DELETE``."""
    path: str
    """Relative, in aiohttp's form: ``report/{node}``."""
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    verb: Verb = Verb.READ
    summary: str = ""
    """One line for the OpenAPI document."""
