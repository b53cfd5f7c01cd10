"""Routes of logs: each instance's own, or a workload's merged over all of its instances and nodes."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import aiohttp
import structlog
from aiohttp import web

from kat_platform.errors import KatError, NotFound, Unavailable, UsageError
from kat_platform.model.instance import InstanceRecord
from kat_platform.server import problems
from kat_platform.server.api import Api
from kat_platform.server.index import INSTANCES, Ref
from kat_platform.server.requests import flag, whole
from kat_platform.server.table import PREFIX, Query, Route

log = structlog.get_logger(__name__)

LINE_LIMIT: Final = 256 * 1024
_QUEUE: Final = 1000
_DEFAULT_TAIL: Final = 10_000

Line = dict[str, Any]


async def of_workload(request: web.Request, api: Api) -> web.StreamResponse:
    """Merge the logs of a workload's instances; with ``follow`` also of those that come later."""
    ns, name = request.match_info["ns"], request.match_info["name"]
    if (ns, name) not in api.state.workloads:
        raise NotFound(f"there is no workload '{name}' in namespace '{ns}'")
    only = request.query.get("instance")
    records = [r for r in api.state.instances_of(ns, name) if only in (None, r.id)]
    if only is not None and not records:
        raise NotFound(f"workload '{ns}/{name}' has no instance '{only}'")
    return await _answer(request, api, records, None if only else (ns, name))


async def of_instance(request: web.Request, api: Api) -> web.StreamResponse:
    """Give one instance's log."""
    ns, name = request.match_info["ns"], request.match_info["name"]
    record = api.state.instances.get((ns, name))
    if record is None:
        raise NotFound(f"there is no instance '{name}' in namespace '{ns}'")
    return await _answer(request, api, [record], None)


async def _answer(
    request: web.Request, api: Api, records: list[InstanceRecord], workload: tuple[str, str] | None
) -> web.StreamResponse:
    follow = flag(request, "follow")
    params = _parameters(request, follow)
    async with api.streams.task("logs"):
        response = await api.streams.begin(request)
        try:
            lines = (
                _followed(api, records, workload, params)
                if follow
                else _merged([_read(api, record, params) for record in records])
            )
            async for line in lines:
                await response.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        except ConnectionError:
            pass  # the reader has gone away
        return response


def _parameters(request: web.Request, follow: bool) -> dict[str, str]:
    tail = whole(request, "tail")
    params = {"follow": "1" if follow else "0"}
    if flag(request, "previous"):
        if follow:
            raise UsageError("follow and previous do not go together: an earlier run prints nothing any more")
        params["previous"] = "1"
    if tail is not None:
        params["tail"] = str(tail)
    elif not follow and "since" not in request.query:
        params["tail"] = str(_DEFAULT_TAIL)
    if "since" in request.query:
        try:
            params["since"] = str(float(request.query["since"]))
        except ValueError:
            raise UsageError("parameter since must be seconds since the epoch") from None
    return params


async def _read(api: Api, record: InstanceRecord, params: dict[str, str]) -> AsyncIterator[Line]:
    """Give the lines of one instance; what hinders that is a line too (``error``), so that the others' still come."""
    base: Line = {"instance": record.id, "node": record.node}
    if record.node is None:
        return  # it has never run
    try:
        if api.deps.agent_client is None:
            raise Unavailable("this server cannot reach the nodes' agents")
        target = api.deps.agent_client(record.node)
        url = f"{target.url}/agent/v1/instances/{record.namespace}/{record.id}/logs"
        async with target.session.get(
            url, params=params, ssl=target.tls, server_hostname=target.server_hostname, read_bufsize=LINE_LIMIT
        ) as answer:
            if answer.status == 404:
                return  # no container yet, or none any more
            if answer.status != 200:
                raise Unavailable(f"the agent of node '{record.node}' answered {answer.status}")
            async for raw in answer.content:
                yield {**base, **json.loads(raw)}
    except KatError as error:
        yield {**base, "error": problems.document(error)}
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        log.info("logs-unreachable", instance=record.key, node=record.node, error=str(error))
        text = f"node '{record.node}' did not give the log of '{record.id}': {type(error).__name__}"
        yield {**base, "error": problems.document(Unavailable(text))}


async def _merged(sources: list[AsyncIterator[Line]]) -> AsyncIterator[Line]:
    """Merge finite logs by time, holding one line of each."""
    heap: list[tuple[float, int, Line]] = []
    last = [0.0] * len(sources)

    async def pull(number: int) -> None:
        line = await anext(sources[number], None)
        if line is not None:
            last[number] = max(last[number], _at(line, last[number]))
            heapq.heappush(heap, (last[number], number, line))

    async with asyncio.TaskGroup() as group:
        for number in range(len(sources)):
            group.create_task(pull(number), name="logs-first")
    while heap:
        _, number, line = heapq.heappop(heap)
        yield line
        await pull(number)


def _at(line: Line, otherwise: float) -> float:
    at = line.get("at")
    return float(at) if isinstance(at, int | float) else otherwise


async def _followed(
    api: Api, records: list[InstanceRecord], workload: tuple[str, str] | None, params: dict[str, str]
) -> AsyncIterator[Line]:
    """Follow instances, and with ``workload`` those that join it, each in its own task with one queue between."""
    queue: asyncio.Queue[Line | None] = asyncio.Queue(_QUEUE)
    running: dict[str, asyncio.Task[None]] = {}

    async def read(record: InstanceRecord, wanted: dict[str, str]) -> None:
        async for line in _read(api, record, wanted):
            await queue.put(line)

    def start(found: Iterable[InstanceRecord], wanted: dict[str, str]) -> None:
        for record in found:
            if record.key not in running and record.node is not None:
                running[record.key] = asyncio.create_task(read(record, wanted), name=f"logs-{record.id}")
                running[record.key].add_done_callback(ended)

    def ended(_: asyncio.Task[None]) -> None:
        if workload is None and all(task.done() for task in running.values()) and not queue.full():
            queue.put_nowait(None)

    def joined(refs: Iterable[Ref]) -> None:
        if workload is not None and any(ref.collection == INSTANCES and ref.namespace == workload[0] for ref in refs):
            start(api.state.instances_of(*workload), {"follow": "1"})

    stop = api.objects.subscribe(joined)
    start(records, params)
    try:
        if not running and workload is None:
            return
        while True:
            line = await queue.get()
            if line is None:
                return
            yield line
    finally:
        stop()
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)


_QUERY: Final = (
    Query("follow", "Keep giving lines as they come.", "boolean"),
    Query("tail", "Only the last lines of each instance.", "integer"),
    Query("since", "Only lines from then on, seconds since the epoch.", "number"),
    Query("previous", "Only what was printed before the container's last start.", "boolean"),
)
_LOGS: Final = "Newline-delimited JSON: {instance, node, at, stream, text}, or {instance, node, error}."

ROUTES = (
    Route(
        "GET",
        f"{PREFIX}/namespaces/{{ns}}/workloads/{{name}}/logs",
        of_workload,
        f"Logs of all instances. {_LOGS}",
        "workloads/logs",
        answer="LogLine",
        query=(*_QUERY, Query("instance", "Only this instance.")),
        media="application/x-ndjson",
        stream=True,
    ),
    Route(
        "GET",
        f"{PREFIX}/namespaces/{{ns}}/instances/{{name}}/logs",
        of_instance,
        f"Logs of one instance. {_LOGS}",
        "instances/logs",
        answer="LogLine",
        query=_QUERY,
        media="application/x-ndjson",
        stream=True,
    ),
)
