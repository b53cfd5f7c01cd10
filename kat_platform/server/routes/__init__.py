"""The routes of the API: one module a resource. Order matters only within one path."""

from __future__ import annotations

from typing import Final

from kat_platform.server.routes import (
    backups,
    ca,
    collections,
    configuration,
    execute,
    join,
    logs,
    members,
    namespaces,
    node_api,
    nodes,
    quadlets,
    system,
    tokens,
    why,
    workloads,
)
from kat_platform.server.table import Route

ALL: Final[tuple[Route, ...]] = (
    *system.ROUTES,
    *collections.ROUTES,
    *quadlets.ROUTES,
    *workloads.ROUTES,
    *why.ROUTES,
    *logs.ROUTES,
    *execute.ROUTES,
    *namespaces.ROUTES,
    *nodes.ROUTES,
    *configuration.ROUTES,
    *tokens.ROUTES,
    *backups.ROUTES,
    *join.ROUTES,
    *ca.ROUTES,
    *members.ROUTES,
    *node_api.ROUTES,
)
