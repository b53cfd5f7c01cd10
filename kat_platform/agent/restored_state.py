"""Restored state: what has to be said in a state that came back from a backup, before anybody acts on it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from kat_platform.backup.archive import Header
from kat_platform.errors import BackupUnusable
from kat_platform.interfaces.store import Delete, Entry, Operation, Put, Store
from kat_platform.model.event import Event, EventType
from kat_platform.model.node import NodeRecord, NodeRole
from kat_platform.server.joining import Claim, note_certificate
from kat_platform.state import keys


@dataclass(frozen=True, slots=True)
class Survivor:
    """The node that goes on with the state."""

    name: str
    public_key: str
    certificate: x509.Certificate
    took_place: bool
    """Whether it is another machine than the one whose name it has: whatever that one may still have is revoked."""


@dataclass(frozen=True, slots=True)
class Settled:
    """How the state is: its revision, and the control-plane nodes that are not there any more."""

    revision: int
    lost: tuple[str, ...]


def settling(
    header: Header, survivor: Survivor, before: Iterable[Entry], *, restore: str, at: float
) -> list[Operation]:
    """Give the writes that make a restored state good to go on with. Pure.

    The id ``restore`` sets instances that are made from now on apart from those that were made after the backup, of
    which the state knows nothing. Join tokens are withdrawn: one that was used up since would work again.
    """
    entries = {entry.key: entry for entry in before}
    record = NodeRecord.from_json(entries[keys.node(survivor.name)].value)
    when = datetime.fromtimestamp(header.created_at, UTC)
    text = f"from a backup of {when:%Y-%m-%d %H:%M:%S} UTC ({header.node}): what was changed since is gone"
    event = Event(
        type=EventType.WARNING,
        reason="Restored",
        object_kind="Cluster",
        object_name="cluster",
        message=text,
        source=f"agent/{survivor.name}",
        first_at=at,
        last_at=at,
    )
    note = {"id": restore, "at": at, "node": survivor.name, "backupOf": header.created_at, "revision": header.revision}
    operations: list[Operation] = [
        Put(keys.RESTORED, json.dumps(note).encode()),
        Put(keys.event("", event.identity), event.to_json()),
        Delete(keys.JOIN_TOKENS, prefix=True),
        note_certificate(survivor.name, survivor.certificate),
    ]
    if record.public_key != survivor.public_key:
        renewed = record.model_copy(update={"public_key": survivor.public_key})
        operations += [
            Put(keys.node(record.name), renewed.to_json()),
            Delete(keys.public_key_claim(record.public_key)),
            Claim(node=record.name).put(keys.public_key_claim(survivor.public_key)),
        ]
    if survivor.took_place:
        operations += _revocations(entries.values(), survivor, at)
    return operations


def _revocations(entries: Iterable[Entry], survivor: Survivor, at: float) -> Iterable[Operation]:
    prefix = f"{keys.CERTIFICATES}{survivor.name}/"
    for entry in entries:
        serial = int(entry.key.removeprefix(prefix), 16) if entry.key.startswith(prefix) else None
        if serial is not None and serial != survivor.certificate.serial_number:
            note = {"node": survivor.name, "at": at, "by": "kat-agent recover", **json.loads(entry.value)}
            yield Put(keys.revoked(serial), json.dumps(note).encode())
            yield Delete(entry.key)


async def settle(store: Store, header: Header, survivor: Survivor) -> Settled:
    """Make a restored, started store good to go on with; raises ``BackupUnusable`` when it is not what was said."""
    page = await store.list(keys.ROOT)
    entries = {entry.key: entry for entry in page.entries}
    identity = entries.get(keys.IDENTITY)
    if identity is None or json.loads(identity.value).get("clusterId") != header.cluster_id:
        raise BackupUnusable("the state in the archive is not that of the cluster it says")
    if keys.node(survivor.name) not in entries:
        raise BackupUnusable(f"the state in the archive knows no node '{survivor.name}'")
    writes = settling(header, survivor, page.entries, restore=secrets.token_hex(6), at=time.time())
    size = store.max_operations
    revision = page.revision
    for start in range(0, len(writes), size):
        revision = (await store.transaction((), tuple(writes[start : start + size]))).revision
    records = [NodeRecord.from_json(e.value) for key, e in entries.items() if key.startswith(keys.NODES)]
    lost = [r.name for r in records if r.role is NodeRole.CONTROL_PLANE and r.name != survivor.name]
    return Settled(revision, tuple(sorted(lost)))
