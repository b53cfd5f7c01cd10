"""The members of etcd's cluster: who there is, adding as a learner, promoting, removing."""

from __future__ import annotations

import asyncio
from typing import Any

from aetcd import rpc

from kat_platform.errors import Conflict, InvalidInput, KatError, NotFound, StoreError
from kat_platform.interfaces.store import Member, StoreStatus
from kat_store_etcd.client import EtcdClient

STATUS_SECONDS = 2.0
LEADER_SECONDS = 5.0
AVAILABLE_SECONDS = 30.0


def member(found: Any) -> Member:
    """Turn etcd's Member into the contract's. One that never started has no name yet, and counts as not healthy."""
    return Member(f"{found.ID:x}", found.name, tuple(found.peerURLs), found.isLearner, bool(found.name))


def member_id(text: str) -> int:
    """Read an id as :func:`member` writes it."""
    try:
        return int(text, 16)
    except ValueError:
        raise InvalidInput(f"{text!r} is no id of a store member; they are hexadecimal numbers") from None


async def members(client: EtcdClient, timeout: float | None = None) -> tuple[Member, ...]:
    """List the members, learners too."""
    response = await client.read(
        "list the members", "clusterstub", "MemberList", rpc.MemberListRequest(), timeout=timeout
    )
    return tuple(map(member, response.members))


async def add(client: EtcdClient, peer_url: str) -> Member:
    """Announce a learner, which has no vote and cannot cost a quorum. One announced already is given again."""
    for known in await members(client):
        if peer_url in known.peer_urls:
            if known.learner:
                return known
            raise Conflict(f"{peer_url} is a member already, as {known.name or known.id}")
    request = rpc.MemberAddRequest(peerURLs=[peer_url], isLearner=True)
    response = await client.write(f"add member {peer_url}", "clusterstub", "MemberAdd", request)
    return member(response.member)


async def promote(client: EtcdClient, text: str) -> None:
    """Give a learner a vote; ``Unavailable`` while it is behind. One that has a vote is left alone."""
    for known in await members(client):
        if known.id == text and not known.learner:
            return
    request = rpc.MemberPromoteRequest(ID=member_id(text))
    await client.write(f"promote member {text}", "clusterstub", "MemberPromote", request)


async def remove(client: EtcdClient, text: str) -> None:
    """Take a member out; etcd refuses when the rest would have no quorum, and so does this for the last voter.

    When the one removed was etcd's leader this waits until the others have elected another; what somebody else asks
    for meanwhile may time out.
    """
    known = await members(client)
    if not any(one.id == text for one in known):
        return
    voters = [one for one in known if not one.learner]
    if len(voters) == 1 and voters[0].id == text:
        raise Conflict("the last member with a vote cannot be removed", hint="`kat-agent reset` ends the cluster")
    try:
        request = rpc.MemberRemoveRequest(ID=member_id(text))
        await client.write(f"remove member {text}", "clusterstub", "MemberRemove", request)
    except NotFound:
        return
    await _led_by_another(client, member_id(text))


async def _led_by_another(client: EtcdClient, removed: int) -> None:
    """Wait until the members have a leader that is not the one removed: what they are asked before may be lost."""
    for _ in range(int(LEADER_SECONDS / 0.1)):
        status = await client.read("look at the member", "maintenancestub", "Status", rpc.StatusRequest())
        if status.leader not in (0, removed):
            return
        await asyncio.sleep(0.1)


async def be_alone(client: EtcdClient) -> None:
    """Wait until the member that was told to forget the others leads a cluster of itself and answers."""
    for _ in range(int(LEADER_SECONDS / 0.1)):
        status = await store_status(client)
        if status.available and len(status.members) == 1:
            return
        await asyncio.sleep(0.1)
    raise StoreError(f"etcd did not become a cluster of one within {LEADER_SECONDS:g} s")


async def available(client: EtcdClient) -> None:
    """Wait until the member answers through a quorum; raises ``StoreError`` when it does not."""
    for _ in range(int(AVAILABLE_SECONDS / 0.1)):
        if (await store_status(client)).available:
            return
        await asyncio.sleep(0.1)
    raise StoreError(f"etcd was started anew and has no quorum after {AVAILABLE_SECONDS:g} s")


async def store_status(client: EtcdClient) -> StoreStatus:
    """Tell how the store is; whatever fails makes it unavailable, as the contract wants."""
    try:
        async with asyncio.timeout(2 * STATUS_SECONDS):
            status = await client.read(
                "look at the member", "maintenancestub", "Status", rpc.StatusRequest(), timeout=STATUS_SECONDS
            )
            known = await members(client, STATUS_SECONDS)
    except (KatError, TimeoutError) as error:
        return StoreStatus(0, 0, available=False, facts={"error": str(error) or "etcd does not answer"})
    try:  # only a read through a quorum shows that there is one
        probe = rpc.RangeRequest(key=b"\0", count_only=True)
        async with asyncio.timeout(STATUS_SECONDS):
            revision = (await client.read("read", "kvstub", "Range", probe, STATUS_SECONDS)).header.revision
        available = True
    except (KatError, TimeoutError):
        revision, available = status.header.revision, False
    leader = f"{status.leader:x}" if status.leader else None
    return StoreStatus(
        revision=revision,
        size_bytes=status.dbSize,
        available=available,
        leader=next((one.name for one in known if one.id == leader), leader),
        members=known,
        version=status.version,
        alarms=tuple(status.errors),
        facts={"inUseBytes": str(status.dbSizeInUse), "memberId": f"{status.header.member_id:x}"},
    )
