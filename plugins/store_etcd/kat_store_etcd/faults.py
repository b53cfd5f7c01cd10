"""From etcd's and gRPC's errors to KAT's, and what they say of whether the request was carried out.

etcd's texts are those of ``api/v3rpc/rpctypes/error.go``, the same in 3.4, 3.5 and 3.6.
"""

from __future__ import annotations

from grpc import StatusCode
from grpc.aio import AioRpcError

from kat_platform.errors import (
    Compacted,
    Conflict,
    Denied,
    InternalError,
    InvalidInput,
    KatError,
    NotFound,
    StoreError,
    StoreFull,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

_BY_TEXT: tuple[tuple[str, type[KatError], str | None], ...] = (
    ("revision has been compacted", Compacted, "list again and watch from there"),
    ("future revision", InvalidInput, None),
    ("database space exceeded", StoreFull, "remove what is not needed; the space is then reclaimed by itself"),
    ("request is too large", TooLarge, "split it into several transactions"),
    ("too many operations", TooLarge, "split it into several transactions"),
    ("message larger than max", TooLarge, "split it into several transactions"),
    ("duplicate key given", InvalidInput, "write each key once only in a branch"),
    ("requested lease not found", NotFound, None),
    ("member not found", NotFound, None),
    ("can only promote a learner member which is in sync", Unavailable, "try again when it has caught up"),
    ("can only promote a learner", Conflict, None),
    ("too many learner members", Conflict, "promote or remove the other learner first"),
    ("not enough started members", Conflict, "the cluster would lose its quorum"),
    ("unhealthy cluster", Unavailable, "a member does not answer: mend or remove it first"),
    ("member ID already exist", Conflict, None),
    ("Peer URLs already exists", Conflict, None),
)
_BY_CODE: dict[StatusCode, type[KatError]] = {
    StatusCode.DEADLINE_EXCEEDED: TimedOut,
    StatusCode.UNAUTHENTICATED: Unauthenticated,
    StatusCode.PERMISSION_DENIED: Denied,
    StatusCode.INVALID_ARGUMENT: InvalidInput,
    StatusCode.UNIMPLEMENTED: InternalError,
}
_MAJORITY = "etcd needs a majority of its members: are most control-plane nodes on, and connected with each other?"
_WITHOUT_MAJORITY = ("request timed out", "no leader")
_NOT_SENT = ("failed to connect to all addresses", "connections to all backends failing", "Channel is closed")
_REFUSED = ("too many requests", "rpc not supported for learner", "etcdserver: no leader")
_PASSING = (
    *(StatusCode.UNAVAILABLE, StatusCode.CANCELLED, StatusCode.UNKNOWN, StatusCode.ABORTED),
    StatusCode.INTERNAL,  # gRPC's own ("Internal error from Core", "Received RST_STREAM"): the connection broke
)


def translate(error: AioRpcError, what: str) -> KatError:
    """Make KAT's error of a failed request; ``what`` says which ("put /kat/v1/x")."""
    text = error.details() or str(error.code().name)
    for part, kind, hint in _BY_TEXT:
        if part in text:
            return kind(f"{what}: {_plain(text)}", hint=hint)
    kind = _BY_CODE.get(error.code(), StoreError)
    if kind is TimedOut:
        return TimedOut(f"{what}: etcd did not answer in time", hint=f"a change may have happened or not; {_MAJORITY}")
    alone = any(part in text for part in _WITHOUT_MAJORITY)
    return kind(f"{what}: {_plain(text)}", hint=_MAJORITY if alone else None)


def certainly_not_done(error: AioRpcError) -> bool:
    """Tell whether the request cannot have been carried out: it was never sent, or refused before its time."""
    text = error.details() or ""
    return any(part in text for part in _NOT_SENT + _REFUSED)


def passing(error: AioRpcError) -> bool:
    """Tell whether the fault is of the kind that goes away, as while etcd restarts."""
    if error.code() is StatusCode.RESOURCE_EXHAUSTED:
        return "too many requests" in (error.details() or "")
    return error.code() in _PASSING and not any(part in (error.details() or "") for part, _, _ in _BY_TEXT)


def _plain(text: str) -> str:
    return text.removeprefix("etcdserver: ").removeprefix("mvcc: ").strip()
