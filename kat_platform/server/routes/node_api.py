"""Routes for nodes' agents, each for the node itself only: its view, its reports, its heartbeat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import Final

import structlog
from aiohttp import web
from pydantic import Field as Limited
from pydantic import ValidationError

import kat_platform
from kat_platform.errors import Conflict, InvalidInput, NotFound
from kat_platform.interfaces.auth import Verb
from kat_platform.interfaces.store import Compare, Field, Op, Operation, Put
from kat_platform.model.base import Model
from kat_platform.model.event import Event
from kat_platform.model.identity import NodeName
from kat_platform.model.instance import InstanceRecord, InstanceStatus
from kat_platform.model.node import NodeReport
from kat_platform.model.version import AGENT, too_far
from kat_platform.model.view import ReportBody
from kat_platform.pki import certificates
from kat_platform.server.api import Api
from kat_platform.server.joining import note_certificate
from kat_platform.server.node_view import stream_view
from kat_platform.server.problems import from_validation
from kat_platform.server.requests import answer_json, read_json
from kat_platform.server.routes.join import authority_of, chain_of
from kat_platform.server.table import PREFIX, Route
from kat_platform.state import keys

log = structlog.get_logger(__name__)

_PATH: Final = f"{PREFIX}/nodes/{{name}}"
_TRIES: Final = 3
_EVENTS: Final = 200


class HeartbeatBody(Model):
    """What a heartbeat carries: for how long the agent means it to count, in seconds. The cluster's setting decides."""

    ttl_seconds: float = 0.0


class RenewBody(Model):
    """What a renewal carries: a signing request (PEM) for the very identity that sends it."""

    csr: str = Limited(max_length=certificates.CSR_LIMIT)


async def view(request: web.Request, api: Api) -> web.StreamResponse:
    """Stream the node's view, unless its agent is of a version that could not read it: then it goes on alone."""
    name = request.match_info["name"]
    agent = request.headers.get("User-Agent", "")
    if agent.startswith(AGENT) and (why := too_far(kat_platform.__version__, agent.removeprefix(AGENT))):
        raise Conflict(why, hint="what runs there goes on meanwhile")
    await api.fresh()  # a node must not be told to stop what only a server that was asleep does not know of
    api.reported.pop(name, None)  # it may have reported to another server meanwhile
    _need_node(api, name)
    return await stream_view(request, api.streams, api.objects, api.shared, name, api.now)


def _need_node(api: Api, name: str) -> None:
    if name not in api.state.nodes:
        raise NotFound(f"node '{name}' is not a member of this cluster", hint="it was removed, or has never joined")


async def heartbeat(request: web.Request, api: Api) -> web.StreamResponse:
    """Take a sign of life."""
    name = request.match_info["name"]
    await read_json(request, HeartbeatBody, peer=True)
    _need_node(api, name)
    ttl = await api.leases.beat(name, seen=api.state.key_revisions.get(keys.alive(name), 0), at=api.state.revision)
    return answer_json({"ttlSeconds": ttl, "revision": api.state.revision})


async def renew(request: web.Request, api: Api) -> web.StreamResponse:
    """Sign a new certificate for the node that asks; its present one stays good until it ends by itself."""
    name = request.match_info["name"]
    body = await read_json(request, RenewBody, peer=True)
    own = authority_of(api)
    record = await api.repository.node(name)
    if record is None:
        raise NotFound(f"node '{name}' is not a member of this cluster", hint="it was removed, or has never joined")
    configuration = api.state.configuration
    domain = configuration.spec.cluster_domain if configuration is not None else api.deps.cluster_domain
    known = api.state.reports.get(name)
    addresses = ["127.0.0.1", *(known.addresses if known else ()), *filter(None, [record.value.overlay_address])]
    signed = own.sign_csr(
        body.csr.encode(),
        NodeName(own.cluster_id, name, record.value.role),
        domain=domain,
        addresses=map(IPv4Address, addresses),
    )
    # Written with a comparison: a node that is being removed gets no certificate that nobody would revoke.
    await api.repository.commit([record.unchanged()], [note_certificate(name, signed)], f"node '{name}'")
    return answer_json({"certificate": chain_of(api, signed), "ca": own.pem().decode()})


async def report(request: web.Request, api: Api) -> web.StreamResponse:
    """Take what a node says of itself and its instances; what is not its own is listed in the answer and left alone."""
    name = request.match_info["name"]
    body = await read_json(request, ReportBody, peer=True)
    _need_node(api, name)
    own, statuses, events = _parse(name, body)
    unknown: list[str] = []
    writable: dict[str, InstanceStatus] = {}
    for key, status in statuses.items():
        if await _bound(api, key, name):
            writable[key] = status
        else:
            unknown.append(key)
    revision, gone = await _store(api, name, own, writable)
    for event in events:
        api.events.note(event)
    return answer_json({"revision": revision, "unknown": sorted({*unknown, *gone})})


