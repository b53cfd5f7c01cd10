"""Routes that read: one object, a list, or a watch, the same way for every collection."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from kat_platform.errors import Compacted, NotFound
from kat_platform.server import index, render
from kat_platform.server.api import Api
from kat_platform.server.index import Ref
from kat_platform.server.objects import Filter
from kat_platform.server.requests import answer, flag, selector, whole
from kat_platform.server.streams import watch
from kat_platform.server.table import PREFIX, WATCH, Handler, Query, Route

_OF_WORKLOAD: Final = Query("workload", "Only what belongs to this workload.")
_KINDS: Final = {
    index.WORKLOADS: "Workload",
    index.REVISIONS: "Revision",
    index.INSTANCES: "Instance",
    index.NODES: "Node",
    index.NAMESPACES: "Namespace",
    index.EVENTS: "Event",
}


def _one(collection: str) -> Handler:
    async def get(request: web.Request, api: Api) -> web.StreamResponse:
        match = request.match_info
        ref = Ref(collection, match.get("ns", ""), match["name"])
        body = api.objects.get(ref)
        if body is None:
            where = f" in namespace '{ref.namespace}'" if ref.namespace else ""
            raise NotFound(f"there is no {_KINDS[collection].lower()} '{ref.name}'{where}")
        return answer(body, etag=render.etag(api.state, ref))

    return get


def _many(collection: str) -> Handler:
    async def find(request: web.Request, api: Api) -> web.StreamResponse:
        match = request.match_info
        owner = match.get("name") if collection == index.REVISIONS else request.query.get("workload")
        wanted = Filter(collection, match.get("ns"), owner, selector(request))
        if collection == index.REVISIONS and (match["ns"], match["name"]) not in api.state.workloads:
            raise NotFound(f"there is no workload '{match['name']}' in namespace '{match['ns']}'")
        if flag(request, "watch"):
            since = whole(request, "fromRevision")
            await _refuse_future(api, since)
            return await watch(request, api.streams, api.objects, wanted, since)
        bodies = [body for ref in api.objects.find(wanted) if (body := api.objects.get(ref)) is not None]
        return answer(b'{"revision":%d,"items":[%s]}' % (api.state.revision, b",".join(bodies)))

    return find


async def _refuse_future(api: Api, since: int | None) -> None:
    """Raise ``Compacted`` for a revision that the state has not reached, also after this server has caught up: the
    watcher has seen a state that is no more, because the cluster was restored from a backup since."""
    if since is None or since <= api.state.revision:
        return
    await api.fresh()
    if since > api.state.revision:
        raise Compacted(
            f"the state is at revision {api.state.revision}, before {since}: it was restored from a backup",
            hint="list again and watch from there",
        )


async def one_revision(request: web.Request, api: Api) -> web.StreamResponse:
    """Give one revision of a workload, with its files."""
    match = request.match_info
    number = match["number"]
    ref = Ref(index.REVISIONS, match["ns"], f"{match['name']}/{number}")
    body = api.objects.get(ref) if number.isdecimal() and number == str(int(number[:9])) else None
    if body is None:
        raise NotFound(f"workload '{match['ns']}/{match['name']}' has no revision {number[:20]}")
    return answer(body, etag=render.etag(api.state, ref))


def _routes() -> tuple[Route, ...]:
    made: list[Route] = []
    for collection in (index.WORKLOADS, index.INSTANCES, index.EVENTS):
        kind = _KINDS[collection]
        query = WATCH if collection == index.WORKLOADS else (*WATCH, _OF_WORKLOAD)
        for path, where in ((f"/{collection}", "of all namespaces"), (f"/namespaces/{{ns}}/{collection}", "")):
            text = f"List or watch the {collection} {where or 'of a namespace'}."
            made.append(
                Route("GET", PREFIX + path, _many(collection), text, collection, answer=f"{kind}List", query=query)
            )
        path = f"{PREFIX}/namespaces/{{ns}}/{collection}/{{name}}"
        made.append(Route("GET", path, _one(collection), f"One of the {collection}.", collection, answer=f"{kind}Item"))
    for collection in (index.NODES, index.NAMESPACES):
        kind, path = _KINDS[collection], f"{PREFIX}/{collection}"
        text = f"List or watch the {collection}."
        made.append(Route("GET", path, _many(collection), text, collection, answer=f"{kind}List", query=WATCH))
        text = f"One of the {collection}."
        made.append(Route("GET", f"{path}/{{name}}", _one(collection), text, collection, answer=f"{kind}Item"))
    return tuple(made)


_REVISIONS: Final = f"{PREFIX}/namespaces/{{ns}}/workloads/{{name}}/revisions"

ROUTES = (
    *_routes(),
    Route(
        "GET",
        _REVISIONS,
        _many(index.REVISIONS),
        "List or watch a workload's revisions.",
        "revisions",
        answer="RevisionList",
        query=WATCH,
    ),
    Route("GET", f"{_REVISIONS}/{{number}}", one_revision, "One revision.", "revisions", answer="RevisionItem"),
)
