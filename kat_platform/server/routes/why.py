"""Route that answers "why?": every filter's verdict on every node for a workload's next instance."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from kat_platform.errors import NotFound, Unavailable
from kat_platform.interfaces.scheduler import Explanation, PendingInstance, Scheduler, SchedulingSnapshot
from kat_platform.leader.placement import demand_of, scheduling_snapshot
from kat_platform.server.api import Api
from kat_platform.server.requests import answer_json
from kat_platform.server.table import PREFIX, Query, Route


async def why(request: web.Request, api: Api) -> web.StreamResponse:
    """Ask the scheduler, on the newest state, where one more instance of the workload could go."""
    ns, name, node = request.match_info["ns"], request.match_info["name"], request.query.get("node")
    state, scheduler = api.state, api.deps.scheduler
    revision = state.target(ns, name)
    if revision is None:
        raise NotFound(f"there is no workload '{name}' in namespace '{ns}'")
    if node is not None and node not in state.nodes:
        raise NotFound(f"there is no node '{node}'", hint=f"there are: {', '.join(sorted(state.nodes))[:300]}")
    if scheduler is None:
        raise Unavailable("this server has no scheduler")
    pending = PendingInstance(f"{ns}/{name}-next", demand_of(revision, state.pins), node)
    snapshot = scheduling_snapshot(state, api.deps.contributions)
    explanation = await asyncio.to_thread(_explain, scheduler, snapshot, pending)
    waiting = [
        {"name": record.id, "reason": record.unplaceable}
        for record in state.instances_of(ns, name)
        if record.node is None
    ]
    return answer_json(_wire(ns, name, explanation, snapshot, node, waiting))


def _explain(scheduler: Scheduler, snapshot: SchedulingSnapshot, pending: PendingInstance) -> Explanation:
    return scheduler.explain(snapshot, pending)


def _wire(
    ns: str,
    name: str,
    explanation: Explanation,
    snapshot: SchedulingSnapshot,
    only: str | None,
    waiting: list[dict[str, str]],
) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = []
    for node in snapshot.nodes:
        if only is not None and node.name != only:
            continue
        verdicts = [v for v in explanation.verdicts if v.node == node.name]
        nodes.append(
            {
                "node": node.name,
                "fits": all(v.passed for v in verdicts),
                "score": explanation.scores.get(node.name),
                "verdicts": [
                    {"filter": v.filter, "passed": v.passed, "reason": v.reason, "remedy": v.remedy} for v in verdicts
                ],
            }
        )
    return {
        "namespace": ns,
        "workload": name,
        "nodes": nodes,
        "remedy": explanation.remedy,
        "waiting": waiting,
        "revision": snapshot.revision,
    }


ROUTES = (
    Route(
        "GET",
        f"{PREFIX}/namespaces/{{ns}}/workloads/{{name}}/why",
        why,
        "Why a workload's instances go where they go, or nowhere.",
        "workloads/why",
        answer="Why",
        query=(Query("node", "Only this node."),),
    ),
)
