"""Problem documents (RFC 9457): the one form in which the API says no, with a stable ``code`` and no stack trace."""

from __future__ import annotations

import json
from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from kat_platform.errors import InternalError, InvalidInput, KatError

MEDIA_TYPE: Final = "application/problem+json"
_TITLES: Final = {
    "invalid": "The input is invalid",
    "internal": "Something went wrong inside KAT",
}


def document(error: KatError, instance: str = "") -> dict[str, Any]:
    """Give an error as a problem document; ``instance`` is the id of the request, to be found in the log."""
    details = dict(error.details)
    problems = details.pop("problems", None)
    made: dict[str, Any] = {
        "type": f"urn:kat:problem:{error.code}",
        "title": _title(error),
        "status": error.http_status,
        "code": error.code,
        "detail": error.message,
        "retryable": error.retryable,
        "instance": instance,
    }
    if error.hint:
        made["hint"] = error.hint
    if problems is not None:
        made["errors"] = problems
    if details:
        made["details"] = details
    return made


def body(error: KatError, instance: str = "") -> bytes:
    """Give the problem document as JSON."""
    return json.dumps(document(error, instance), default=str).encode()


def response(error: KatError, instance: str = "") -> web.Response:
    """Give the problem as an answer."""
    answer = web.Response(status=error.http_status, body=body(error, instance), content_type=MEDIA_TYPE)
    if error.http_status == 401:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="kat"'
    if error.retryable:
        answer.headers["Retry-After"] = "1"
    return answer


def from_validation(error: ValidationError, what: str) -> InvalidInput:
    """Turn a model's complaints about a request's JSON into an error that names each field; never its value."""
    problems = [
        {
            "file": "",
            "line": 0,
            "column": 0,
            "path": ".".join(str(part) for part in found["loc"]),
            "message": found["msg"],
            "suggestion": None,
        }
        for found in error.errors(include_url=False, include_context=False, include_input=False)[:100]
    ]
    lines = "; ".join(f"{p['path'] or 'body'}: {p['message']}" for p in problems[:5])
    return InvalidInput(f"{what} is not valid: {lines}", problems=problems)


def unexpected(request_id: str) -> InternalError:
    """Give what a caller is told of a bug: where to look, and nothing of the inside."""
    return InternalError(
        "the server failed on this request; this is a bug in KAT", hint=f"its log has the reason, under {request_id}"
    )


def _title(error: KatError) -> str:
    return _TITLES.get(error.code) or (type(error).__doc__ or error.code).split(".")[0].split(";")[0].split(":")[0]
