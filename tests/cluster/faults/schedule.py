"""Schedule: which faults a run has, on whom and for how long. Pure: it follows from the seed alone.

Every fault is a verb of ``katcall lab`` and is healed by another; a user can do each of them by hand.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Victim(StrEnum):
    """Whom a fault strikes; who that is turns out at the time."""

    LEADER = "the leader"
    FOLLOWER = "a control-plane node that does not lead"
    WORKER = "a worker"
    ALL = "all nodes"


class Reach(StrEnum):
    """What a fault takes from a node while it lasts."""

    CONTROL = "control"
    """Its agent or store suffers; containers and their network do not."""
    SILENT = "silent"
    """The others do not hear from it, and cannot reach what runs on it."""
    LOSSY = "lossy"
    """Some of what it sends or is sent does not arrive."""
    POWER = "power"
    """As silent, and its containers end."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: the verb of ``katcall lab`` that makes it and the one that ends it, without the node."""

    name: str
    make: tuple[str, ...]
    heal: tuple[str, ...]
    """Empty where KAT itself must heal it."""
    reach: Reach
    victims: tuple[Victim, ...]
    hold: tuple[float, float]
    """Seconds it lasts, from and to."""
    from_others: bool = False
    """Whether the verb is told every other node, with ``--from``."""


CONTROL_PLANE = (Victim.LEADER, Victim.FOLLOWER)
ANYONE = (*CONTROL_PLANE, Victim.WORKER)
KINDS = {
    kind.name: kind
    for kind in (
        Kind("kill-agent", ("kill", "--only", "agent"), ("start",), Reach.CONTROL, ANYONE, (0.0, 3.0)),
        Kind("kill-store", ("kill", "--only", "store"), (), Reach.CONTROL, CONTROL_PLANE, (0.0, 2.0)),
        Kind("pause-agent", ("pause", "--only", "agent"), ("resume",), Reach.CONTROL, CONTROL_PLANE, (1.0, 5.0)),
        Kind("pause", ("pause",), ("resume",), Reach.SILENT, ANYONE, (3.0, 20.0)),
        Kind("cut", ("cut",), ("heal",), Reach.SILENT, ANYONE, (3.0, 20.0)),
        Kind("cut-from-others", ("cut",), ("heal",), Reach.SILENT, ANYONE, (3.0, 20.0), from_others=True),
        Kind("cut-store", ("cut", "--port", "2380"), ("heal",), Reach.CONTROL, CONTROL_PLANE, (3.0, 15.0)),
        Kind("fill", ("fill",), ("heal",), Reach.CONTROL, ANYONE, (5.0, 20.0)),
        Kind("lossy", ("slow", "--loss", "10"), ("heal",), Reach.LOSSY, ANYONE, (3.0, 15.0)),
        Kind("reboot", ("stop",), ("start",), Reach.POWER, ANYONE, (0.0, 12.0)),
        Kind("power-cut", ("kill",), ("start",), Reach.POWER, (*ANYONE, Victim.ALL), (0.0, 12.0)),
    )
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a run."""

    kind: Kind
    victim: Victim | str
    """Whom it strikes; a node's name where the schedule says which."""
    hold: float
    """Seconds from when it is made to when it is healed."""
    at: float = 0.0
    """Seconds from the beginning of its step to when it is made."""

    def __str__(self) -> str:
        return f"{self.kind.name} of {self.victim} for {self.hold:.1f} s"


Step = tuple[Fault, ...]
"""Faults that may be there at the same time; after a step everything has to become well again."""


def fault(name: str, victim: Victim | str, hold: float) -> Step:
    """Give a step of one fault by the name of its kind."""
    return (Fault(KINDS[name], victim, hold),)


def chosen(nodes: Sequence[str]) -> tuple[Step, ...]:
    """Give the faults that every long run has, in turn: those the project is measured by."""
    return (
        fault("kill-agent", Victim.LEADER, 2.0),
        fault("kill-store", Victim.LEADER, 1.0),
        fault("pause", Victim.LEADER, 60.0),
        fault("cut", Victim.WORKER, 15.0),
        fault("cut-from-others", Victim.LEADER, 15.0),
        fault("cut-store", Victim.FOLLOWER, 15.0),
        fault("fill", Victim.FOLLOWER, 20.0),
        fault("fill", Victim.LEADER, 20.0),
        *(fault("reboot", node, 1.0) for node in nodes),
        fault("power-cut", Victim.ALL, 1.0),
    )


def drawn(
    seed: int, count: int, *, kinds: Sequence[str] = tuple(KINDS), longest: float = 60.0, together: float = 0.0
) -> tuple[Step, ...]:
    """Draw this many steps from a seed; no kind again before every other one was drawn.

    ``longest`` is the most that a fault lasts, in seconds; ``together`` the share of steps that have two faults.
    """
    chance = random.Random(seed)
    bag: list[str] = []
    made: list[Step] = []
    while len(made) < count:
        step: list[Fault] = []
        for _ in range(2 if chance.random() < together else 1):
            bag = bag or chance.sample(sorted(kinds), len(kinds))
            kind = KINDS[bag.pop()]
            hold = min(longest, chance.uniform(*kind.hold))
            at = chance.uniform(0.0, step[0].hold) if step else 0.0
            step.append(Fault(kind, chance.choice(kind.victims), hold, at))
        made.append(tuple(step))
    return tuple(made)
