"""Forgetting history."""

from __future__ import annotations

from aetcd import rpc

from kat_platform.errors import Compacted
from kat_store_etcd.client import EtcdClient


async def compact(client: EtcdClient, revision: int) -> None:
    """Forget history before ``revision``; what is forgotten already is no error.

    etcd compacts *at* a revision and then may miss removals made just there (see ``watch.py``), so the one before
    is named: everything from ``revision`` on stays whole.
    """
    if revision <= 2:
        return
    try:
        await client.read("compact", "kvstub", "Compact", rpc.CompactionRequest(revision=revision - 1))
    except Compacted:
        return
