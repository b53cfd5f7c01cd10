"""Table: what a route is. The server serves from it, and the OpenAPI document is made from it, so the two agree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from aiohttp import web

from kat_platform.interfaces.auth import Verb

if TYPE_CHECKING:
    from kat_platform.server.api import Api

PREFIX: Final = "/v1alpha1"
Handler = Callable[[web.Request, "Api"], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Query:
    """One parameter of the query string."""

    name: str
    description: str
    type: Literal["string", "integer", "number", "boolean"] = "string"
    repeated: bool = False


WATCH: Final = (
    Query("watch", "Stream changes as newline-delimited JSON instead of answering once.", "boolean"),
    Query("fromRevision", "With watch: everything after this revision. Absent: the list first.", "integer"),
    Query("labelSelector", "Only objects with these labels: a=b,c!=d,e,!f."),
)
DRY_RUN: Final = Query("dryRun", "Only say what would happen.", "boolean")


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path: who may, what it takes and gives. ``answer`` and ``body`` name schemas."""

    method: str
    path: str
    handler: Handler
    summary: str
    resource: str = ""
    verb: Verb = Verb.READ
    answer: str = ""
    body: str = ""
    """Schema of the JSON body, or ``archive`` for a ``.tar.gz``."""
    query: tuple[Query, ...] = ()
    status: int = 200
    media: str = "application/json"
    public: bool = False
    """Needs no credential."""
    any_caller: bool = False
    """Whoever is known may, whatever their role."""
    stream: bool = False
    """Kept open; not timed."""
    named: str = "name"
    """Which part of the path names the object, for the decision of who may."""
    checked: bool = True
    """Whether who may is decided before the handler; a handler that must read first asks by itself."""
    audited: bool = False
    """Goes into the audit log although its verb alone would not."""
