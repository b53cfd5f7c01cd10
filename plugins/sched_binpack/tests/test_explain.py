"""Reasons, summaries and remedies, word for word."""

from __future__ import annotations

import pytest
from kat_sched_binpack.driver import BinpackScheduler

from kat_platform.interfaces.scheduler import (
    Affinity,
    AffinityTerm,
    Contributions,
    Demand,
    Gpu,
    GpuRequest,
    PlacedInstance,
    SchedulableNode,
    Spread,
    Taint,
)
from kat_platform.testing.conformance.scheduler_scenes import MEBI, cluster, demand, node, several

FILTERS = {
    "ready", "cordon", "pin", "selector", "taints", "resources", "gpu", "ports", "affinity", "antiAffinity", "spread",
}  # fmt: skip
LARGE = demand("old", cpu_millicores=3750, memory_bytes=7680 * MEBI, host_ports=((80, "TCP"),))
OLD = PlacedInstance("old", LARGE, "n2")
NEAR = Affinity(required=(AffinityTerm({"app": "db"}, "zone"),))

CASES: list[tuple[SchedulableNode, Demand, str, str]] = [
    (node("n2", ready=False, not_ready_reason="no heartbeat"), demand(cpu_millicores=0), "is not ready: no heartbeat",
     "bring n2 back: see node describe n2"),
    (node("n2", cordoned=True), demand(cpu_millicores=0), "is cordoned", "node uncordon n2"),
    (node("n2"), demand(cpu_millicores=0, memory_bytes=1024 * MEBI), "lacks memory: 512Mi free, 1Gi asked",
     "ask for 512Mi less memory, or free as much on n2"),
    (node("n2"), demand(), "lacks cpu: 250m free, 500m asked", "ask for 250m less cpu, or free as much on n2"),
    (node("n2", max_instances=1), demand(cpu_millicores=0), "runs as many instances as it may (1)",
     "stop an instance on n2, or raise its maxInstances"),
    (node("n2"), demand(cpu_millicores=0, node_selector={"disk": "ssd"}), "lacks label disk=ssd",
     "add label disk=ssd to n2"),
    (node("n2", taints=(Taint("gpu", "yes"),)), demand(cpu_millicores=0),
     "has taint gpu=yes:NoSchedule, which is not tolerated",
     "tolerate taint gpu=yes:NoSchedule, or remove it from n2"),
    (node("n2"), demand(cpu_millicores=0, host_ports=((80, "TCP"),)), "host port 80/TCP is taken",
     "choose another host port than 80/TCP"),
    (node("n2", gpus=(Gpu("0", "amd", 1),)), demand(cpu_millicores=0, gpu=GpuRequest(2, "amd")),
     "lacks GPUs: 1 free, 2 amd GPUs asked", "ask for 1 GPU less"),
    (node("n2"), demand(cpu_millicores=0, pinned_to="n1", pinned_reason="volume data"),
     "is pinned to node n1: volume data", "move its volume with volume move, to n2"),
    (node("n2"), demand(cpu_millicores=0, affinity=NEAR), "lacks label zone, which affinity needs",
     "add label zone to n2"),
    (node("n2", labels={"zone": "a"}), demand(cpu_millicores=0, affinity=NEAR),
     "no instance with app=db is in zone=a", "place an instance with app=db in zone=a first"),
    (node("n2"), demand(cpu_millicores=0, anti_affinity=Affinity(required=(AffinityTerm({"app": "old"}),))),
     "an instance with app=old is in n2", "add a node without such an instance, or move it from n2"),
    (node("n2"), demand("old", cpu_millicores=0, spread=Spread("zone")), "lacks label zone, which spread needs",
     "add label zone to n2"),
]  # fmt: skip


@pytest.mark.parametrize(("at", "asked", "reason", "remedy"), CASES, ids=[case[2] for case in CASES])
def test_each_reason_and_its_remedy(
    binpack: BinpackScheduler, at: SchedulableNode, asked: Demand, reason: str, remedy: str
) -> None:
    snapshot = cluster(at, placed=(OLD,))
    (who,) = several(1, asked)
    told = binpack.explain(snapshot, who)
    assert [verdict.reason for verdict in told.verdicts if not verdict.passed] == [reason]
    assert told.remedy == remedy
    assert {verdict.filter for verdict in told.verdicts} == FILTERS
    assert dict(binpack.schedule(snapshot, (who,)).unplaceable[0].reasons) == {"n2": reason}


def test_every_filter_speaks_also_after_the_first_refusal(binpack: BinpackScheduler) -> None:
    at = node("n2", ready=False, cordoned=True, cpu_millicores=1, labels={"zone": "a"})
    told = binpack.explain(cluster(at), several(1, demand(affinity=NEAR))[0])
    assert [v.filter for v in told.verdicts if not v.passed] == ["ready", "cordon", "resources", "affinity"]


def test_the_remedy_is_the_smallest_over_all_nodes(binpack: BinpackScheduler) -> None:
    small = [node(name, cpu_millicores=cpu) for name, cpu in (("b", 100), ("c", 400))]
    nodes = (node("a", ready=False), *small, node("d", cordoned=True))
    assert binpack.explain(cluster(*nodes), several(1, demand())[0]).remedy.startswith("ask for 100m less cpu")
    assert binpack.explain(cluster(*nodes[::3]), several(1, demand())[0]).remedy == "node uncordon d"


def test_following_the_advice_on_memory_is_enough(binpack: BinpackScheduler) -> None:
    snapshot = cluster(node("a", memory_bytes=1000 * MEBI + 1))
    told = binpack.explain(snapshot, several(1, demand(memory_bytes=1024 * MEBI))[0])
    assert told.remedy == "ask for 24Mi less memory, or free as much on a"
    assert binpack.schedule(snapshot, several(1, demand(memory_bytes=1000 * MEBI))).placements


def test_who_fits_needs_no_remedy_and_has_scores(binpack: BinpackScheduler) -> None:
    told = binpack.explain(cluster(node("a"), node("b", cordoned=True)), several(1, demand())[0])
    assert told.remedy == ""
    assert set(told.scores) == {"a"}


def test_a_summary_counts_the_kinds(binpack: BinpackScheduler) -> None:
    small = {"memory_bytes": 512 * MEBI}
    snapshot = cluster(node("a", **small), node("b", **small), node("c", cordoned=True))
    (answer,) = binpack.schedule(snapshot, several(1, demand(memory_bytes=1024 * MEBI))).unplaceable
    assert answer.summary == "0 of 3 nodes fit: 2 lack memory (512Mi free, 1Gi asked), 1 is cordoned"
    (answer,) = binpack.schedule(cluster(), several(1, demand())).unplaceable
    assert answer.summary == "0 of 0 nodes fit: the cluster has no nodes"


def test_a_contributed_reason_is_told_under_its_name(binpack: BinpackScheduler) -> None:
    licensed = Contributions(filters=(("licence", lambda asked, at: "has no licence"), ("ok", lambda asked, at: None)))
    told = binpack.explain(cluster(node("a"), contributions=licensed), several(1, demand())[0])
    assert [(v.filter, v.reason) for v in told.verdicts if not v.passed] == [("licence", "has no licence")]
    assert told.remedy == "on a: has no licence"
