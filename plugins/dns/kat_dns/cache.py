"""Forwarded answers kept for as long as they may be, the least recently used dropped first."""

from __future__ import annotations

from collections import OrderedDict

from kat_dns import wire
from kat_dns.reply import Reply

Key = tuple[bytes, int, int, bool, bool]


def key_of(query: wire.Query) -> Key:
    """Give what two questions have in common that may share an answer."""
    return query.lower, query.qtype, query.qclass, query.do, bool(query.flags & wire.CD)


class ReplyCache:
    """At most ``entries`` answers of at most 4 KiB each; times in seconds on a monotonic clock."""

    MAX_BODY = 4096

    def __init__(self, entries: int, max_ttl: int, negative_ttl: int) -> None:
        self._entries = entries
        self._max_ttl = max_ttl
        self._negative_ttl = negative_ttl
        self._kept: OrderedDict[Key, tuple[float, float, Reply]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, now: float) -> tuple[Reply, int] | None:
        """Give a kept answer and its age in whole seconds, if it is still good."""
        found = self._kept.get(key)
        if found is None:
            return None
        since, until, reply = found
        if now >= until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return reply, int(now - since)

    def put(self, key: Key, reply: Reply, now: float) -> None:
        """Keep an answer if it may be kept at all."""
        lifetime = min(reply.lifetime, self._negative_ttl if reply.negative else self._max_ttl)
        if lifetime <= 0 or self._entries == 0 or len(reply.body) > self.MAX_BODY:
            return
        self._kept[key] = (now, now + lifetime, reply)
        self._kept.move_to_end(key)
        if len(self._kept) > self._entries:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
