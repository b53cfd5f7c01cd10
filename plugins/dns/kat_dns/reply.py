"""Answers of upstream servers: checked, taken apart at record boundaries, and put together for a client; pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from kat_dns import wire

_TTL: Final = struct.Struct(">I")
_MAX_RECORDS: Final = 4096


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, without id and OPT: kept as it is and sent to many.

    ``ends`` gives the end of each record, counted from the start of the message, ``ttls`` where each TTL stands, and
    ``counts`` how many records each section has. ``lifetime`` in seconds: how long it may be kept.
    """

    body: bytes
    flags: int
    rcode: int
    counts: tuple[int, int, int]
    ends: tuple[int, ...]
    ttls: tuple[int, ...]
    lifetime: int
    negative: bool
    has_opt: bool

    @property
    def truncated(self) -> bool:
        """Whether the server had more to say than fits by UDP."""
        return bool(self.flags & wire.TC)


def ask(query: wire.Query, ident: int, *, edns: bool) -> bytes:
    """Write the question to an upstream. The letters' case is the client's own."""
    flags = wire.RD | (query.flags & wire.CD)
    head = wire.HEADER.pack(ident, flags, 1, 0, 0, 1 if edns else 0)
    extra = b"\x00" + wire.RECORD.pack(wire.OPT, wire.OWN_SIZE, wire.DO if query.do else 0, 0) if edns else b""
    return head + query.question + extra


def read(packet: bytes, query: wire.Query, ident: int) -> Reply:
    """Check that a packet answers this very question, and take it apart; raises ``wire.Malformed`` if not."""
    try:
        return _read(packet, query, ident)
    except (IndexError, struct.error) as error:
        raise wire.Malformed("cut short") from error


def _read(packet: bytes, query: wire.Query, ident: int) -> Reply:
    found, flags, questions, *counts = wire.HEADER.unpack_from(packet)
    if found != ident or not flags & wire.QR or flags & wire.OPCODE or sum(counts) > _MAX_RECORDS:
        raise wire.Malformed("not the answer")
    at = wire.HEADER.size
    question = query.question
    if questions == 0 and not any(counts) and flags & 0xF:
        return Reply(b"", flags, flags & 0xF, (0, 0, 0), (), (), 0, negative=True, has_opt=False)
    if questions != 1 or packet[at : at + len(question)].lower() != question.lower():
        raise wire.Malformed("another question")
    start = at = at + len(question)
    kept, ends, ttls, lifetimes = [0, 0, 0], [], [], []
    stop, extended, has_opt, soa_seen = None, 0, False, False
    for section, count in enumerate(counts):
        for _ in range(count):
            owner_end = wire.skip_name(packet, at)
            rtype, _, ttl, length = wire.RECORD.unpack_from(packet, owner_end)
            end = owner_end + wire.RECORD.size + length
            if end > len(packet):
                raise wire.Malformed("record")
            if rtype == wire.OPT:
                # Ours to say, not theirs. What follows could be pointed to and has moved, so it goes as well.
                stop, extended, has_opt = at if stop is None else stop, ttl >> 24, True
            elif stop is None:
                kept[section] += 1
                ends.append(end)
                ttls.append(owner_end + 4)
                lifetimes.append(min(ttl, _TTL.unpack_from(packet, end - 4)[0]) if rtype == wire.SOA else ttl)
                soa_seen |= section == 1 and rtype == wire.SOA
            at = end
    rcode = (flags & 0xF) | extended << 4
    negative = rcode != wire.NOERROR or not kept[0]
    cachable = rcode in (wire.NOERROR, wire.NXDOMAIN) and (soa_seen or not negative) and not flags & wire.TC
    body = packet[start : at if stop is None else stop]
    lifetime = min(lifetimes, default=0) if cachable and max(lifetimes, default=0) < 1 << 31 else 0
    return Reply(body, flags, rcode, (kept[0], kept[1], kept[2]), tuple(ends), tuple(ttls), lifetime, negative, has_opt)


def write(query: wire.Query, reply: Reply, *, age: int, limit: int) -> bytes:
    """Write the answer for a client, its TTLs lowered by ``age`` seconds, cut at a record's boundary to ``limit``."""
    tail = wire.opt(query, reply.rcode)
    start = wire.HEADER.size + len(query.question)
    body = bytearray(reply.body)
    if age:
        for at in reply.ttls:
            (ttl,) = _TTL.unpack_from(body, at - start)
            _TTL.pack_into(body, at - start, max(0, ttl - age))
    fitting = sum(1 for end in reply.ends if end + len(tail) <= limit)
    answers, authorities, _ = reply.counts
    kept = (
        min(answers, fitting),
        max(0, min(authorities, fitting - answers)),
        max(0, fitting - answers - authorities),
    )
    truncated = reply.truncated or kept[:2] != reply.counts[:2]
    if fitting < len(reply.ends):
        del body[(reply.ends[fitting - 1] if fitting else start) - start :]
    flags = wire.QR | wire.RA | (query.flags & (wire.RD | wire.CD)) | (reply.rcode & 0xF)
    flags |= wire.TC if truncated else 0
    head = wire.HEADER.pack(query.id, flags, 1, kept[0], kept[1], kept[2] + (1 if tail else 0))
    return b"".join((head, query.question, body, tail))
