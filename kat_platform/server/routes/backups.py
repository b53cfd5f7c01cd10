"""Routes of backups: of the control-plane node that answers, whose folder they lie in. For administrators only."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiohttp import web

from kat_platform.backup.folder import Backup
from kat_platform.backup.keeper import BackupKeeper
from kat_platform.errors import NotSupportedYet
from kat_platform.interfaces.auth import Verb
from kat_platform.server.api import Api
from kat_platform.server.requests import answer_json
from kat_platform.server.table import PREFIX, Route

_PATH: Final = f"{PREFIX}/backups"


def _keeper(api: Api) -> BackupKeeper:
    if api.deps.backups is None:
        raise NotSupportedYet("this server has no backups")
    return api.deps.backups


def _shown(backup: Backup) -> dict[str, Any]:
    header = backup.header
    return {
        "kind": "Backup",
        "name": backup.name,
        "node": backup.node,
        "size": backup.size,
        "createdAt": header.created_at,
        "createdBy": header.node,
        "revision": header.revision,
        "version": header.version,
        "keyId": header.key_id,
    }


async def find(_: web.Request, api: Api) -> web.StreamResponse:
    """List the backups that lie on the node that answers, oldest first."""
    keeper = _keeper(api)
    items = [_shown(backup) for backup in await keeper.list()]
    return answer_json({"node": api.deps.node_name, "keyId": keeper.key.id, "items": items})


async def create(_: web.Request, api: Api) -> web.StreamResponse:
    """Make a backup now, on the node that answers; it has been read back when the answer comes."""
    # Shielded: who has begun it and goes away does not leave half of it.
    made = await asyncio.shield(asyncio.create_task(_keeper(api).take(), name="backup on request"))
    return answer_json(_shown(made), status=201)


async def verify(request: web.Request, api: Api) -> web.StreamResponse:
    """Restore a backup into a store of its own, start that, compare what is in it, and remove it again."""
    found = await _keeper(api).verify(request.match_info["name"])
    return answer_json(found.to_wire())


async def content(request: web.Request, api: Api) -> web.StreamResponse:
    """Give the sealed archive itself."""
    path = _keeper(api).path(request.match_info["name"])
    return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})


ROUTES = (
    Route("GET", _PATH, find, "List the backups on the node that answers.", "backups", answer="BackupList"),
    Route(
        "POST",
        _PATH,
        create,
        "Make a backup on the node that answers.",
        "backups",
        Verb.WRITE,
        answer="Backup",
        status=201,
    ),
    Route(
        "POST",
        f"{_PATH}/{{name}}/verify",
        verify,
        "Restore a backup for a trial, beside the running store.",
        "backups/verify",
        Verb.WRITE,
        answer="Verified",
    ),
    Route(
        "GET",
        f"{_PATH}/{{name}}/content",
        content,
        "The sealed archive.",
        "backups/content",
        Verb.WRITE,  # who takes a copy of everything is written down
        media="application/octet-stream",
        stream=True,
    ),
)
