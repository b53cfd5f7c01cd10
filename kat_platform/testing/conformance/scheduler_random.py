"""Random clusters from a seed, and the judging of plans for them by the plain rules."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from kat_platform.interfaces.scheduler import (
    Affinity,
    AffinityTerm,
    Demand,
    Gpu,
    GpuRequest,
    PendingInstance,
    PlacedInstance,
    PlacementPlan,
    SchedulableNode,
    SchedulingSnapshot,
    Spread,
    Taint,
    TaintEffect,
    Toleration,
)
from kat_platform.testing.conformance.scheduler_scenes import MEBI, demand, node
from kat_platform.testing.placement import against

_APPS = ("web", "db", "cache", "queue")


def random_scene(
    seed: int, *, relations: bool = True, nodes: int = 8, pending: int = 24
) -> tuple[SchedulingSnapshot, tuple[PendingInstance, ...]]:
    """Make a cluster that is partly full and a batch of all sorts, the same for the same arguments.

    Everything has the same priority, so nothing is preempted. Without ``relations`` no affinity or spread is asked for.
    """
    chance = random.Random(seed)
    fleet = tuple(_node(chance, i) for i in range(chance.randint(1, nodes)))
    kinds = [_demand(chance, n, relations) for n in range(chance.randint(1, 6))]
    placed = tuple(
        PlacedInstance(f"old-{i}", _demand(chance, 10 + i % 3, relations=False), chance.choice(fleet).name)
        for i in range(chance.randint(0, 12))
    )
    names = [at.name for at in fleet]
    batch = tuple(_pending(chance, i, chance.choice(kinds), names) for i in range(chance.randint(1, pending)))
    return SchedulingSnapshot(seed, fleet, placed), batch


def _pending(chance: random.Random, i: int, asked: Demand, names: list[str]) -> PendingInstance:
    only = chance.choice(names) if chance.random() < 0.1 and asked.spread is None else None
    avoid = frozenset({chance.choice(names)}) if chance.random() < 0.1 else frozenset[str]()
    return PendingInstance(f"new-{i}", asked, only, avoid)


def _node(chance: random.Random, i: int) -> SchedulableNode:
    labels = {"zone": chance.choice("abc")} if chance.random() < 0.9 else {}
    if chance.random() < 0.5:
        labels["disk"] = chance.choice(("ssd", "hdd"))
    effect = chance.choice(list(TaintEffect))
    return node(
        f"n{i}",
        cpu_millicores=chance.choice((1000, 2000, 4000)),
        memory_bytes=chance.choice((1024, 4096, 8192)) * MEBI,
        max_instances=chance.choice((3, 10, 110)),
        ready=chance.random() < 0.9,
        cordoned=chance.random() < 0.1,
        labels=labels,
        taints=(Taint("t", "v", effect),) if chance.random() < 0.2 else (),
        gpus=tuple(Gpu(str(g), chance.choice(("nvidia", "amd")), 8000) for g in range(chance.choice((0, 0, 2)))),
        images=frozenset(chance.sample(_APPS, 2)),
    )


def _demand(chance: random.Random, n: int, relations: bool) -> Demand:
    app = chance.choice(_APPS)
    more: dict[str, Any] = {
        "cpu_millicores": chance.choice((0, 100, 500, 900)),
        "memory_bytes": chance.choice((0, 100, 700)) * MEBI,
        "labels": {"app": app},
        "image": app,
        "node_selector": {"disk": "ssd"} if chance.random() < 0.15 else {},
        "tolerations": (Toleration("t", "Exists"),) if chance.random() < 0.3 else (),
        "host_ports": ((80, "TCP"),) if chance.random() < 0.1 else (),
        "gpu": GpuRequest(1, chance.choice(("any", "nvidia"))) if chance.random() < 0.1 else None,
    }
    if relations:
        more["affinity"] = _affinity(chance, 0.15)
        more["anti_affinity"] = _affinity(chance, 0.25)
        more["spread"] = Spread(chance.choice(("", "zone")), chance.choice((1, 2))) if chance.random() < 0.2 else None
    return demand(f"{app}{n}", **more)


def _affinity(chance: random.Random, share: float) -> Affinity:
    def term(weight: int) -> tuple[AffinityTerm, ...]:
        if chance.random() >= share:
            return ()
        return (AffinityTerm({"app": chance.choice(_APPS)}, chance.choice(("", "zone")), weight),)

    return Affinity(required=term(0), preferred=term(50))


def _outcome(
    snapshot: SchedulingSnapshot, pending: tuple[PendingInstance, ...], plan: PlacementPlan
) -> tuple[dict[str, PendingInstance], list[PlacedInstance]]:
    asked = {who.id: who for who in pending}
    victims = {victim for placement in plan.placements for victim in placement.preempts}
    present = [placed for placed in snapshot.placed if placed.id not in victims]
    present += [PlacedInstance(p.instance_id, asked[p.instance_id].demand, p.node) for p in plan.placements]
    return asked, present


def broken_rules(snapshot: SchedulingSnapshot, pending: tuple[PendingInstance, ...], plan: PlacementPlan) -> list[str]:
    """Tell which placements break a rule in the state that the plan leads to, whatever order it was made in.

    One that wants company of its own kind may have been the first of its kind, and others come elsewhere later: it is
    judged by what was there before the plan too.
    """
    asked, present = _outcome(snapshot, pending, plan)
    before = present[: len(present) - len(plan.placements)]
    broken: list[str] = []
    for placement in plan.placements:
        who = asked[placement.instance_id]
        others = [placed for placed in present if placed.id != who.id]
        reason = against(snapshot, others, who, placement.node)
        if reason and who.demand.affinity.required and not against(snapshot, before, who, placement.node):
            alone = replace(who, demand=replace(who.demand, affinity=Affinity()))
            reason = against(snapshot, others, alone, placement.node)
        if reason:
            broken.append(f"{who.id} on {placement.node}, which {reason}")
    return broken


def left_out(snapshot: SchedulingSnapshot, pending: tuple[PendingInstance, ...], plan: PlacementPlan) -> list[str]:
    """Tell which plain instances were left out although a node would do even now that all others are placed.

    Plain ones ask for no company and no spread, so that whether they fit does not depend on the order.
    """
    asked, present = _outcome(snapshot, pending, plan)
    missed: list[str] = []
    for answer in plan.unplaceable:
        who = asked[answer.instance_id]
        if who.demand.affinity.required or who.demand.spread is not None:
            continue
        missed += [f"{who.id} on {at.name}" for at in snapshot.nodes if not against(snapshot, present, who, at.name)]
    return missed
