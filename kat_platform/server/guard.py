"""Guard: what stands around every handler: who is calling, may they, what became of it, and how long it took."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

import structlog
from aiohttp import hdrs, web

from kat_platform.errors import Denied, KatError, NotFound, Unauthenticated, UsageError
from kat_platform.interfaces.auth import Identity, Verb
from kat_platform.server import problems
from kat_platform.server.access import IDENTITY, refusal
from kat_platform.server.api import Api
from kat_platform.server.audit import AuditRecord
from kat_platform.server.table import Route

log = structlog.get_logger(__name__)

REQUEST_ID: Final = web.RequestKey("request_id", str)
STRANGER: Final = web.RequestKey("stranger", str)
"""How a handler names a caller without an identity (the bearer of a join token) for the audit record."""
STRANGERS_KEPT: Final = 60
"""Audit records about strangers that are stored in a minute; further ones are only logged."""
_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_AUDITED: Final = frozenset({Verb.WRITE, Verb.DELETE, Verb.EXEC})
_OURS: Final = secrets.token_hex(4)
_NUMBERS: Final = count(1)


def request_id(request: web.BaseRequest) -> str:
    """Give the request's id: the caller's own ``X-Request-Id`` where it is a plain word, else a new one."""
    given = request.headers.get("X-Request-Id")
    if given is not None and _GIVEN_ID.fullmatch(given):
        return given
    return f"{_OURS}-{next(_NUMBERS):x}"


def guarded(api: Api, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Put the guard around a route's handler."""

    async def handle(request: web.Request) -> web.StreamResponse:
        started = time.perf_counter()
        id_ = request[REQUEST_ID] = request_id(request)
        identity: Identity | None = None
        error: KatError | None = None
        try:
            if not route.public:
                identity = request[IDENTITY] = api.access.identify(request)
                if route.checked and not route.any_caller:
                    _check(api, identity, route, request)
            if request.query.get("consistent") in ("true", "1"):
                await api.fresh()
            response = await route.handler(request, api)
        except KatError as raised:
            error = raised
        except web.HTTPException as raised:
            error = from_http(raised)
        except ConnectionError:
            raise  # the caller has gone away
        except Exception:  # a bug: the caller learns that much, the log the rest
            log.exception("request-failed", request=id_, method=route.method, path=request.path)
            error = problems.unexpected(id_)
        if error is not None:
            response = problems.response(error, id_)
            _count_refusal(api, request, error)
        if not response.prepared:
            response.headers["X-Request-Id"] = id_
        if (route.audited or route.verb in _AUDITED) and not (
            error is None and request.query.get("dryRun") in ("true", "1")
        ):
            _audit(api, route, request, identity, response.status, error)
        api.metrics.count("kat_api_requests_total", route.method, route.resource or "system", str(response.status))
        if not route.stream:
            api.metrics.observe("kat_api_request_seconds", time.perf_counter() - started, route.method)
        return response

    return handle


def _check(api: Api, identity: Identity, route: Route, request: web.Request) -> None:
    match = request.match_info
    api.access.check(identity, route.verb, route.resource, match.get("ns"), match.get(route.named, ""))


def _count_refusal(api: Api, request: web.Request, error: KatError) -> None:
    if isinstance(error, Unauthenticated | Denied):
        api.metrics.count("kat_api_denied_total", error.code)
        log.info("request-refused", code=error.code, **refusal(request, error))


def _audit(
    api: Api, route: Route, request: web.Request, identity: Identity | None, status: int, error: KatError | None
) -> None:
    stranger = request.get(STRANGER, "")
    decision = "allowed" if error is None else "failed"
    if isinstance(error, Unauthenticated | Denied) or (stranger and error is not None and error.http_status < 500):
        decision = "denied"
    api.audit.note(
        AuditRecord(
            at=api.now(),
            request=request[REQUEST_ID],
            who=identity.name if identity else stranger,
            method=identity.method if identity else "join token" if stranger else "",
            remote=request.remote or "",
            verb=route.verb.value,
            resource=f"{route.resource} {route.method}",
            namespace=request.match_info.get("ns", "")[:64],
            name=request.match_info.get(route.named, "")[:64],
            decision=decision,
            status=status,
            code=error.code if error else "",
            reason=error.message[:300] if error else "",
        ),
        keep=identity is not None or (bool(stranger) and api.audit.room_for_stranger(STRANGERS_KEPT)),
    )


def from_http(error: web.HTTPException) -> KatError:
    """Give what aiohttp itself refuses in our form."""
    if error.status == 404:
        return NotFound("there is nothing at this path", hint="see /openapi.json")
    return UsageError(f"{error.reason}")


async def unknown(request: web.Request) -> web.StreamResponse:
    """Answer a path or a method that no route has."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical != "/{anything}":
            allowed.update((await resource.resolve(request))[1])
    id_ = request_id(request)
    if not allowed:
        text = f"there is nothing at {request.path[:200]}"
        return problems.response(NotFound(text, hint="/openapi.json lists what there is"), id_)
    methods = ", ".join(sorted(allowed))
    answer = problems.response(UsageError(f"{request.method} is not possible here: {methods}"), id_)
    answer.set_status(405)
    answer.headers[hdrs.ALLOW] = methods
    return answer
