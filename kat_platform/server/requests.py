"""Requests: reading what callers send, within limits: bodies, parameters, If-Match."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Final, TypeVar

from aiohttp import web
from pydantic import ValidationError

from kat_platform.errors import InvalidInput, PreconditionFailed, TimedOut, TooLarge, UsageError
from kat_platform.model.base import Model
from kat_platform.server.problems import from_validation

M = TypeVar("M", bound=Model)

JSON_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a JSON body; a report of a full node is the largest there is."""
BODY_SECONDS: Final = 30.0
"""How long a caller may take to send a body."""
_TERM: Final = re.compile(r"\s*(?:(!)\s*)?([A-Za-z0-9][A-Za-z0-9._/-]*)\s*(?:(==|=|!=)\s*([A-Za-z0-9._-]*))?\s*")


async def read_body(request: web.Request, limit: int) -> bytes:
    """Read a body of at most ``limit`` bytes; raises ``TooLarge``, or ``TimedOut`` when it comes too slowly."""
    if request.content_length is not None and request.content_length > limit:
        raise TooLarge(f"the body has {request.content_length} bytes: at most {limit} are accepted", limit=limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.content.iter_any():
                size += len(part)
                if size > limit:
                    raise TooLarge(f"the body has more than {limit} bytes", limit=limit)
                parts.append(part)
    except TimeoutError:
        raise TimedOut(f"the body did not arrive within {BODY_SECONDS:g} s") from None
    except web.RequestPayloadError as error:
        raise InvalidInput("the body is malformed: its encoding or length is not what the headers say") from error
    return b"".join(parts)


async def read_json(request: web.Request, kind: type[M], *, peer: bool = False) -> M:
    """Read a JSON body as a model; an empty body counts as ``{}``. Raises ``InvalidInput`` naming each wrong field.

    ``peer`` is for what agents send: of one that is newer, what this version does not know is left out.
    """
    data = await read_body(request, JSON_LIMIT) or b"{}"
    try:
        return kind.from_json(data) if peer else kind.model_validate_json(data)
    except ValidationError as error:
        raise from_validation(error, "the body") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None


def answer(body: bytes, *, status: int = 200, etag: int | None = None) -> web.Response:
    """Give JSON bytes as an answer, with the object's ETag."""
    response = web.Response(status=status, body=body, content_type="application/json")
    if etag is not None:
        response.headers["ETag"] = f'"{etag}"'
    return response


def answer_json(data: object, *, status: int = 200, etag: int | None = None) -> web.Response:
    """Give plain data as an answer."""
    return answer(json.dumps(data, separators=(",", ":")).encode(), status=status, etag=etag)


def check_match(request: web.Request, current: int, what: str) -> None:
    """Honour ``If-Match`` against an object's revision in the store (0: it does not exist)."""
    header = request.headers.get("If-Match")
    if header is None:
        return
    text = header.strip()
    if text == "*":
        if current == 0:
            raise PreconditionFailed(f"If-Match asks for an existing {what}, and there is none")
        return
    match = re.fullmatch(r'"(\d{1,20})"', text)
    if match is None:
        raise UsageError(f'If-Match must be one ETag as given by the server, such as "42", not {text[:80]!r}')
    if int(match[1]) != current:
        raise PreconditionFailed(
            f"{what} is at version {current}, not {match[1]}",
            hint="look at it again, and repeat the change",
            etag=current,
        )


def flag(request: web.Request, name: str) -> bool:
    """Read a boolean parameter: ``true``/``1`` or ``false``/``0``."""
    text = request.query.get(name, "false").lower()
    if text in ("true", "1", ""):
        return True
    if text in ("false", "0"):
        return False
    raise UsageError(f"parameter {name} must be true or false, not '{text[:40]}'")


def whole(request: web.Request, name: str) -> int | None:
    """Read a whole number that is 0 or more."""
    text = request.query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise UsageError(f"parameter {name} must be a whole number, not '{text[:40]}'")
    return int(text)


def selector(request: web.Request) -> tuple[tuple[str, str, str], ...]:
    """Read ``labelSelector``: ``a=b,c!=d,e,!f``, all of which must hold."""
    return parse_selector(request.query.get("labelSelector", ""))


def parse_selector(text: str) -> tuple[tuple[str, str, str], ...]:
    """Read a label selector into ``(key, operator, value)``; raises ``UsageError``."""
    terms: list[tuple[str, str, str]] = []
    for part in text.split(",") if text.strip() else ():
        match = _TERM.fullmatch(part)
        if match is None or (match[1] and match[3]):
            raise UsageError(f"'{part[:80]}' is no label selector: write a=b, a!=b, a or !a, separated by commas")
        operator = {"==": "=", "=": "=", "!=": "!="}.get(match[3] or "", "absent" if match[1] else "exists")
        terms.append((match[2], operator, match[4] or ""))
    return tuple(terms)
