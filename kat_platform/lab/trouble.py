"""Trouble: what is wrong with the cables of a lab. Pure: it is written down, and holds over a machine's power cycle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from kat_platform.lab.plan import Lab, LabNode

UPLINK: Final = "eth0"
"""A machine's interface towards the others."""


def cut(lab: Lab, node: LabNode, others: Iterable[LabNode], ports: Iterable[int]) -> Lab:
    """Cut a machine off: from everything, from some machines, or for some TCP ports only. Packets vanish silently."""
    others, ports = tuple(others), tuple(ports)
    if not others and not ports:
        return _changed(lab, {node.name: lambda n: n.model_copy(update={"cut": True})})
    drops = []
    for port in ports:
        # What comes in for the port and what comes back from it: no connection is possible in either direction.
        drops += [f'iifname != "lo" tcp dport {port}', f'iifname != "lo" tcp sport {port}']
    drops += [_from(other) for other in others]
    changes = {node.name: _adding(drops)}
    for other in others:
        changes[other.name] = _adding([_from(node)])
    return _changed(lab, changes)


def slow(lab: Lab, node: LabNode, *, delay_ms: int | None, loss: int | None, kbytes: int | None) -> Lab:
    """Make a machine's cable bad: later (milliseconds each way), lossy (percent), narrow (kilobytes a second)."""
    drops = []
    if loss:
        drops.append(f'iifname "{UPLINK}" numgen random mod 100 < {loss}')
    if kbytes:
        burst = max(16, kbytes // 4)
        drops.append(f'iifname "{UPLINK}" limit rate over {kbytes} kbytes/second burst {burst} kbytes')
    made = _changed(lab, {node.name: _adding(drops)})
    if delay_ms:
        made = _changed(made, {node.name: lambda n: n.model_copy(update={"delay_ms": delay_ms})})
    return made


def heal(lab: Lab, node: LabNode) -> Lab:
    """Mend everything that was done to a machine, at both ends."""

    def mend(found: LabNode) -> LabNode:
        if found.name == node.name:
            return found.model_copy(update={"cut": False, "drops": (), "delay_ms": 0})
        return found.model_copy(update={"drops": tuple(drop for drop in found.drops if drop != _from(node))})

    return _changed(lab, dict.fromkeys((n.name for n in lab.nodes), mend))


def say(node: LabNode) -> str:
    """Say in a word what is wrong with a machine's cable; empty when nothing is."""
    words = ["cut"] if node.cut else []
    if any("saddr" in drop or "tcp" in drop for drop in node.drops):
        words.append("partly cut")
    if node.delay_ms or any("numgen" in drop or "limit" in drop for drop in node.drops):
        words.append("slow")
    return ", ".join(words)


def _from(node: LabNode) -> str:
    return f"ip saddr {node.address}"


def _adding(drops: list[str]) -> Callable[[LabNode], LabNode]:
    return lambda node: node.model_copy(update={"drops": tuple(dict.fromkeys((*node.drops, *drops)))})


def _changed(lab: Lab, changes: dict[str, Callable[[LabNode], LabNode]]) -> Lab:
    nodes = tuple(changes[node.name](node) if node.name in changes else node for node in lab.nodes)
    return lab.model_copy(update={"nodes": nodes})
