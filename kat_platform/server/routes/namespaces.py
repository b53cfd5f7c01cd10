"""Routes that change namespaces."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from kat_platform.errors import Conflict, InvalidInput, NotFound, NotSupportedYet
from kat_platform.interfaces.auth import Verb
from kat_platform.interfaces.store import Compare, Delete, Put
from kat_platform.model.meta import DEFAULT_NAMESPACE
from kat_platform.model.namespace import Namespace
from kat_platform.quadlet.parser import Quadlet
from kat_platform.quadlet.support import unsupported
from kat_platform.server.api import Api
from kat_platform.server.index import NAMESPACES, Ref
from kat_platform.server.requests import answer, check_match, read_json
from kat_platform.server.table import PREFIX, Route
from kat_platform.state import keys

_PATH: Final = f"{PREFIX}/namespaces/{{name}}"


async def put(request: web.Request, api: Api) -> web.StreamResponse:
    """Create a namespace, or change its document."""
    name = request.match_info["name"]
    document = await read_json(request, Namespace)
    if document.metadata.name != name:
        raise InvalidInput(f"the document is of namespace '{document.metadata.name}', the path of '{name}'")
    problems = unsupported(Quadlet(None, namespaces=(document,)))
    if problems:
        raise NotSupportedYet("; ".join(problem.message for problem in problems))
    old = await api.repository.namespace(name)
    check_match(request, old.revision if old else 0, f"namespace '{name}'")
    compare = Compare.unchanged(keys.namespace(name), old.revision if old else 0)
    write = Put(keys.namespace(name), document.to_json())
    revision = await api.repository.commit([compare], [write], f"namespace '{name}'")
    await api.caught_up(revision)
    body = api.objects.get(Ref(NAMESPACES, "", name)) or b"null"
    return answer(body, status=200 if old else 201, etag=revision)


async def delete(request: web.Request, api: Api) -> web.StreamResponse:
    """Remove a namespace that has no workloads."""
    name = request.match_info["name"]
    if name == DEFAULT_NAMESPACE:
        raise Conflict("namespace 'default' always exists")
    old = await api.repository.namespace(name)
    if old is None:
        raise NotFound(f"there is no namespace '{name}'")
    check_match(request, old.revision, f"namespace '{name}'")
    inside = await api.deps.store.list(f"{keys.WORKLOADS}{name}/", keys_only=True)
    if inside.entries:
        shown = ", ".join(keys.split(entry.key, keys.WORKLOADS)[1] for entry in inside.entries[:5])
        raise Conflict(
            f"namespace '{name}' has {len(inside.entries)} workloads: {shown}", hint="delete them before the namespace"
        )
    revision = await api.repository.commit([old.unchanged()], [Delete(old.key)], f"namespace '{name}'")
    await api.caught_up(revision)
    return answer(b'{"deleted":true}')


ROUTES = (
    Route(
        "PUT",
        _PATH,
        put,
        "Create or change a namespace.",
        "namespaces",
        Verb.WRITE,
        answer="NamespaceItem",
        body="Namespace",
    ),
    Route("DELETE", _PATH, delete, "Remove an empty namespace.", "namespaces", Verb.DELETE, answer="Deleted"),
)
