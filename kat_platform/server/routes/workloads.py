"""Routes that change a workload without a new Quadlet: delete, scale, restart, rollback, pause, resume."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from pydantic import Field

from kat_platform.errors import Conflict, InvalidInput, StoreFull
from kat_platform.hooks.types import AdmissionRequest, Operation
from kat_platform.interfaces import store
from kat_platform.interfaces.auth import Verb
from kat_platform.interfaces.store import Compare, Delete, Put
from kat_platform.model.base import Model
from kat_platform.model.event import Event
from kat_platform.model.revision import Revision, WorkloadRecord
from kat_platform.model.scalars import Whole
from kat_platform.server.api import Api
from kat_platform.server.index import WORKLOADS, Ref
from kat_platform.server.requests import answer, check_match, read_json
from kat_platform.server.table import PREFIX, Handler, Route
from kat_platform.state import keys
from kat_platform.state.repository import Found

_PATH: Final = f"{PREFIX}/namespaces/{{ns}}/workloads/{{name}}"


class ScaleBody(Model):
    """What ``scale`` takes."""

    replicas: Whole


class RollbackBody(Model):
    """What ``rollback`` takes; absent: to the revision before the present one."""

    to_revision: int | None = Field(default=None, ge=1, strict=True)


async def _read(request: web.Request, api: Api) -> Found[WorkloadRecord]:
    match = request.match_info
    found = await api.repository.need_workload(match["ns"], match["name"])
    check_match(request, found.revision, f"workload '{match['ns']}/{match['name']}'")
    return found


async def _write(
    request: web.Request,
    api: Api,
    found: Found[WorkloadRecord],
    change: dict[str, object],
    reason: str,
    message: str,
    *more: store.Operation,
    compares: tuple[Compare, ...] = (),
    status: int = 200,
) -> web.StreamResponse:
    record = found.value
    if record.deleting:
        raise Conflict(f"workload '{record.namespace}/{record.name}' is being deleted")
    write = Put(found.key, record.model_copy(update=change).to_json())
    revision = await api.repository.commit(
        [found.unchanged(), *compares], [write, *more], f"workload '{record.namespace}/{record.name}'"
    )
    text = f"{message} by {api.caller(request).name}"
    api.events.note(
        Event(
            reason=reason,
            object_kind="Workload",
            object_name=record.name,
            namespace=record.namespace,
            message=text,
            source="api",
        )
    )
    await api.caught_up(revision)
    body = api.objects.get(Ref(WORKLOADS, record.namespace, record.name)) or b'{"deleted":true}'
    return answer(body, status=status, etag=revision)


async def delete(request: web.Request, api: Api) -> web.StreamResponse:
    """Begin to delete: the leader stops the instances and then removes everything of the workload."""
    found = await _read(request, api)
    record = found.value
    if record.deleting:
        return answer(api.objects.get(Ref(WORKLOADS, record.namespace, record.name)) or b'{"deleted":true}', status=202)
    if api.deps.announce.plugins:
        target = await api.repository.revision(record.namespace, record.name, record.revision)
        parts = (target.value.document, target.value.load_balancer) if target else ()
        await api.deps.announce.admit_workload(
            AdmissionRequest(
                Operation.DELETE,
                record.namespace,
                record.name,
                api.caller(request),
                previous=tuple(part.to_wire() for part in parts if part is not None),
            )
        )
    try:
        return await _write(request, api, found, {"deleting": True}, "Deleting", "deletion asked for", status=202)
    except StoreFull:
        if any(api.state.instances_of(record.namespace, record.name)):
            raise
    return await _remove(api, found)


async def _remove(api: Api, found: Found[WorkloadRecord]) -> web.StreamResponse:
    """Remove a workload that runs nothing at once: a full store takes removals only, and they are the way out."""
    ns, name = found.value.namespace, found.value.name
    removals = (
        Delete(found.key),
        Delete(keys.rollout(ns, name)),
        Delete(keys.vip(ns, name)),
        Delete(keys.revisions_of(ns, name), prefix=True),
    )
    revision = await api.repository.commit([found.unchanged()], removals, f"workload '{ns}/{name}'")
    await api.caught_up(revision)
    return answer(b'{"deleted":true}', status=202, etag=revision)


async def scale(request: web.Request, api: Api) -> web.StreamResponse:
    """Set the number of a Service's instances, until the next apply."""
    body = await read_json(request, ScaleBody)
    found = await _read(request, api)
    record = found.value
    target = await api.repository.need_revision(record.namespace, record.name, record.revision)
    kind = target.value.document.spec.type
    if kind != "Service":
        raise InvalidInput(f"workload '{record.name}' is a {kind}: only a Service has replicas")
    message = f"scaled from {record.replicas} to {body.replicas}"
    return await _write(request, api, found, {"replicas": body.replicas}, "Scaled", message)


