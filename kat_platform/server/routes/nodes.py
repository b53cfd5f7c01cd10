"""Routes for operators of nodes: cordon, drain, labels and taints, removal. And for a node that leaves by itself."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from aiohttp import web
from pydantic import Field

from kat_platform.errors import InvalidInput, NotFound
from kat_platform.interfaces.auth import Verb
from kat_platform.leader.drain import progress
from kat_platform.leader.placement import HOSTNAME_LABEL
from kat_platform.model.base import Model
from kat_platform.model.event import Event
from kat_platform.model.node import NodeRecord, NodeTaint
from kat_platform.model.scalars import LabelKey, LabelValue
from kat_platform.server.api import Api
from kat_platform.server.index import NODES, Ref
from kat_platform.server.removal import refuse_leaving, remove_node
from kat_platform.server.requests import answer, answer_json, check_match, flag, read_json
from kat_platform.server.table import PREFIX, Handler, Query, Route
from kat_platform.state.repository import Found

_PATH: Final = f"{PREFIX}/nodes/{{name}}"
MOST: Final = 64
"""Labels, annotations or taints of one node."""


class DrainBody(Model):
    """What ``drain`` takes."""

    include_daemons: bool = False
    """Stop the instances of DaemonServices too; they come back with ``uncordon``."""


class LeaveBody(Model):
    """What a node that leaves says: first that it wants to be drained, then that it goes."""

    remove: bool = False
    force: bool = False
    """Go although instances are left."""


class TaintBody(Model):
    """One taint."""

    key: LabelKey
    value: LabelValue = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class NodePatch(Model):
    """Changes of what the operator says of a node. What is absent stays; a label that is ``null`` is removed."""

    labels: dict[LabelKey, LabelValue | None] | None = None
    annotations: dict[LabelKey, Annotated[str, Field(max_length=4096)] | None] | None = None
    taints: tuple[TaintBody, ...] | None = Field(default=None, max_length=MOST)
    """All of them: replaces those the node has."""


async def _read(request: web.Request, api: Api) -> Found[NodeRecord]:
    name = request.match_info["name"]
    found = await api.repository.node(name)
    if found is None:
        raise NotFound(f"there is no node '{name[:80]}'", hint="katcall node ls lists them")
    check_match(request, found.revision, f"node '{name}'")
    return found


async def _write(
    request: web.Request, api: Api, found: Found[NodeRecord], change: dict[str, object], reason: str, text: str
) -> int:
    """Write a change and tell of it; gives the store's revision. What changes nothing is not written."""
    changed = found.value.model_copy(update=change)
    if changed == found.value:
        return found.revision
    revision = await api.repository.replace(found, changed)
    message = f"{api.caller(request).name} {text}"
    api.events.note(Event(reason=reason, object_kind="Node", object_name=changed.name, message=message, source="api"))
    await api.caught_up(revision)
    return revision


def _shown(api: Api, name: str, revision: int) -> web.StreamResponse:
    return answer(api.objects.get(Ref(NODES, "", name)) or b"null", etag=revision)


def _cordon(cordoned: bool) -> Handler:
    async def change(request: web.Request, api: Api) -> web.StreamResponse:
        found = await _read(request, api)
        fields: dict[str, object] = {"cordoned": cordoned}
        if not cordoned:
            fields.update(draining=False, drain_daemons=False)
        reason, text = ("Cordoned", "takes no") if cordoned else ("Uncordoned", "takes")
        revision = await _write(request, api, found, fields, reason, f"decided that it {text} new instances")
        return _shown(api, found.value.name, revision)

    return change


async def drain(request: web.Request, api: Api) -> web.StreamResponse:
    """Begin to empty a node: it takes nothing new, and what is there moves within its update rules."""
    body = await read_json(request, DrainBody)
    found = await _read(request, api)
    await _begin_drain(request, api, found, body.include_daemons)
    return answer_json(progress(api.state, found.value.name).to_wire())


async def _begin_drain(request: web.Request, api: Api, found: Found[NodeRecord], daemons: bool) -> None:
    fields: dict[str, object] = {"cordoned": True, "draining": True, "drain_daemons": daemons}
    await _write(request, api, found, fields, "Draining", "asked its instances to move to other nodes")


