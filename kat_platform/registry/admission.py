"""Admission: plugins are asked in turn about a change, and nothing passes that one of them has not agreed to."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from kat_platform.errors import InvalidInput, Rejected
from kat_platform.hooks.types import AdmissionReply, AdmissionRequest, Document

ADMISSION_SECONDS = 5.0
"""Deadline of one admission hook; being late refuses the change."""

log = structlog.get_logger(__name__)

Validate = Callable[[tuple[Document, ...]], object]
"""Raises ``InvalidInput`` unless the documents are a valid Quadlet."""

Ask = Callable[[AdmissionRequest], Awaitable[object]]
"""Asks one plugin about a change."""


@dataclass(frozen=True, slots=True)
class Admission:
    """How a change came out of admission: the Quadlet to store, and what to tell the caller."""

    documents: tuple[Document, ...]
    changes: tuple[str, ...] = ()
    """``PLUGIN: REASON`` for each plugin that changed the Quadlet."""
    warnings: tuple[str, ...] = ()
    """``PLUGIN: WARNING``."""


async def ask_in_turn(plugins: Sequence[tuple[str, Ask]], change: AdmissionRequest, validate: Validate) -> Admission:
    """Ask each plugin, in order, about the change as those before it left it.

    Raises ``Rejected`` at the first that refuses, fails, is late or makes the Quadlet invalid; ``details`` names it.
    """
    changes: list[str] = []
    warnings: list[str] = []
    for plugin, ask in plugins:
        reply = await _reply(plugin, ask, change)
        warnings += [f"{plugin}: {text}" for text in reply.warnings]
        if not reply.allowed:
            raise _rejected(plugin, reply.reason or "refused, without a reason", warnings)
        if reply.documents is not None and reply.documents != change.documents:
            _check(plugin, change, reply.documents, validate)
            change = replace(change, documents=reply.documents)
            changes.append(f"{plugin}: {reply.reason or 'changed, without a reason'}")
    return Admission(change.documents, tuple(changes), tuple(warnings))


async def _reply(plugin: str, ask: Ask, change: AdmissionRequest) -> AdmissionReply:
    # A copy, so that a plugin that edits in place, or keeps what it got, changes nothing that is stored.
    own = replace(change, documents=copy.deepcopy(change.documents), previous=copy.deepcopy(change.previous))
    try:
        async with asyncio.timeout(ADMISSION_SECONDS) as deadline:
            reply = await ask(own)
    except Exception as error:  # fails closed: whatever went wrong, the plugin has not agreed
        late = isinstance(error, TimeoutError) and deadline.expired()
        problem = f"did not answer within {ADMISSION_SECONDS:g} s" if late else f"failed with {type(error).__name__}"
        log.error("admission failed", plugin=plugin, problem=problem, exc_info=not late)
        raise _rejected(plugin, f"it {problem}, and what it has not agreed to is refused", []) from error
    if reply is None:
        return AdmissionReply.allow()
    if not isinstance(reply, AdmissionReply):
        raise _rejected(plugin, f"it answered with a {type(reply).__name__}, not an AdmissionReply", [])
    return reply


def _check(plugin: str, change: AdmissionRequest, documents: tuple[Document, ...], validate: Validate) -> None:
    try:
        if _identities(documents) != _identities(change.documents):
            raise InvalidInput("it added, removed or renamed a document")
        validate(documents)
    except InvalidInput as error:
        raise _rejected(plugin, f"it made the Quadlet invalid: {error}", []) from error


def _identities(documents: tuple[Document, ...]) -> list[tuple[Any, Any, Any]]:
    try:
        return [(d["kind"], d["metadata"]["name"], d["metadata"].get("namespace")) for d in documents]
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInput("a document has no kind or no metadata.name") from error


def _rejected(plugin: str, reason: str, warnings: list[str]) -> Rejected:
    return Rejected(f"refused by plugin '{plugin}': {reason}", plugin=plugin, reason=reason, warnings=warnings)
