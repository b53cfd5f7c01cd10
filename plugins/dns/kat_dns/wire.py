"""Queries read and answers written as bytes (RFC 1035 section 4, EDNS of RFC 6891); pure, and the hot path.

Nothing here raises on hostile input: a packet is a :class:`Query`, an error to answer with a bare header (never
larger than what was sent), or nothing to answer at all.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kat_dns.names import MAX_NAME

A, NS, SOA, PTR, HINFO, AAAA, SRV, OPT, IXFR, AXFR, ANY = 1, 2, 6, 12, 13, 28, 33, 41, 251, 252, 255
IN: Final = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16

QR, AA, TC, RD, RA, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
OPCODE: Final = 0x7800
DO: Final = 0x8000

PLAIN_SIZE: Final = 512
"""What a client without EDNS takes by UDP."""
OWN_SIZE: Final = 1232
"""The largest UDP answer given or asked for: it fits any path unfragmented (DNS flag day 2020)."""
STREAM_SIZE: Final = 65535

HEADER: Final = struct.Struct(">HHHHHH")
RECORD: Final = struct.Struct(">HHIH")
"""Type, class, TTL and length of the data: what follows a record's owner."""
_PAIR: Final = struct.Struct(">HH")
_QUESTION_OWNER: Final = b"\xc0\x0c"


@dataclass(frozen=True, slots=True)
class Query:
    """One question as it was sent. ``name`` keeps the client's case, ``lower`` is what is looked up."""

    id: int
    flags: int
    name: bytes
    lower: bytes
    qtype: int
    qclass: int
    edns: bool = False
    payload: int = PLAIN_SIZE
    do: bool = False
    version: int = 0
    plain: bool = True
    """Whether the packet has nothing that differs between equal questions: no options, no upper case."""

    @property
    def question(self) -> bytes:
        """The question section, byte for byte as it was sent."""
        return self.name + _PAIR.pack(self.qtype, self.qclass)

    @property
    def limit(self) -> int:
        """The largest answer the client takes by UDP."""
        return min(max(self.payload, PLAIN_SIZE), OWN_SIZE) if self.edns else PLAIN_SIZE


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say: sections of complete records. ``aa`` when it comes from our own zones."""

    rcode: int = NOERROR
    records: Sequence[bytes] = ()
    authority: Sequence[bytes] = ()
    additional: Sequence[bytes] = ()
    aa: bool = False


class Malformed(ValueError):
    """The packet is no DNS message."""


def record(rtype: int, ttl: int, data: bytes, owner: bytes = _QUESTION_OWNER) -> bytes:
    """Write a record; the owner is a pointer to the question's name unless given."""
    return owner + RECORD.pack(rtype, IN, ttl, len(data)) + data


def parse_query(packet: bytes) -> Query | bytes | None:
    """Read a query. Gives bytes to send back when it is wrong, ``None`` when it deserves no answer."""
    if len(packet) < HEADER.size:
        return None
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(packet)
    if flags & QR:
        return None  # an answer to nothing we asked: answering it could start a loop between servers
    if flags & OPCODE:
        return bare(ident, flags, NOTIMP)
    if questions != 1 or answers or authorities:
        return bare(ident, flags, FORMERR)
    try:
        end = _name_end(packet, HEADER.size)
        qtype, qclass = _PAIR.unpack_from(packet, end)
        name = packet[HEADER.size : end]
        lower = name.lower()  # lengths are at most 63, below the first letter: only letters change
        query = Query(ident, flags, name, lower, qtype, qclass, plain=not additionals and lower == name)
        if additionals:
            return _with_edns(packet, end + 4, additionals, query)
        return query if end + 4 == len(packet) else bare(ident, flags, FORMERR)
    except (Malformed, IndexError, struct.error):
        return bare(ident, flags, FORMERR)


def _name_end(packet: bytes, at: int) -> int:
    """Find the end of an uncompressed name; a question has nothing to point back to."""
    start = at
    while size := packet[at]:
        if size > 63:
            raise Malformed("label")
        at += size + 1
    if at + 1 - start > MAX_NAME:
        raise Malformed("name")
    return at + 1


def skip_name(packet: bytes, at: int) -> int:
    """Find the end of a name that may end in a pointer; where it points is the reader's business."""
    while size := packet[at]:
        if size >= 0xC0:
            return at + 2
        if size > 63:
            raise Malformed("label")
        at += size + 1
    return at + 1


def _with_edns(packet: bytes, at: int, count: int, query: Query) -> Query | bytes:
    edns: Query | None = None
    for _ in range(count):
        owner_end = skip_name(packet, at)
        rtype, payload, extended, length = RECORD.unpack_from(packet, owner_end)
        end = owner_end + RECORD.size + length
        if end > len(packet):
            raise Malformed("record")
        if rtype == OPT:
            if edns is not None or packet[at]:
                raise Malformed("OPT")
            plain = count == 1 and not length and query.lower == query.name
            edns = Query(
                query.id, query.flags, query.name, query.lower, query.qtype, query.qclass, edns=True, payload=payload,
                do=bool(extended & DO), version=extended >> 16 & 0xFF, plain=plain,
            )  # fmt: skip
        at = end
    if at != len(packet):
        raise Malformed("trailing bytes")
    return edns or query


def bare(ident: int, flags: int, rcode: int) -> bytes:
    """Write an answer of nothing but a header."""
    return HEADER.pack(ident, QR | (flags & (OPCODE | RD)) | rcode, 0, 0, 0, 0)


def opt(query: Query, rcode: int) -> bytes:
    """Write our own OPT record, for a client that sent one; empty otherwise."""
    if not query.edns:
        return b""
    return b"\x00" + _PAIR.pack(OPT, OWN_SIZE) + bytes([rcode >> 4, 0]) + _PAIR.pack(DO if query.do else 0, 0)


def write(query: Query, answer: Answer, *, limit: int, recursion: bool) -> bytes:
    """Write an answer of at most ``limit`` bytes.

    Additional records are left out silently when there is no room (RFC 2181 section 9); if answers are, the TC bit is
    set and as many as fit are sent, for resolvers that never ask again by TCP.
    """
    tail = opt(query, answer.rcode)
    room = limit - HEADER.size - len(query.name) - 4 - len(tail)
    records, left = _fit(answer.records, room)
    truncated = len(records) < len(answer.records)
    authority, left = _fit(answer.authority, 0 if truncated else left)
    truncated |= len(authority) < len(answer.authority)
    additional, _ = _fit(answer.additional, 0 if truncated else left)
    flags = QR | (query.flags & (RD | CD)) | (answer.rcode & 0xF)
    flags |= (AA if answer.aa else 0) | (TC if truncated else 0) | (RA if recursion else 0)
    head = HEADER.pack(
        query.id, flags, 1, len(records), len(authority), len(additional) + (1 if tail else 0)
    )  # fmt: skip
    return b"".join((head, query.question, *records, *authority, *additional, tail))


def _fit(records: Sequence[bytes], room: int) -> tuple[Sequence[bytes], int]:
    for index, one in enumerate(records):
        room -= len(one)
        if room < 0:
            return records[:index], room + len(one)
    return records, room
