"""Routes of the cluster's configuration."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from kat_platform.agent.settings import refuse_fixed_changes
from kat_platform.errors import NotFound
from kat_platform.interfaces.auth import Verb
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.server.api import Api
from kat_platform.server.apply import field_changes
from kat_platform.server.index import CONFIGURATION, Ref
from kat_platform.server.requests import answer, answer_json, check_match, flag, read_json
from kat_platform.server.table import DRY_RUN, PREFIX, Route
from kat_platform.state import keys


async def get(_: web.Request, api: Api) -> web.StreamResponse:
    """Give the configuration."""
    body = api.objects.get(Ref(CONFIGURATION, "", "cluster"))
    if body is None:
        raise NotFound("the cluster has no configuration yet")
    return answer(body, etag=api.state.key_revisions.get(keys.CLUSTER))


async def put(request: web.Request, api: Api) -> web.StreamResponse:
    """Change the configuration, in the fields that may change; a change of any other is refused and nothing changes."""
    document = await read_json(request, ClusterConfiguration)
    found = await api.repository.configuration()
    if found is None:
        raise NotFound("the cluster has no configuration yet")
    check_match(request, found.revision, "the configuration")
    name = document.metadata.name
    changes = field_changes("ClusterConfiguration", "", name, found.value.to_wire(), document.to_wire())
    refuse_fixed_changes(found.value, document)
    revision = found.revision
    if changes and not flag(request, "dryRun"):
        revision = await api.repository.replace(found, document)
        await api.caught_up(revision)
    warnings = []
    if any(entry.path.startswith(("spec.plugins.", "spec.pluginConfig")) for entry in changes):
        warnings.append("plugins and their settings take effect when each kat-agent is restarted")
    plan = [entry.to_wire() for entry in changes]
    return answer_json({"plan": plan, "warnings": warnings, "dryRun": flag(request, "dryRun")}, etag=revision)


_PATH: Final = f"{PREFIX}/configuration"

ROUTES = (
    Route("GET", _PATH, get, "The cluster's configuration.", "config", answer="ConfigurationItem"),
    Route(
        "PUT",
        _PATH,
        put,
        "Change the configuration's mutable fields.",
        "config",
        Verb.WRITE,
        answer="Plan",
        body="ClusterConfiguration",
        query=(DRY_RUN,),
    ),
)