async def drained(request: web.Request, api: Api) -> web.StreamResponse:
    """Tell what is left on a node, and what each instance waits for."""
    name = request.match_info["name"]
    if name not in api.state.nodes:
        raise NotFound(f"there is no node '{name[:80]}'", hint="katcall node ls lists them")
    daemons = flag(request, "includeDaemons") if "includeDaemons" in request.query else None
    return answer_json(progress(api.state, name, daemons=daemons).to_wire())


async def patch(request: web.Request, api: Api) -> web.StreamResponse:
    """Change labels, annotations and taints; a ``NoExecute`` taint moves what does not tolerate it."""
    body = await read_json(request, NodePatch)
    found = await _read(request, api)
    fields: dict[str, object] = {}
    if body.labels is not None:
        if HOSTNAME_LABEL in body.labels:
            raise InvalidInput(f"label {HOSTNAME_LABEL} is the node's name and cannot be changed")
        fields["labels"] = _merged(found.value.labels, body.labels, "labels")
    if body.annotations is not None:
        fields["annotations"] = _merged(found.value.annotations, body.annotations, "annotations")
    if body.taints is not None:
        unique = {(taint.key, taint.effect): taint for taint in body.taints}
        if len(unique) != len(body.taints):
            raise InvalidInput("a node has at most one taint of the same key and effect")
        fields["taints"] = tuple(NodeTaint(key=t.key, value=t.value, effect=t.effect) for t in body.taints)
    revision = await _write(request, api, found, fields, "NodeChanged", f"changed {' and '.join(fields) or 'nothing'}")
    return _shown(api, found.value.name, revision)


def _merged(old: dict[str, str], change: dict[str, str | None], what: str) -> dict[str, str]:
    merged = {key: value for key, value in {**old, **change}.items() if value is not None}
    if len(merged) > MOST:
        raise InvalidInput(f"a node has at most {MOST} {what}, not {len(merged)}")
    return merged


async def remove(request: web.Request, api: Api) -> web.StreamResponse:
    """Take a node out of the cluster; its certificates are refused everywhere from now on."""
    force = flag(request, "force")
    found = await _read(request, api)
    await remove_node(api, found, force=force, by=api.caller(request).name)
    return answer_json({"deleted": True})


async def leave(request: web.Request, api: Api) -> web.StreamResponse:
    """Let a node go that says so itself: drained first (ask again to see how far it is), then removed."""
    body = await read_json(request, LeaveBody, peer=True)
    found = await _read(request, api)
    if body.remove:
        await remove_node(api, found, force=body.force, by=api.caller(request).name)
        return answer_json({"deleted": True, "progress": None})
    refuse_leaving(api.state, found.value)
    await _begin_drain(request, api, found, True)
    return answer_json({"deleted": False, "progress": progress(api.state, found.value.name).to_wire()})


def _post(verb: str, handler: Handler, summary: str, *, gives: str = "NodeItem", body: str = "") -> Route:
    return Route("POST", f"{_PATH}/{verb}", handler, summary, "nodes", Verb.WRITE, answer=gives, body=body)


_FORCE: Final = Query("force", "Remove it although instances or volumes are on it.", "boolean")
_DAEMONS: Final = Query("includeDaemons", "Whether daemons count; absent: as the drain was asked.", "boolean")

ROUTES = (
    Route("PATCH", _PATH, patch, "Change labels and taints.", "nodes", Verb.WRITE, answer="NodeItem", body="NodePatch"),
    Route(
        "DELETE",
        _PATH,
        remove,
        "Remove a node and revoke its certificates.",
        "nodes",
        Verb.DELETE,
        answer="Deleted",
        query=(_FORCE,),
    ),
    _post("cordon", _cordon(True), "Let no new instance come to a node."),
    _post("uncordon", _cordon(False), "Let instances come to a node again; ends a drain."),
    _post("drain", drain, "Move a node's instances away.", gives="DrainProgress", body="DrainBody"),
    Route(
        "GET", f"{_PATH}/drain", drained, "What is left on a node.", "nodes", answer="DrainProgress", query=(_DAEMONS,)
    ),
    Route(
        "POST",
        f"{_PATH}/leave",
        leave,
        "Drain, and then remove, the node that asks.",
        "nodes/leave",
        Verb.REPORT,
        answer="Leaving",
        body="LeaveBody",
        audited=True,
    ),
)
