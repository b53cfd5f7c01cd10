"""Routes by which a control-plane node that has joined becomes a member of the store; each for the node itself only."""

from __future__ import annotations

from typing import Final

import structlog
from aiohttp import web

from kat_platform.errors import Denied, NotFound, NotSupportedYet, Unavailable
from kat_platform.interfaces.auth import Verb
from kat_platform.interfaces.store import HasMembers, Member, peer_url
from kat_platform.model.event import Event
from kat_platform.model.node import NodeRecord, NodeRole
from kat_platform.server import joining
from kat_platform.server.api import Api
from kat_platform.server.requests import answer_json
from kat_platform.server.routes.join import authority_of
from kat_platform.server.table import PREFIX, Route

log = structlog.get_logger(__name__)

_PATH: Final = f"{PREFIX}/nodes/{{name}}/membership"


async def enrol(request: web.Request, api: Api) -> web.StreamResponse:
    """Announce a node's member to the others, without a vote; hands over the keys that the node then needs: the CA's,
    and the one that backups are sealed with."""
    record, store = await _own_record(request, api), _members_of(api)
    url = _url(api, record)
    known = (await api.deps.store.store_status()).members
    if not any(url in member.peer_urls for member in known):
        joining.refuse_member(api.state.nodes, api.state.alive, record.name)
    await store.add_member(record.name, url)
    members = (await api.deps.store.store_status()).members
    log.info("store-member-announced", node=record.name, url=url)
    authority_of(api)  # which refuses on a server without the signing CA's key
    assert api.deps.keyring is not None  # so there is one
    made = {"members": [_shown(member) for member in members], "caKey": api.deps.keyring.key_pem().decode()}
    if api.deps.backups is not None:
        made["backupKey"] = api.deps.backups.key.text
    return answer_json(made)


async def vote(request: web.Request, api: Api) -> web.StreamResponse:
    """Give a node's member its vote; it must have caught up."""
    record, store = await _own_record(request, api), _members_of(api)
    url = _url(api, record)
    status = await api.deps.store.store_status()
    member = next((one for one in status.members if url in one.peer_urls), None)
    if member is None:
        raise NotFound(f"node '{record.name}' has not been announced as a member of the store")
    if member.learner:
        await store.promote_member(member.id)
        voters = 1 + sum(not one.learner for one in status.members)
        message = f"is member {voters} of the control plane"
        if voters % 2 == 0:
            message += f": {voters} survive no more losses than {voters - 1}, so add another one"
        event = Event(reason="MemberJoined", object_kind="Node", object_name=record.name, message=message, source="api")
        api.events.note(event)
    return answer_json({"voting": True})


async def _own_record(request: web.Request, api: Api) -> NodeRecord:
    """Give the caller's record; only a node that joined as control plane gets further, whatever it knows."""
    found = await api.repository.node(request.match_info["name"])
    if found is None:
        raise NotFound("this node is not in the cluster", hint="it was removed, or has never joined")
    if not api.caller(request).control_plane or found.value.role is not NodeRole.CONTROL_PLANE:
        raise Denied(f"node '{found.value.name}' is a worker: it has no part in the store")
    return found.value


def _members_of(api: Api) -> HasMembers:
    store = api.deps.store
    if not isinstance(store, HasMembers):
        raise NotSupportedYet(f"the store '{store.info.name}' has no members that could be added")
    return store


def _url(api: Api, record: NodeRecord) -> str:
    configuration = api.state.configuration
    if record.subnet is None or configuration is None:
        raise Unavailable(f"node '{record.name}' has no address in the overlay yet")
    return peer_url(record.subnet.network_address + 1, configuration.spec.etcd_peer_port)


def _shown(member: Member) -> dict[str, object]:
    return {"id": member.id, "name": member.name, "peerUrls": list(member.peer_urls), "learner": member.learner}


ROUTES = (
    Route(
        "POST",
        _PATH,
        enrol,
        "Announce this control-plane node's member of the store.",
        "nodes/membership",
        Verb.REPORT,
        answer="Membership",
    ),
    Route(
        "POST",
        f"{_PATH}/vote",
        vote,
        "Give this control-plane node's member of the store its vote.",
        "nodes/membership",
        Verb.REPORT,
        answer="Vote",
    ),
)