def _parse(node: str, body: ReportBody) -> tuple[NodeReport | None, dict[str, InstanceStatus], list[Event]]:
    try:
        own = None if body.node is None else NodeReport.from_peer(body.node)
        statuses = {
            key: InstanceStatus.from_peer(value).model_copy(update={"node": node})
            for key, value in body.instances.items()
        }
        events = [Event.from_peer(value) for value in body.events[:_EVENTS]]
    except ValidationError as error:
        raise from_validation(error, "the report") from None
    for key in statuses:
        if key.count("/") != 1:
            raise InvalidInput(f"'{key[:120]}' is not NAMESPACE/INSTANCE")
    # Whatever an agent says, it says as itself.
    return own, statuses, [event.model_copy(update={"source": f"agent/{node}"}) for event in events]


async def _bound(api: Api, key: str, node: str) -> bool:
    """Tell whether an instance is bound to a node; the store is asked before the answer is no."""
    ns, _, id_ = key.partition("/")
    record = api.state.instances.get((ns, id_))
    if record is not None and record.node == node:
        return True
    found = await api.repository.read(keys.instance(ns, id_), InstanceRecord)
    return found is not None and found.value.node == node


async def _store(
    api: Api, node: str, own: NodeReport | None, statuses: Mapping[str, InstanceStatus]
) -> tuple[int, list[str]]:
    """Write what differs, as few transactions as possible; gives the revision and the instances that went meanwhile."""
    last = api.reported.get(node)
    if last is not None:
        await api.caught_up(last)  # only then is the cache good to tell what is news
    state = api.state
    known = last is not None
    revision = state.revision
    pending = {k: s for k, s in statuses.items() if not known or state.statuses.get(_pair(k)) != s}
    gone: list[str] = []
    if own is not None and (not known or state.reports.get(node) != own):
        revision = await api.deps.store.put(keys.node_report(node), own.to_json())
    size = api.deps.store.max_operations
    for chunk in _chunks(pending, size):
        for _ in range(_TRIES):
            compares, writes = _writes(chunk, pending)
            result = await api.deps.store.transaction(compares, writes)
            revision = max(revision, result.revision)
            if result.succeeded:
                break
            kept = [key for key in chunk if await _exists(api, key)]
            gone += [key for key in chunk if key not in kept]
            chunk = kept
            if not chunk:
                break
    api.reported[node] = revision
    return revision, gone


async def _exists(api: Api, key: str) -> bool:
    return await api.deps.store.get(keys.instance(*_pair(key))) is not None


def _writes(
    chunk: Iterable[str], statuses: Mapping[str, InstanceStatus]
) -> tuple[tuple[Compare, ...], tuple[Operation, ...]]:
    # A status without its record would never be cleaned up: the record must be there at the same moment.
    compares = tuple(Compare(keys.instance(*_pair(key)), Field.CREATED, Op.NOT_EQUAL, 0) for key in chunk)
    return compares, tuple(Put(keys.status(*_pair(key)), statuses[key].to_json()) for key in chunk)


def _pair(key: str) -> tuple[str, str]:
    ns, _, id_ = key.partition("/")
    return ns, id_


def _chunks(items: Mapping[str, InstanceStatus], size: int) -> Iterator[list[str]]:
    names = list(items)
    for start in range(0, len(names), size):
        yield names[start : start + size]


ROUTES = (
    Route(
        "GET",
        f"{_PATH}/view",
        view,
        "All that this node must know, then what changes.",
        "nodes/view",
        Verb.REPORT,
        media="application/x-ndjson",
        answer="ViewLine",
        stream=True,
    ),
    Route(
        "POST",
        f"{_PATH}/report",
        report,
        "What this node and its instances are like.",
        "nodes/report",
        Verb.REPORT,
        answer="ReportAnswer",
        body="ReportBody",
    ),
    Route(
        "POST",
        f"{_PATH}/heartbeat",
        heartbeat,
        "A sign of life.",
        "nodes/heartbeat",
        Verb.REPORT,
        answer="HeartbeatAnswer",
        body="HeartbeatBody",
    ),
    Route(
        "POST",
        f"{_PATH}/renew",
        renew,
        "Sign a new certificate for this node.",
        "nodes/renew",
        Verb.REPORT,
        answer="Renewed",
        body="RenewBody",
    ),
)
