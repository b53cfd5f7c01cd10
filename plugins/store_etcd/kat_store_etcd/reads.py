"""Listing a prefix of any size, as of one revision."""

from __future__ import annotations

from kat_platform.errors import Compacted
from kat_platform.interfaces.store import Entry, Page
from kat_store_etcd.client import EtcdClient
from kat_store_etcd.translate import entry, range_request, span

FIRST_PAGE = 500
LARGEST_PAGE = 10_000
PAGE_BYTES = 2 * 1024 * 1024
"""What a page should weigh: one message of etcd's, held in memory there and here."""

ATTEMPTS = 5


async def list_prefix(client: EtcdClient, prefix: str, keys_only: bool) -> Page:
    """Read every key with the prefix, in pages, all as of the revision of the first page.

    When the history is compacted between two pages the reading begins anew.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return await _pages(client, prefix, keys_only)
        except Compacted:
            continue
    return await _pages(client, prefix, keys_only)


async def _pages(client: EtcdClient, prefix: str, keys_only: bool) -> Page:
    what = f"list {prefix}"
    start, end = span(prefix)
    entries: list[Entry] = []
    limit, revision = FIRST_PAGE, 0
    while True:
        request = range_request(prefix, True, limit=limit, revision=revision, keys_only=keys_only)
        request.key, request.range_end = start, end
        response = await client.read(what, "kvstub", "Range", request)
        revision = revision or response.header.revision
        entries += map(entry, response.kvs)
        if not response.more:
            return Page(tuple(entries), revision)
        start = response.kvs[-1].key + b"\0"
        limit = next_limit(limit, response.ByteSize())


def next_limit(limit: int, size: int) -> int:
    """Choose how many keys the next page asks for, given what the last one weighed in bytes."""
    return max(1, min(LARGEST_PAGE, limit * 4, limit * PAGE_BYTES // max(size, 1)))
