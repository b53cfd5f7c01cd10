"""Why: every filter's verdict on every node, what stands in the way in one line, and the smallest change that helps."""

from __future__ import annotations

from collections import Counter

from kat_platform.interfaces.scheduler import Explanation, Verdict
from kat_sched_binpack import amounts
from kat_sched_binpack.feasible import FILTERS, Against, Request, first_against, resources
from kat_sched_binpack.score import Scorer

_EFFORT = {
    "resources": 0, "cordon": 1, "taints": 2, "selector": 3, "ports": 4, "spread": 5, "antiAffinity": 6,
    "affinity": 7, "gpu": 8, "pin": 9, "ready": 11,
}  # fmt: skip
"""How much it takes to put a shortcoming right, from asking for less to mending a machine; 10 for plugins' filters."""


def explain(request: Request, scorer: Scorer) -> Explanation:
    """Ask every filter about every node, also after the first refusal."""
    verdicts: list[Verdict] = []
    scores: dict[str, float] = {}
    nearest: tuple[tuple[float, ...], str] | None = None
    for i, node in enumerate(request.fleet.nodes):
        found: list[Against] = []
        for name, ask in FILTERS:
            against = ask(request, i)
            if against is None:
                if name != "contributed":
                    verdicts.append(Verdict(node.name, name))
                continue
            found.append(against)
            verdicts.append(Verdict(node.name, against.filter, against.reason, against.remedy))
        if not found:
            scores[node.name] = scorer.of(i)
            continue
        distance = (len(found), sum(_EFFORT.get(a.filter, 10) for a in found), sum(a.short_by for a in found), i)
        if nearest is None or distance < nearest[0]:
            nearest = (distance, _advice(found, node.name))
    return Explanation(tuple(verdicts), scores, "" if scores else _remedy(request, nearest))


def _remedy(request: Request, nearest: tuple[tuple[float, ...], str] | None) -> str:
    if nearest is not None:
        return nearest[1]
    wanted = [amounts.memory(request.memory) + " memory"] * bool(request.memory)
    wanted += [amounts.cpu(request.cpu) + " cpu"] * bool(request.cpu)
    return "add a node" + (f" with {' and '.join(wanted)} free" if wanted else "")


def _advice(found: list[Against], node: str) -> str:
    remedies = [a.remedy or f"on {node}: {a.reason}" for a in found]
    return "; and ".join(remedies)


def refusal(request: Request) -> tuple[dict[str, str], str]:
    """Give each node's first reason and the summary over all nodes."""
    found = _against(request)
    texts = {name: against.reason for name, against in found}
    if not found:
        return texts, "0 of 0 nodes fit: the cluster has no nodes"
    kinds = Counter(against.kind for _, against in found)
    commonest = sorted(kinds.items(), key=lambda entry: (-entry[1], entry[0]))
    parts = [_part(request, kind, count) for kind, count in commonest]
    return texts, f"0 of {len(found)} nodes fit: {', '.join(parts)}"


def _against(request: Request) -> list[tuple[str, Against]]:
    fleet, nobody = request.fleet, Against("unknown", "will not do", "will not do")
    lacking: dict[tuple[int, int, int], Against | None] = {}
    found: list[tuple[str, Against]] = []
    for i, node in enumerate(fleet.nodes):
        against: Against | None = None
        if request.static[i] and request.single is None:
            # Nothing that comes before resources is against it, and nodes with the same room lack the same.
            room = (fleet.free_cpu[i], fleet.free_memory[i], node.max_instances if fleet.free_slots[i] < 1 else -1)
            if room not in lacking:
                lacking[room] = resources(request, i)
            against = lacking[room]
        found.append((node.name, against or first_against(request, i) or nobody))
    return found


def _part(request: Request, kind: str, count: int) -> str:
    text = kind
    if count > 1:
        for one, many in (("is ", "are "), ("lacks ", "lack "), ("has ", "have "), ("would ", "would ")):
            if kind.startswith(one):
                text = many + kind[len(one) :]
                break
    fleet = request.fleet
    if kind == "lacks memory":
        free = max(free for free, mark in zip(fleet.free_memory, request.static, strict=True) if mark)
        text += f" ({amounts.memory(free)} free, {amounts.memory(request.memory)} asked)"
    elif kind == "lacks cpu":
        free = max(free for free, mark in zip(fleet.free_cpu, request.static, strict=True) if mark)
        text += f" ({amounts.cpu(free)} free, {amounts.cpu(request.cpu)} asked)"
    return f"{count} {text}"
