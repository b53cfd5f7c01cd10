"""Rollout: how many instances of which revision a workload needs now. Pure.

The rules for a rolling update, with ``wanted`` instances, surge and unavailable resolved to counts:
never more than ``wanted + surge`` instances that are to run, never a stop that would leave fewer than ``wanted -
unavailable`` available
(ready for ``minReadySeconds``). An instance that is not available may be stopped only as far as the same bounds allow.

An instance that must leave its node (a drain, a ``NoExecute`` taint) is replaced under the same bounds, whatever the
rollout's state: of the target when everything is of the target or the rollout goes on, of the last good revision
while it is held. With ``Simultaneous``, which does not want more instances than asked for, one at a time is stopped
first and replaced then; a drain never takes all of them down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kat_platform.model.revision import Rollout, RolloutState
from kat_platform.model.workload import WorkloadSpec

_OUTDATED: Final = "replaced by a new revision"
_RETURNED: Final = "replaced while its node was lost"


@dataclass(frozen=True, slots=True)
class Fact:
    """What the rollout needs to know of one instance that is to run (not stopping, not lost)."""

    id: str
    current: bool
    """Made from the target's template and restart generation."""
    ready: bool
    ready_since: float | None
    created_at: float
    placed: bool = True
    terminal: bool = False
    returned: bool = False
    """It was lost with its node and is back: the first to go if there are too many."""
    must_move: str = ""
    """Why it is to be replaced elsewhere; empty when it may stay."""
    node: str = ""
    trouble: str = ""
    """Why it is not ready, in words, if it is not."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now: ``create`` of the target, ``create_stable`` of the last good revision, and whom to stop."""

    create: int = 0
    create_stable: int = 0
    stop: tuple[tuple[str, str], ...] = ()
    """``(instance id, reason)``."""
    roll_back: bool = False
    rollout: Rollout | None = None
    wake_at: float | None = None


def decide(
    spec: WorkloadSpec,
    wanted: int,
    facts: Sequence[Fact],
    rollout: Rollout,
    *,
    held: bool,
    stopping: int,
    now: float,
) -> Decision:
    """Decide the next step of a Service.

    ``rollout`` is the state so far (already of this target), ``held`` whether the operator paused it, ``stopping``
    how many
    instances are still on their way out. Times in seconds since the epoch.
    """
    rolling = spec.update_strategy.rolling
    current = [f for f in facts if f.current]
    old = [f for f in facts if not f.current]
    staying, moving = [f for f in facts if not f.must_move], [f for f in facts if f.must_move]
    usable, wake = _available(facts, rolling.min_ready_seconds, now)
    counted = _count(rollout, current, old, usable, wanted, now)
    finished = not old and len(current) == wanted and all(f.id in usable for f in current) and not stopping
    if moving:  # where instances are is no part of what a rollout is about: a drain does not keep it from its end
        finished = not old and counted.ready >= wanted
    deadline = counted.progress_at + rolling.progress_deadline_seconds
    if finished:
        if counted.state is not RolloutState.COMPLETE:
            counted = counted.model_copy(
                update={"state": RolloutState.COMPLETE, "message": "", "stable_revision": counted.revision}
            )
        if not moving:
            return Decision(rollout=counted)
    if not finished and counted.state is RolloutState.PROGRESSING and not held:
        if now >= deadline:
            return _overdue(spec, current, usable, counted, rolling.progress_deadline_seconds)
        wake = deadline if wake is None else min(wake, deadline)
    if not old:
        create, stop = _roll(spec, wanted, staying, moving, usable)
        return Decision(create=create, stop=stop, rollout=counted, wake_at=wake)
    if held or counted.state is not RolloutState.PROGRESSING:
        missing, stop = _roll(spec, wanted, staying, moving, usable)
        return Decision(create_stable=missing, stop=stop, rollout=counted, wake_at=wake)
    if spec.update_strategy.type == "Simultaneous":
        return Decision(stop=tuple((f.id, _OUTDATED) for f in old), rollout=counted, wake_at=wake)
    kept = [f for f in current if not f.must_move]
    create, stop = _roll(spec, wanted, kept, [f for f in facts if f.must_move or not f.current], usable)
    return Decision(create=create, stop=stop, rollout=counted, wake_at=wake)


def simultaneous_waits(spec: WorkloadSpec, stopping_old: int) -> bool:
    """Tell whether a Simultaneous workload must still wait for instances to be gone before their successors start."""
    return spec.update_strategy.type == "Simultaneous" and stopping_old > 0