async def restart(request: web.Request, api: Api) -> web.StreamResponse:
    """Replace every instance by a new one, at the pace of the update strategy."""
    found = await _read(request, api)
    change: dict[str, object] = {"generation": found.value.generation + 1}
    return await _write(request, api, found, change, "Restarting", "restart asked for")


def _hold(paused: bool, reason: str, message: str) -> Handler:
    async def change(request: web.Request, api: Api) -> web.StreamResponse:
        found = await _read(request, api)
        fields: dict[str, object] = {"paused": paused}
        if not paused:
            fields["resumes"] = found.value.resumes + 1
        return await _write(request, api, found, fields, reason, message)

    return change


pause = _hold(True, "Paused", "rollout paused")
resume = _hold(False, "Resumed", "rollout resumed")


async def rollback(request: web.Request, api: Api) -> web.StreamResponse:
    """Make a new revision with the content of an older one, so that history only ever grows."""
    body = await read_json(request, RollbackBody)
    found = await _read(request, api)
    record = found.value
    ns, name = record.namespace, record.name
    numbers = await api.repository.revision_numbers(ns, name)
    wanted = body.to_revision
    if wanted is None:
        earlier = [number for number in numbers if number < record.revision]
        if not earlier:
            raise Conflict(f"workload '{ns}/{name}' has no earlier revision to go back to")
        wanted = earlier[-1]
    old = (await api.repository.need_revision(ns, name, wanted)).value
    if wanted == record.revision:
        raise Conflict(f"workload '{ns}/{name}' is at revision {wanted} already")
    revision = _again(old, number=max(numbers) + 1, now=api.now(), caller=api.caller(request).name)
    replicas = revision.document.spec.replicas if revision.document.spec.type == "Service" else None
    change: dict[str, object] = {"revision": revision.number, "replicas": replicas, "paused": False}
    key = keys.revision(ns, name, revision.number)
    message = f"rolled back to revision {wanted} (as {revision.number})"
    write = Put(key, revision.to_json())
    return await _write(request, api, found, change, "RolledBack", message, write, compares=(Compare.absent(key),))


def _again(old: Revision, *, number: int, now: float, caller: str) -> Revision:
    cause = f"rollback to {old.number}"
    return old.model_copy(update={"number": number, "created_at": now, "created_by": caller, "cause": cause})


def _post(verb: str, handler: Handler, summary: str, body: str = "") -> Route:
    return Route(
        "POST",
        f"{_PATH}/{verb}",
        handler,
        summary,
        f"workloads/{verb}",
        Verb.WRITE,
        answer="WorkloadItem",
        body=body,
    )


ROUTES = (
    Route("DELETE", _PATH, delete, "Delete a workload.", "workloads", Verb.DELETE, answer="WorkloadItem", status=202),
    _post("scale", scale, "Set the number of instances.", "ScaleBody"),
    _post("restart", restart, "Replace every instance."),
    _post("pause", pause, "Hold the rollout."),
    _post("resume", resume, "Let the rollout go on."),
    _post("rollback", rollback, "Go back to an older revision.", "RollbackBody"),
)
