"""Between the contract's words and etcd's messages: pure functions, on the hot path of every write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aetcd import rpc

from kat_platform.errors import InvalidInput, TooLarge
from kat_platform.interfaces.store import (
    Change,
    ChangeType,
    Compare,
    Delete,
    Entry,
    Field,
    Get,
    Op,
    Operation,
    Put,
    TransactionResult,
)
from kat_store_etcd.flags import MAX_OPERATIONS

MAX_VALUE_BYTES = 1024 * 1024
WHOLE = b"\0"
"""As key and range end: every key there is."""

_RESULTS = {
    Op.EQUAL: rpc.Compare.EQUAL,
    Op.NOT_EQUAL: rpc.Compare.NOT_EQUAL,
    Op.GREATER: rpc.Compare.GREATER,
    Op.LESS: rpc.Compare.LESS,
}
_TARGETS = {
    Field.REVISION: (rpc.Compare.MOD, "mod_revision"),
    Field.CREATED: (rpc.Compare.CREATE, "create_revision"),
    Field.VERSION: (rpc.Compare.VERSION, "version"),
    Field.VALUE: (rpc.Compare.VALUE, "value"),
    Field.LEASE: (rpc.Compare.LEASE, "lease"),
}


def encode_key(key: str) -> bytes:
    """Turn a key into bytes; raises ``InvalidInput`` for the empty one, which etcd has no place for."""
    if not key:
        raise InvalidInput("a key must not be empty")
    return key.encode()


def span(prefix: str) -> tuple[bytes, bytes]:
    """Give first key and end of the range of all keys with a prefix."""
    if not prefix:
        return WHOLE, WHOLE
    start = prefix.encode()
    trimmed = start.rstrip(b"\xff")  # cannot end so in UTF-8; kept right for any bytes
    return start, trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else WHOLE


def entry(kv: Any) -> Entry:
    """Turn etcd's KeyValue into an entry."""
    return Entry(kv.key.decode(), kv.value, kv.mod_revision, kv.create_revision, kv.version, kv.lease)


def change(event: Any) -> Change:
    """Turn etcd's Event into a change."""
    return Change(ChangeType.DELETE if event.type else ChangeType.PUT, entry(event.kv))


def put_request(key: str, value: bytes, lease: int) -> Any:
    """Make a PutRequest; raises ``TooLarge`` for values etcd would carry but the contract does not."""
    if len(value) > MAX_VALUE_BYTES:
        raise TooLarge(
            f"the value of {key} has {len(value)} bytes; a value has at most 1 MiB", limit=MAX_VALUE_BYTES, key=key
        )
    return rpc.PutRequest(key=encode_key(key), value=value, lease=lease)


def range_request(key: str, prefix: bool, **more: Any) -> Any:
    """Make a RangeRequest for a key or a prefix."""
    if not prefix:
        return rpc.RangeRequest(key=encode_key(key), **more)
    start, end = span(key)
    return rpc.RangeRequest(key=start, range_end=end, **more)


def delete_request(key: str, prefix: bool) -> Any:
    """Make a DeleteRangeRequest for a key or a prefix."""
    if not prefix:
        return rpc.DeleteRangeRequest(key=encode_key(key))
    start, end = span(key)
    return rpc.DeleteRangeRequest(key=start, range_end=end)


def txn_request(compares: tuple[Compare, ...], then: tuple[Operation, ...], otherwise: tuple[Operation, ...]) -> Any:
    """Make a TxnRequest; raises ``TooLarge`` when a part has more than ``MAX_OPERATIONS``."""
    for part in (compares, then, otherwise):
        if len(part) > MAX_OPERATIONS:
            raise TooLarge(
                f"{len(part)} operations or comparisons in one transaction; at most {MAX_OPERATIONS}: split it",
                limit=MAX_OPERATIONS,
            )
    return rpc.TxnRequest(compare=_compares(compares), success=_operations(then), failure=_operations(otherwise))


def txn_result(response: Any, ran: tuple[Operation, ...]) -> TransactionResult:
    """Turn a TxnResponse into the result, given the branch that ran."""
    reads: tuple[tuple[Entry, ...], ...] = ()
    if any(type(operation) is Get for operation in ran):
        reads = tuple(
            tuple(map(entry, answer.response_range.kvs))
            for operation, answer in zip(ran, response.responses, strict=True)
            if type(operation) is Get
        )
    return TransactionResult(response.succeeded, response.header.revision, reads)


def _compares(compares: Iterable[Compare]) -> list[Any]:
    made = []
    for compare in compares:
        target, name = _TARGETS[compare.field]
        if isinstance(compare.operand, bytes) is not (compare.field is Field.VALUE):
            raise InvalidInput(f"{compare.field} of {compare.key} cannot be compared with {compare.operand!r}")
        made.append(
            rpc.Compare(
                result=_RESULTS[compare.op], target=target, key=encode_key(compare.key), **{name: compare.operand}
            )
        )
    return made


def _operations(operations: Iterable[Operation]) -> list[Any]:
    made = []
    for operation in operations:
        if type(operation) is Put:
            made.append(rpc.RequestOp(request_put=put_request(operation.key, operation.value, operation.lease)))
        elif type(operation) is Delete:
            made.append(rpc.RequestOp(request_delete_range=delete_request(operation.key, operation.prefix)))
        elif type(operation) is Get:
            made.append(rpc.RequestOp(request_range=range_request(operation.key, operation.prefix)))
    return made
