"""Routes that take a Quadlet: unpack, check, ask admission, plan, and store it all in one transaction."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from aiohttp import web

from kat_platform.errors import Conflict, InvalidInput
from kat_platform.hooks.types import AdmissionRequest, Document, Operation
from kat_platform.interfaces import store
from kat_platform.interfaces.auth import Verb
from kat_platform.interfaces.store import Compare, Delete, Put
from kat_platform.model.event import Event
from kat_platform.model.namespace import Namespace
from kat_platform.model.revision import WorkloadRecord
from kat_platform.quadlet.limits import MAX_COMPRESSED
from kat_platform.server.api import Api
from kat_platform.server.apply import Current, Outcome, check_against_state, decide, trimmed
from kat_platform.server.quadlets import Submission, check_documents, read_submission
from kat_platform.server.requests import answer_json, check_match, flag, read_body
from kat_platform.server.table import DRY_RUN, PREFIX, Route
from kat_platform.state import keys
from kat_platform.state.repository import Found

_TRIES: Final = 4


async def put_workload(request: web.Request, api: Api) -> web.StreamResponse:
    """Apply a Quadlet whose workload the path names."""
    ns, name = request.match_info["ns"], request.match_info["name"]
    submission = await _read(request)
    workload = submission.workload
    if workload is None:
        raise InvalidInput("the Quadlet has no Workload", hint=f"POST it to {PREFIX}/apply")
    found = (workload.metadata.namespace, workload.metadata.name)
    if found != (ns, name):
        raise InvalidInput(f"the Quadlet is of workload '{'/'.join(found)}', the path of '{ns}/{name}'")
    return await _apply(request, api, submission)


async def apply(request: web.Request, api: Api) -> web.StreamResponse:
    """Apply a Quadlet; namespace and name are those of its documents."""
    return await _apply(request, api, await _read(request))


async def _read(request: web.Request) -> Submission:
    archive = await read_body(request, MAX_COMPRESSED)
    # In a thread: a hostile archive takes seconds to refuse, and others are served meanwhile.
    return await asyncio.to_thread(read_submission, archive)


async def _apply(request: web.Request, api: Api, submission: Submission) -> web.StreamResponse:
    _authorize(request, api, submission)
    dry_run = flag(request, "dryRun")
    warnings: list[str] = []
    for attempt in range(_TRIES):
        current, record = await _current(api, submission)
        check_match(request, record.revision if record else 0, "the workload")
        if current.record is not None and current.record.deleting:
            raise Conflict(
                f"workload '{current.record.namespace}/{current.record.name}' is being deleted",
                hint="apply again once it is gone; katcall wait --for=deleted tells when",
            )
        admitted, warnings = await _admit(request, api, submission, current, dry_run)
        check_against_state(api.state, admitted)
        outcome = decide(admitted, current, now=api.now(), caller=api.caller(request).name)
        created = current.record is None and outcome.record is not None
        if dry_run or not outcome.changes:
            return _answer(outcome, current, warnings, record.revision if record else None, dry_run=dry_run)
        result = await api.repository.try_commit(*_writes(api, outcome, current, record))
        if result.succeeded:
            _tell(request, api, outcome)
            await api.caught_up(result.revision)
            status = 201 if created else 200
            etag = result.revision if outcome.record is not None else record.revision if record else None
            return _answer(outcome, current, warnings, etag, status=status)
        if "If-Match" in request.headers:
            break  # it held a moment ago, so somebody was quicker
        await asyncio.sleep(0.02 * attempt)
    raise Conflict("somebody else changed the same objects at the same moment", hint="look at them and try again")


def _authorize(request: web.Request, api: Api, submission: Submission) -> None:
    workload = submission.workload
    if workload is not None:
        api.allow(request, Verb.WRITE, "workloads", workload.metadata.namespace, workload.metadata.name)
    for namespace in submission.namespaces:
        name = namespace.metadata.name
        if api.state.namespaces.get(name) != namespace:  # carrying an unchanged one along takes no rights
            api.allow(request, Verb.WRITE, "namespaces", None, name)


async def _current(api: Api, submission: Submission) -> tuple[Current, Found[WorkloadRecord] | None]:
    """Read what there is, from the store itself."""
    repository = api.repository
    namespaces: dict[str, Namespace] = {}
    versions: dict[str, int] = {}
    for document in submission.namespaces:
        found = await repository.namespace(document.metadata.name)
        if found is not None:
            namespaces[document.metadata.name] = found.value
            versions[document.metadata.name] = found.revision
    if submission.workload is None:
        return Current(namespaces=namespaces, namespace_versions=versions), None
    ns, name = submission.workload.metadata.namespace, submission.workload.metadata.name
    record = await repository.workload(ns, name)
    numbers = await repository.revision_numbers(ns, name)
    target = await repository.revision(ns, name, record.value.revision) if record else None
    value = record.value if record else None
    current = Current(value, target.value if target else None, numbers, namespaces, versions)
    return current, record


async def _admit(
    request: web.Request, api: Api, submission: Submission, current: Current, dry_run: bool
) -> tuple[Submission, list[str]]:
    """Ask the plugins; gives the Quadlet as they want it, and what they have to say."""
    workload = submission.workload
    if workload is None or not api.deps.announce.plugins:
        return submission, []
    previous: tuple[Document, ...] = ()
    if current.target is not None:
        before = (current.target.document, current.target.load_balancer)
        previous = tuple(document.to_wire() for document in before if document is not None)
    change = AdmissionRequest(
        operation=Operation.CREATE if current.record is None else Operation.UPDATE,
        namespace=workload.metadata.namespace,
        name=workload.metadata.name,
        caller=api.caller(request),
        documents=submission.documents(),
        previous=previous,
        dry_run=dry_run,
    )
    admission = await api.deps.announce.admit_workload(change, check_documents)
    notes = [*admission.changes, *admission.warnings]
    if admission.documents == change.documents:
        return submission, notes
    other = check_documents(admission.documents)
    made = replace(other, files=submission.files, files_digest=submission.files_digest, quadlet=submission.quadlet)
    return made, notes


def _writes(
    api: Api, outcome: Outcome, current: Current, record: Found[WorkloadRecord] | None
) -> tuple[list[Compare], list[store.Operation]]:
    """Give the one transaction that carries an outcome out."""
    compares: list[Compare] = []
    writes: list[store.Operation] = []
    for document in outcome.namespaces:
        key = keys.namespace(document.metadata.name)
        compares.append(Compare.unchanged(key, current.namespace_versions.get(document.metadata.name, 0)))
        writes.append(Put(key, document.to_json()))
    after = outcome.record
    if after is None:
        return compares, writes
    ns, name = after.namespace, after.name
    compares.append(record.unchanged() if record else Compare.absent(keys.workload(ns, name)))
    own = {document.metadata.name for document in outcome.namespaces}
    if ns in api.state.namespaces and ns not in own:
        # It must still be there: nobody may remove a namespace while something moves in.
        compares.append(Compare(keys.namespace(ns), store.Field.CREATED, store.Op.NOT_EQUAL, 0))
    writes.append(Put(keys.workload(ns, name), after.to_json()))
    numbers = current.numbers
    if outcome.revision is not None:
        number = outcome.revision.number
        compares.append(Compare.absent(keys.revision(ns, name, number)))
        writes.append(Put(keys.revision(ns, name, number), outcome.revision.to_json()))
        numbers = (*numbers, number)
    for number in trimmed(numbers, after.revision, in_use(api, ns, name)):
        writes.append(Delete(keys.revision(ns, name, number)))
    return compares, writes


def in_use(api: Api, ns: str, name: str) -> set[int]:
    """Name the revisions that instances are made of, or that a rollback would return to."""
    state = api.state
    used = {state.instances[ns, id_].revision for id_ in api.objects.index.of_workload(ns, name)}
    rollout = state.rollouts.get((ns, name))
    if rollout is not None:
        used.add(rollout.revision)
        if rollout.stable_revision is not None:
            used.add(rollout.stable_revision)
    return used


def _tell(request: web.Request, api: Api, outcome: Outcome) -> None:
    record = outcome.record
    if record is None:
        return
    what = f"revision {record.revision}" if outcome.revision is not None else f"replicas {record.replicas}"
    api.events.note(
        Event(
            reason="Applied",
            object_kind="Workload",
            object_name=record.name,
            namespace=record.namespace,
            message=f"{what} applied by {api.caller(request).name}",
            source="api",
        )
    )


def _answer(
    outcome: Outcome,
    current: Current,
    warnings: list[str],
    etag: int | None,
    *,
    status: int = 200,
    dry_run: bool = False,
) -> web.Response:
    record = outcome.record or current.record
    return answer_json(
        {
            "plan": [entry.to_wire() for entry in outcome.plan],
            "namespace": record.namespace if record else None,
            "workload": record.name if record else None,
            "revision": record.revision if record else None,
            "generation": record.generation if record else None,
            "warnings": warnings,
            "dryRun": dry_run,
        },
        status=status,
        etag=etag,
    )


ROUTES = (
    Route(
        "PUT",
        f"{PREFIX}/namespaces/{{ns}}/workloads/{{name}}",
        put_workload,
        "Apply a Quadlet (.tar.gz) of this workload.",
        "workloads",
        Verb.WRITE,
        answer="Plan",
        body="archive",
        query=(DRY_RUN,),
    ),
    Route(
        "POST",
        f"{PREFIX}/apply",
        apply,
        "Apply a Quadlet (.tar.gz); its documents say of what.",
        "workloads",
        Verb.WRITE,
        answer="Plan",
        body="archive",
        query=(DRY_RUN,),
        checked=False,
    ),
)
