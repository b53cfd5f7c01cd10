"""Drain: how far a node's emptying has come. Derived from the state whenever it is asked for, and stored nowhere."""

from __future__ import annotations

from enum import StrEnum

from kat_platform.model.base import Model


class Departure(StrEnum):
    """How an instance stands that is still on a node being drained."""

    MOVING = "Moving"
    """It is replaced within its update rules, when its turn comes."""
    STOPPING = "Stopping"
    """Its replacement is there; it is on its way out."""
    BLOCKED = "Blocked"
    """Its replacement fits nowhere: it stays until there is room."""
    PINNED = "Pinned"
    """Its data lies on this node: it cannot move."""
    STAYING = "Staying"
    """It is a daemon's, which belongs to the node; the drain does not wait for it."""


class DrainItem(Model):
    """One instance that is still there."""

    namespace: str
    workload: str
    instance: str
    state: Departure
    reason: str = ""


class DrainProgress(Model):
    """What is left on a node."""

    node: str
    draining: bool
    alive: bool
    done: bool
    """Nothing is left that the drain waits for."""
    left: int
    """Instances the drain waits for."""
    pinned: int
    """Those among them that cannot move."""
    instances: tuple[DrainItem, ...] = ()
