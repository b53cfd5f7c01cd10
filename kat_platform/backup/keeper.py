"""Keeper: makes, lists and tries the backups of one control-plane node."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

import kat_platform
from kat_platform.backup import folder as folders
from kat_platform.backup.archive import Checked, Header, Manifest, Reader, Writer, check, new_salt
from kat_platform.backup.folder import Backup
from kat_platform.backup.frames import FRAME_BYTES
from kat_platform.backup.inventory import Inventory, take_inventory
from kat_platform.backup.key import RecoveryKey
from kat_platform.errors import BackupUnusable, NotSupportedYet
from kat_platform.interfaces.store import Restores, Store
from kat_platform.model.base import Model

log = structlog.get_logger(__name__)


class Verified(Model):
    """What came of restoring an archive for a trial."""

    name: str
    node: str
    keys: int
    revision: int
    exact: bool
    """Whether every key and revision was compared; else the state changed while the archive was made."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the keeper is given of its node."""

    node: str
    cluster_id: str
    store: Store
    key: RecoveryKey
    folder: Callable[[], Path]
    """Where archives go at present."""
    retention: Callable[[], int]
    manifest: Callable[[], Awaitable[Manifest]]
    scratch: Callable[[Path], Store]
    """Makes a store of the same kind in an empty folder, which nobody but this process can reach once it runs."""
    now: Callable[[], float] = time.time


class BackupKeeper:
    """The backups of one node. One is made or tried at a time."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._one = asyncio.Lock()

    @property
    def key(self) -> RecoveryKey:
        """What this node seals its archives with."""
        return self._around.key

    async def list(self) -> list[Backup]:
        """List the archives that lie on this node, oldest first."""
        around = self._around
        return await asyncio.to_thread(folders.backups_in, around.folder(), around.node, around.cluster_id)

    def path(self, name: str) -> Path:
        """Give where an archive lies; raises ``NotFound``."""
        return folders.path_of(self._around.folder(), name)

    async def take(self) -> Backup:
        """Make an archive, read all of it back, and remove those that are too many.

        Raises ``HostNotReady`` when the disk does not take it, and what the store raises; then nothing is left of it.
        """
        async with self._one:
            return await self._take(await take_inventory(self._around.store))

    async def take_if_changed(self) -> Backup | None:
        """Make an archive, unless this node's newest one holds the present state: then ``None``."""
        async with self._one:
            before = await take_inventory(self._around.store)
            newest = (await self.list())[-1:]
            if newest and (newest[0].header.state, newest[0].header.key_id) == (before.state, self.key.id):
                return None
            return await self._take(before)

    async def _take(self, before: Inventory) -> Backup:
        around, created = self._around, self._around.now()
        folder, name = around.folder(), folders.name_of(around.cluster_id, around.node, created)
        header = Header(
            cluster_id=around.cluster_id,
            node=around.node,
            created_at=created,
            version=kat_platform.__version__,
            key_id=around.key.id,
            salt=new_salt(),
            revision=before.revision,
            state=before.state,
        )
        await asyncio.to_thread(folders.prepare, folder, around.node)
        await asyncio.to_thread(folders.refuse_full, folder, (await around.store.store_status()).size_bytes)
        path = folder / f"{name}{folders.SUFFIX}"
        # Not within this task's own thread: the disk may be slow, and the leader's loop must not wait for it.
        with ExitStack() as stack:
            file = await asyncio.to_thread(stack.enter_context, folders.written_whole(path))
            writer = Writer(file, header, around.key)
            await asyncio.to_thread(writer.manifest, await around.manifest())
            async with aclosing(_pieces(around.store.snapshot())) as parts:
                async for part in parts:
                    await asyncio.to_thread(writer.snapshot, part)
            after = await take_inventory(around.store)
            same = after.digest == before.digest
            await asyncio.to_thread(writer.end, before.keys if same else None, before.digest if same else "")
            await asyncio.to_thread(_read_back, file, name, around.key)
            await asyncio.to_thread(stack.pop_all().close)
        kept = await self.list()
        await asyncio.to_thread(folders.remove, folder, folders.surplus(kept, around.retention()))
        log.info("backup taken", name=name, revision=before.revision)
        return next(backup for backup in kept if backup.name == name)

    async def verify(self, name: str) -> Verified:
        """Restore an archive into a store of its own, which is started, looked at, and removed again.

        Raises ``BackupUnusable`` when it is not what it says; ``NotSupportedYet`` for a store that cannot be restored.
        """
        path, began = self.path(name), time.monotonic()
        async with self._one:
            checked = await asyncio.to_thread(check, path, self._around.key)
            prefix = folders.trial_prefix(self._around.node)
            scratch = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=prefix, dir=path.parent))
            try:
                found = await self._restored(path, scratch)
            finally:
                await asyncio.to_thread(shutil.rmtree, scratch, True)
        compare(checked, found)
        return Verified(
            name=name,
            node=self._around.node,
            keys=found.keys,
            revision=found.revision,
            exact=checked.end.keys is not None,
            seconds=round(time.monotonic() - began, 3),
        )

    async def _restored(self, path: Path, scratch: Path) -> Inventory:
        store = self._around.scratch(scratch)
        if not isinstance(store, Restores):
            raise NotSupportedYet(f"the store '{store.info.name}' cannot be made anew from a snapshot")
        await store.restore(snapshot_of(path, self._around.key), "verify", "https://127.0.0.1:1")
        await store.start()
        try:
            return await take_inventory(store)
        finally:
            await store.stop()


def compare(checked: Checked, found: Inventory) -> None:
    """Raise ``BackupUnusable`` when a restored store is not what its archive says. Pure."""
    end = checked.end
    if end.keys is not None and (end.keys, end.inventory) != (found.keys, found.digest):
        raise BackupUnusable(f"the archive says {end.keys} keys, and its restored store has {found.keys}, or others")
    if found.keys == 0 or found.revision < checked.header.revision:
        raise BackupUnusable(
            f"the restored store is at revision {found.revision} with {found.keys} keys: the archive says"
            f" revision {checked.header.revision}"
        )


async def snapshot_of(path: Path, key: RecoveryKey) -> AsyncIterator[bytes]:
    """Give the snapshot of an archive, in constant memory, each part checked before it is given."""
    file = await asyncio.to_thread(path.open, "rb")
    with file:
        parts = (await asyncio.to_thread(Reader, file, path.name, key)).snapshot()
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            yield part


async def _pieces(source: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Put small parts together, so that each is worth a frame and a turn of a thread."""
    held = bytearray()
    async for part in source:
        held += part
        if len(held) >= FRAME_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _read_back(file: Any, name: str, key: RecoveryKey) -> None:
    """Read what was written, through a handle of its own beginning at the first byte; raises ``BackupUnusable``."""
    file.flush()
    file.seek(0)
    for _ in Reader(file, name, key).snapshot():
        pass
