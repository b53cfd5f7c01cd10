"""Snapshots: streamed out of a running etcd, and made into a new cluster of one by etcd's own tool."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator

from aetcd import rpc
from grpc.aio import AioRpcError

from kat_platform.errors import InvalidInput
from kat_store_etcd.client import EtcdClient
from kat_store_etcd.faults import translate
from kat_store_etcd.flags import Identity
from kat_store_etcd.folder import MemberFolder
from kat_store_etcd.host import restorer, run

SNAPSHOT_SECONDS = 600.0


async def snapshot(client: EtcdClient) -> AsyncGenerator[bytes, None]:
    """Stream a consistent copy, with etcd's checksum at its end. Not taken up again when it breaks: begin anew."""
    call = client.maintenancestub.Snapshot(rpc.SnapshotRequest(), timeout=SNAPSHOT_SECONDS)
    try:
        async for part in call:
            yield part.blob
    except AioRpcError as error:
        raise translate(error, "snapshot") from error
    finally:
        call.cancel()


def new_cluster(name: str, peer_url: str) -> Identity:
    """Describe the first member of a new cluster, with a token that no member of another one has."""
    return Identity(name, peer_url, f"{name}={peer_url}", "new", f"kat-{secrets.token_hex(8)}", alone=True)


async def restore(folder: MemberFolder, source: AsyncIterator[bytes], name: str, peer_url: str) -> None:
    """Make the folder the only member of a new cluster; on any failure the folder is as before."""
    folder.ensure_empty()
    folder.prepare()
    tool = restorer()
    identity = new_cluster(name, peer_url)
    draft, made = folder.root / "restore.snapshot", folder.root / "restore.data"
    shutil.rmtree(made, ignore_errors=True)
    try:
        with open(draft, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            async for part in source:
                file.write(part)
        if draft.stat().st_size == 0:
            raise InvalidInput("the snapshot is empty")
        await run(
            tool, "snapshot", "restore", str(draft), f"--data-dir={made}", f"--name={name}",
            f"--initial-cluster={identity.initial_cluster}", f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster-token={identity.token}", timeout=SNAPSHOT_SECONDS, check=True,
        )  # fmt: skip
        folder.data.rmdir()
        made.rename(folder.data)
        folder.adopt(identity)
    finally:
        draft.unlink(missing_ok=True)
        shutil.rmtree(made, ignore_errors=True)
