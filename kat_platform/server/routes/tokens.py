"""Routes of API tokens: the bearer credentials of people and programs. Only hashes are stored."""

from __future__ import annotations

import re
from typing import Any, Final

from aiohttp import web
from pydantic import Field

from kat_platform.errors import InvalidInput, NotFound
from kat_platform.interfaces.auth import Role, Verb
from kat_platform.interfaces.store import Compare, Delete, Put
from kat_platform.model.base import Model
from kat_platform.pki.tokens import make_api_token
from kat_platform.server.access import StoredToken, read_token
from kat_platform.server.api import Api
from kat_platform.server.requests import answer_json, read_json
from kat_platform.server.table import PREFIX, Route
from kat_platform.state import keys

MAX_TTL: Final = 365 * 24 * 3600
MAX_TOKENS: Final = 1000
_PATH: Final = f"{PREFIX}/tokens"
_ID: Final = re.compile(r"[a-z0-9]{8,32}")


class TokenBody(Model):
    """What making a token takes. Without ``namespaces`` the role holds in all of them and for the cluster."""

    name: str
    role: Role = Role.VIEW
    namespaces: tuple[str, ...] = ()
    ttl_seconds: float = Field(default=8 * 3600, ge=1, le=MAX_TTL)


async def create(request: web.Request, api: Api) -> web.StreamResponse:
    """Make a token and show it, this one time."""
    body = await read_json(request, TokenBody)
    if body.role is Role.NODE:
        raise InvalidInput("role node is for nodes' certificates only: use admin, edit or view")
    page = await api.deps.store.list(keys.TOKENS)
    now = api.now()
    stale = [Delete(e.key) for e in page.entries if (t := read_token(e.value)) and t.expires_at and t.expires_at < now]
    if len(page.entries) - len(stale) >= MAX_TOKENS:
        raise InvalidInput(f"there are {MAX_TOKENS} tokens already", hint="remove some: katcall token rm ID")
    bindings: dict[str, Role] = dict.fromkeys(body.namespaces or ("*",), body.role)
    text, record = make_api_token(body.name, bindings, now=now, ttl=body.ttl_seconds)
    stored = StoredToken(
        id=record.id,
        sha256=record.sha256,
        identity=record.identity,
        bindings=bindings,
        created_at=now,
        created_by=api.caller(request).name,
        expires_at=record.expires_at,
    )
    key = keys.token(record.id)
    revision = await api.repository.commit(
        [Compare.absent(key)], [Put(key, stored.to_json()), *stale[:64]], f"token {record.id}"
    )
    await api.access.took(record, record.id)
    return answer_json({**_shown(stored), "token": text}, status=201, etag=revision)


async def find(_: web.Request, api: Api) -> web.StreamResponse:
    """List tokens, without anything one could use."""
    page = await api.deps.store.list(keys.TOKENS)
    tokens = [token for entry in page.entries if (token := read_token(entry.value)) is not None]
    items = [_shown(token) for token in sorted(tokens, key=lambda token: (token.created_at, token.id))]
    return answer_json({"revision": page.revision, "items": items})


async def delete(request: web.Request, api: Api) -> web.StreamResponse:
    """Withdraw a token; who uses it is refused from now on."""
    token_id = request.match_info["name"]
    removed = await api.deps.store.delete(keys.token(token_id)) if _ID.fullmatch(token_id) else 0
    if not removed:
        raise NotFound(f"there is no token '{token_id[:40]}'", hint="katcall token ls lists them")
    await api.access.took(None, token_id)
    return answer_json({"deleted": True})


def _shown(token: StoredToken) -> dict[str, Any]:
    wire = token.to_wire()
    del wire["sha256"]
    return {"kind": "Token", "name": wire["id"], **wire}


ROUTES = (
    Route(
        "POST",
        _PATH,
        create,
        "Make an API token; it is shown once.",
        "tokens",
        Verb.WRITE,
        answer="NewToken",
        body="TokenBody",
        status=201,
    ),
    Route("GET", _PATH, find, "List API tokens.", "tokens", answer="TokenList"),
    Route("DELETE", f"{_PATH}/{{name}}", delete, "Withdraw an API token.", "tokens", Verb.DELETE, answer="Deleted"),
)
