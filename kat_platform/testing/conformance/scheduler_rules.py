"""Checks of the rules between instances: affinity, anti-affinity and spread."""

from __future__ import annotations

from collections import Counter

from kat_platform.interfaces.scheduler import Affinity, AffinityTerm, PlacedInstance, Scheduler, Spread
from kat_platform.testing.conformance.kit import Kit, require
from kat_platform.testing.conformance.scheduler_scenes import (
    cluster,
    demand,
    node,
    only_goes_to,
    planned,
    several,
    where,
)

RULES: Kit[Scheduler] = Kit("scheduler")

ZONES = tuple(node(name, labels={"zone": name[0]}) for name in ("a1", "a2", "b1", "b2", "c1"))
"""Three zones, the last with one node."""


def near(app: str, key: str = "") -> Affinity:
    """Make a required term about ``app=APP``."""
    return Affinity(required=(AffinityTerm({"app": app}, key),))


@RULES.check("required affinity is to the node itself without a topology key, and to the place with one")
async def affinity(driver: Scheduler) -> None:
    """See the rule."""
    nodes = cluster(*ZONES, node("x"), placed=(PlacedInstance("db-0", demand("db"), "b1"),))
    await only_goes_to(driver, nodes, demand(affinity=near("db")), {"b1"}, "affinity to the node")
    await only_goes_to(driver, nodes, demand(affinity=near("db", "zone")), {"b1", "b2"}, "affinity to the zone")
    await only_goes_to(driver, nodes, demand(affinity=near("cache", "zone")), set(), "affinity to nobody")


@RULES.check("affinity counts instances of the same namespace only")
async def namespaces(driver: Scheduler) -> None:
    """See the rule."""
    stranger = PlacedInstance("db-0", demand("db", namespace="other"), "b1")
    nodes = cluster(*ZONES, placed=(stranger,))
    await only_goes_to(driver, nodes, demand(affinity=near("db", "zone")), set(), "affinity to another namespace")
    away = demand(anti_affinity=near("db", "zone"))
    alone = cluster(ZONES[2], placed=(stranger,))
    await only_goes_to(driver, alone, away, {"b1"}, "anti-affinity to another namespace", count=1)


@RULES.check("the first of a group that must be together may go anywhere, the others go where it is")
async def first_of_its_kind(driver: Scheduler) -> None:
    """See the rule."""
    plan = await planned(driver, cluster(*ZONES), several(3, demand(affinity=near("web", "zone"))))
    zones = {name[0] for name in where(plan).values()}
    require(len(plan.placements) == 3 and len(zones) == 1, f"placed in zones {sorted(zones)}: {where(plan)}")


@RULES.check("required anti-affinity keeps the batch's own instances apart too")
async def anti_affinity(driver: Scheduler) -> None:
    """See the rule."""
    apart = demand(anti_affinity=near("web"))
    plan = await planned(driver, cluster(*ZONES), several(6, apart))
    require(Counter(where(plan).values()) == dict.fromkeys([n.name for n in ZONES], 1), f"placed as {where(plan)}")
    plan = await planned(driver, cluster(*ZONES), several(5, demand(anti_affinity=near("web", "zone"))))
    zones = sorted(name[0] for name in where(plan).values())
    require(zones == ["a", "b", "c"], f"anti-affinity by zone: placed in {zones}, not once in each zone")


@RULES.check("anti-affinity holds from the other side: who is there already is left alone")
async def anti_affinity_of_others(driver: Scheduler) -> None:
    """See the rule."""
    hermit = demand("hermit", anti_affinity=near("web", "zone"))
    nodes = cluster(*ZONES, placed=(PlacedInstance("h", hermit, "a1"),))
    await only_goes_to(driver, nodes, demand(), {"b1", "b2", "c1"}, "anti-affinity of those in place", count=4)
    both = await planned(driver, cluster(ZONES[0]), (*several(1, hermit), *several(1, demand())))
    require(len(both.placements) == 1, "a hermit and whom it keeps away from were placed together in one batch")


@RULES.check("spread keeps the places at most maxSkew apart, over the places that are open")
async def spread(driver: Scheduler) -> None:
    """See the rule."""
    for skew in (1, 2):
        even = demand(spread=Spread("zone", skew), cpu_millicores=100)
        plan = await planned(driver, cluster(*ZONES), several(8, even))
        zones = Counter(name[0] for name in where(plan).values())
        apart = max(zones.values()) - min(zones[z] for z in "abc")
        require(len(plan.placements) == 8, f"{len(plan.placements)} of 8 placed with maxSkew {skew}")
        require(apart <= skew, f"maxSkew {skew}, but the zones have {dict(zones)}")
    closed = cluster(*ZONES[:4], node("c1", labels={"zone": "c"}, cordoned=True))
    plan = await planned(driver, closed, several(4, demand(spread=Spread("zone", 1))))
    zones = Counter(name[0] for name in where(plan).values())
    require(zones == {"a": 2, "b": 2}, f"zone c is closed, the others have {dict(zones)}, not 2 each")


@RULES.check("spread counts what is placed already, and needs the label")
async def spread_over_what_is_there(driver: Scheduler) -> None:
    """See the rule."""
    old = tuple(PlacedInstance(f"old-{i}", demand(), "a1") for i in range(2))
    nodes = cluster(*ZONES, node("x"), placed=old)
    await only_goes_to(driver, nodes, demand(spread=Spread("zone", 1)), {"b1", "b2", "c1"}, "spread", count=2)
    await only_goes_to(driver, cluster(node("x")), demand(spread=Spread("zone", 1)), set(), "spread without the label")
