"""Routes for operators of nodes."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from kat_platform.errors import NotFound
from kat_platform.interfaces.auth import Verb
from kat_platform.model.event import Event
from kat_platform.server.api import Api
from kat_platform.server.index import NODES, Ref
from kat_platform.server.requests import answer, check_match
from kat_platform.server.table import PREFIX, Handler, Route

_PATH: Final = f"{PREFIX}/nodes/{{name}}"


def _cordon(cordoned: bool) -> Handler:
    async def change(request: web.Request, api: Api) -> web.StreamResponse:
        name = request.match_info["name"]
        found = await api.repository.node(name)
        if found is None:
            raise NotFound(f"there is no node '{name}'")
        check_match(request, found.revision, f"node '{name}'")
        revision = found.revision
        if found.value.cordoned != cordoned:
            revision = await api.repository.replace(found, found.value.model_copy(update={"cordoned": cordoned}))
            who = api.caller(request).name
            reason, text = ("Cordoned", "takes no") if cordoned else ("Uncordoned", "takes")
            message = f"{who} decided that it {text} new instances"
            await api.events.record(
                Event(reason=reason, object_kind="Node", object_name=name, message=message, source="api")
            )
            await api.caught_up(revision)
        return answer(api.objects.get(Ref(NODES, "", name)) or b"null", etag=revision)

    return change


ROUTES = (
    Route(
        "POST",
        f"{_PATH}/cordon",
        _cordon(True),
        "Let no new instance come to a node.",
        "nodes",
        Verb.WRITE,
        answer="NodeItem",
    ),
    Route(
        "POST",
        f"{_PATH}/uncordon",
        _cordon(False),
        "Let instances come to a node again.",
        "nodes",
        Verb.WRITE,
        answer="NodeItem",
    ),
)
