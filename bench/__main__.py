"""Run the measurements and print the table: ``python -m bench [--only NAME] [--runs N] [--json FILE]``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from bench import (
    calls,
    dns,
    draining,
    eviction,
    failover,
    figures,
    joining,
    losses,
    overlay,
    placing,
    rest,
    scheduler,
    services,
    steady,
    swarm,
)
from bench.figures import Row
from tests.cluster.node import RealNode

NEEDS_NODE: dict[str, Callable[[RealNode, int], list[Row]]] = {
    "rest": lambda node, runs: rest.measure(node, 60.0),
    "apply": services.measure_apply,
    "healing": services.measure_healing,
    "api": calls.measure,
}
ALONE: dict[str, Callable[[int], list[Row]]] = {
    "swarm": swarm.measure,
    "placing": placing.measure,
}
CLUSTER: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "failover": lambda given: failover.measure(given.runs),
    "loss": lambda given: losses.measure_loss(given.runs),
    "return": lambda given: losses.measure_return(given.runs),
    "join": lambda given: joining.measure(given.runs),
    "lab": lambda given: joining.measure_up(given.runs),
    "drain": lambda given: draining.measure(given.runs),
    "overlay": lambda given: overlay.measure(given.runs),
    "steady": lambda given: steady.measure(60.0),
    "eviction": lambda given: eviction.measure(given.minutes),
}
TEXTS: dict[str, Callable[[int], list[dict[str, object]]]] = {
    "dns": lambda runs: dns.measure(runs=runs),
    "scheduler": lambda runs: [*scheduler.bench_packing(), *scheduler.bench_schedule_pure(rounds=runs)],
}


def main() -> None:
    """Measure what was asked for, or everything."""
    names = [*NEEDS_NODE, *ALONE, *CLUSTER, *TEXTS]
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, help="measure only this; may be given again")
    parser.add_argument("--runs", type=int, default=5, help="how often each is measured")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long eviction saturates every core")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was made is taken away, as after Ctrl-C
    wanted = given.only or names
    rows: list[Row] = []
    for name in [n for n in names if n in wanted]:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        if name in NEEDS_NODE:
            node = RealNode()
            try:
                found = NEEDS_NODE[name](node.make(), given.runs)
            finally:
                left = node.remove()
            if left:
                print(f"left behind: {left}", file=sys.stderr)
        elif name in ALONE:
            found = ALONE[name](given.runs)
        elif name in CLUSTER:
            found = CLUSTER[name](given)
        else:
            for each in TEXTS[name](given.runs):
                print(f"  {figures.from_dict(each)}", flush=True)
            continue
        print(figures.table(found), flush=True)
        rows += found
    if given.json:
        given.json.write_text(figures.as_json(rows))


if __name__ == "__main__":
    main()