def bounds(spec: WorkloadSpec, wanted: int) -> tuple[int, int]:
    """Give ``(most instances at once, fewest available)`` of a rolling update to, or a drain of, ``wanted`` instances.

    A Simultaneous workload never has more than it wants, so what a drain moves is stopped first, one at a time.
    """
    if spec.update_strategy.type == "Simultaneous":
        return wanted, max(0, wanted - 1)
    rolling = spec.update_strategy.rolling
    surge = rolling.max_surge.resolve(wanted, round_up=True)
    unavailable = rolling.max_unavailable.resolve(wanted, round_up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1  # percentages of a few instances may both come to nothing: then go one at a time
    return wanted + surge, max(0, wanted - unavailable)


def _available(facts: Sequence[Fact], min_ready: float, now: float) -> tuple[frozenset[str], float | None]:
    usable, wake = set(), None
    for fact in facts:
        if not fact.ready:
            continue
        since = fact.ready_since if fact.ready_since is not None else now
        if now - since >= min_ready:
            usable.add(fact.id)
        elif wake is None or since + min_ready < wake:
            wake = since + min_ready
    return frozenset(usable), wake


def _count(
    rollout: Rollout, current: list[Fact], old: list[Fact], usable: frozenset[str], wanted: int, now: float
) -> Rollout:
    ready = sum(1 for f in current if f.id in usable)
    figures = {
        "wanted": wanted,
        "updated": len(current),
        "ready": ready,
        "available": ready + sum(1 for f in old if f.id in usable),
    }
    if all(getattr(rollout, name) == value for name, value in figures.items()):
        return rollout
    nearer = len(current) > rollout.updated or ready > rollout.ready or rollout.wanted != wanted
    return rollout.model_copy(update={**figures, "progress_at": now if nearer else rollout.progress_at})


def _overdue(
    spec: WorkloadSpec, current: list[Fact], usable: frozenset[str], rollout: Rollout, seconds: float
) -> Decision:
    troubles = sorted({f.trouble for f in current if f.id not in usable and f.trouble})
    why = "; ".join(troubles[:3]) or "no instance came nearer to being ready"
    back = spec.update_strategy.rolling.on_failure == "Rollback" and rollout.stable_revision is not None
    act = f"rolled back to revision {rollout.stable_revision}" if back else "paused"
    message = f"no progress for {seconds:g} s ({rollout.ready} of {rollout.wanted} ready), {act}: {why}"
    state = RolloutState.ROLLED_BACK if back else RolloutState.PAUSED
    return Decision(roll_back=back, rollout=rollout.model_copy(update={"state": state, "message": message}))


def _scale(facts: list[Fact], wanted: int, usable: frozenset[str]) -> tuple[tuple[tuple[str, str], ...], int]:
    if len(facts) <= wanted:
        return (), wanted - len(facts)
    crowd: dict[str, int] = {}
    for fact in facts:
        crowd[fact.node] = crowd.get(fact.node, 0) + 1
    # The least loss first: without a node, back from the lost, not available; then from the fullest node, newest first.
    order = sorted(facts, key=lambda f: (f.placed, not f.returned, f.id in usable, -crowd[f.node], -f.created_at, f.id))
    return tuple((f.id, "scaled down") for f in order[: len(facts) - wanted]), 0


def _roll(
    spec: WorkloadSpec, wanted: int, current: list[Fact], old: list[Fact], usable: frozenset[str]
) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Replace ``old`` instances (outdated, or to leave their nodes) by ones like ``current``, within the bounds."""
    if not old:
        stop_surplus, missing = _scale(current, wanted, usable)
        return missing, stop_surplus
    most, fewest = bounds(spec, wanted)
    total = len(current) + len(old)
    create = max(0, min(wanted - len(current), most - total))
    stop: list[tuple[str, str]] = []
    if len(current) > wanted:
        stop.extend(_scale(current, wanted, usable)[0])
    # What was replaced while its node was lost ends at once, even if it serves: nothing runs twice for longer.
    gone = {identity for identity, _ in stop}
    back = [f for f in (*current, *old) if f.returned and f.id not in gone]
    back.sort(key=lambda f: (f.id in usable, not f.must_move, f.created_at, f.id))
    stop.extend((fact.id, _RETURNED) for fact in back[: max(0, total - len(stop) - most)])
    gone = {identity for identity, _ in stop}
    old = [f for f in old if f.id not in gone]
    kept = [f for f in (*current, *old) if f.id not in gone]
    available = sum(1 for f in kept if f.id in usable)
    weak = sorted((f for f in old if f.id not in usable), key=lambda f: (f.placed, -f.created_at, f.id))
    new_unavailable = sum(1 for f in current if f.id not in usable and f.id not in gone)
    spare = max(0, len(kept) - fewest - new_unavailable)
    for fact in weak[:spare]:
        stop.append((fact.id, fact.must_move or _OUTDATED))
    # What must leave its node goes before what is only outdated: a drain does not wait for the whole update.
    strong = sorted((f for f in old if f.id in usable), key=lambda f: (not f.must_move, f.created_at, f.id))
    room = max(0, min(available - fewest, len(strong)))
    for fact in strong[:room]:
        stop.append((fact.id, fact.must_move or _OUTDATED))
    return create, tuple(stop)
