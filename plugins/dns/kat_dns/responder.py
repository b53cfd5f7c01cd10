"""What to say to a packet: from memory, from the zone, or "ask upstream". No I/O.

The hot path is one dictionary: everything of a packet behind its id, exactly as received, leads to everything of the
answer behind its id. Only questions that many will send in the very same bytes are kept there (lower case, no EDNS
options), and only for names that exist, so that nobody can fill it with nonsense.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from kat_dns import wire
from kat_dns.zone import Zone, empty_zone

MAX_READY: Final = 8192
"""Prepared answers kept; all are dropped when there are more, and those in use come back at once."""

_REFUSED: Final = wire.Answer(wire.REFUSED)
_NOTIMP: Final = wire.Answer(wire.NOTIMP)
_META: Final = range(128, 255)
"""Types that are questions to a server rather than data (RFC 6895 section 3.1), without ANY."""


@dataclass(frozen=True, slots=True)
class Shuffled:
    """A prepared answer with more records than have all their orders prepared."""

    head: bytes
    records: tuple[bytes, ...]
    tail: bytes

    def pick(self) -> bytes:
        """Give the answer in a random order, every order being equally likely."""
        return b"".join((self.head, *random.sample(self.records, len(self.records)), self.tail))


@dataclass(frozen=True, slots=True)
class Variants:
    """A prepared answer in every order of its records."""

    orders: tuple[bytes, ...]

    def pick(self) -> bytes:
        """Give one of the orders, every one being equally likely."""
        return random.choice(self.orders)


Ready = bytes | Variants | Shuffled


class Responder:
    """Answers from the current zone; :meth:`swap` takes another one, whole."""

    def __init__(self) -> None:
        self.zone: Zone = empty_zone()
        self.ready: dict[bytes, Ready] = {}
        """Packets behind their id, and the answers; servers may look in it before they ask."""
        self.recursion = False
        """Whether other names are forwarded."""

    def swap(self, zone: Zone) -> None:
        """Answer from another zone from the next packet on."""
        self.zone = zone
        self.ready.clear()

    def set_recursion(self, available: bool) -> None:
        """Say whether other names are forwarded, from the next packet on."""
        self.recursion = available
        self.ready.clear()

    def respond(self, packet: bytes, *, stream: bool = False) -> bytes | wire.Query | None:
        """Give the answer; the query itself when it is to be forwarded; ``None`` when it deserves no answer."""
        if not stream:
            found = self.ready.get(packet[2:])
            if found is not None:
                return packet[:2] + (found if isinstance(found, bytes) else found.pick())
        query = wire.parse_query(packet)
        if not isinstance(query, wire.Query):
            return query
        limit = wire.STREAM_SIZE if stream else query.limit
        answer = self._policy(query) or self.zone.find(query)
        if answer is None:
            if self.recursion:
                return query
            answer = _REFUSED
        if not stream and query.plain and _is_usual(query, answer):
            return self._prepare(packet, query, answer, limit)
        if len(answer.records) > 1:
            answer = replace(answer, records=random.sample(answer.records, len(answer.records)))
        return wire.write(query, answer, limit=limit, recursion=self.recursion)

    def _policy(self, query: wire.Query) -> wire.Answer | None:
        """Refuse what is nobody's to ask here, before any name is looked up."""
        if query.version:
            return wire.Answer(wire.BADVERS)
        if query.qclass != wire.IN or query.qtype in (wire.AXFR, wire.IXFR):
            return _REFUSED
        if query.qtype in _META or query.qtype in (0, wire.OPT):
            return _NOTIMP
        return None

    def _prepare(self, packet: bytes, query: wire.Query, answer: wire.Answer, limit: int) -> bytes:
        """Write the answer and keep it in all its orders for the next who asks in the same bytes."""
        records = answer.records
        whole = wire.write(query, answer, limit=limit, recursion=self.recursion)
        ready: Ready
        if len(records) <= 1:
            ready = whole[2:]
        elif whole[2] & wire.TC >> 8:
            answer = replace(answer, records=random.sample(records, len(records)))
            return wire.write(query, answer, limit=limit, recursion=self.recursion)
        else:
            start = wire.HEADER.size + len(query.question)
            stop = start + sum(map(len, records))
            ready = _orders(whole[2:start], tuple(records), whole[stop:])
        if len(self.ready) >= MAX_READY:
            self.ready.clear()
        self.ready[packet[2:]] = ready
        return packet[:2] + (ready if isinstance(ready, bytes) else ready.pick())


def _is_usual(query: wire.Query, answer: wire.Answer) -> bool:
    """Tell whether many will ask this: for what exists, and for the AAAA that every resolver asks beside the A."""
    return answer.aa and bool(answer.records or (query.qtype == wire.AAAA and answer.rcode == wire.NOERROR))


def _orders(head: bytes, records: Sequence[bytes], tail: bytes) -> Variants | Shuffled:
    if len(records) > 4:
        return Shuffled(head, tuple(records), tail)
    return Variants(tuple(b"".join((head, *order, tail)) for order in itertools.permutations(records)))
