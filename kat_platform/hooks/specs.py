"""Every hook of KAT, on one page. ``docs/hooks.md`` tells the same with examples.

A plugin takes part by a class (or module) behind an entry point of group ``kat.hooks``, with ``info: HookInfo`` and any
of these as methods marked with ``@hookimpl``. Every hook is ``async def`` and gets its arguments by name, so an
implementation may leave out what it does not need (but not declare it keyword-only). Implementations run on the
agent's event loop: await, never block.

The order is ``tryfirst`` implementations, then the others, then ``trylast``, each by plugin name. Every implementation
has a deadline. One that fails or is late is logged under its plugin's name and harms nobody else; what its silence
means is said with each hook.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

from kat_platform.hooks.types import (
    AdmissionReply,
    AdmissionRequest,
    ApiRoute,
    EventRecord,
    InstanceChange,
    LeadershipChange,
    NodeChange,
    NodeFacts,
)
from kat_platform.interfaces.scheduler import Contributions

if TYPE_CHECKING:
    import click

PROJECT = "kat"
"""pluggy's name for this set of hooks."""

GROUP = "kat.hooks"
"""The entry-point group in which hook plugins announce themselves."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method of a plugin as the implementation of the hook of the same name."""


# --- asked, and the answers are used ---------------------------------------------------------------------


@hookspec
async def admit_workload(change: AdmissionRequest) -> AdmissionReply | None:
    """Say whether a workload may be created, updated or deleted, and in which form.

    Fires in the API server after a Quadlet was validated and before anything is stored, on a dry run too; never for
    KAT's own changes. ``change`` is what the caller asked for, as the plugins before this one left it.

    Return ``None`` or ``AdmissionReply.allow()`` to let it pass, ``reject(reason)`` to refuse it (the caller gets error
    ``rejected`` with the reason and the plugin's name; plugins after this one are not asked), or
    ``change(documents, reason)`` to let another Quadlet pass instead, which is validated anew.

    Fails closed: an implementation that raises, is late (5 s) or changes a Quadlet into an invalid one refuses the
    change under its plugin's name.
    """


@hookspec
async def scheduler_contributions() -> Contributions | None:
    """Give filters and scores that the scheduler uses besides its own.

    Fires once on each agent's start. The functions given are called in the scheduler's thread, for each pair of demand
    and node: they must be pure and take microseconds. Their names appear in ``katcall why`` as ``PLUGIN/NAME``.

    A filter that raises refuses the node with that as its reason; a score that raises counts as 0. An implementation of
    this hook that fails contributes nothing.
    """


@hookspec
async def node_facts() -> NodeFacts | None:
    """Tell what a plugin knows of the node it runs on: labels to schedule by, facts to show.

    Fires on each node at the agent's start and then every 5 minutes. Of two plugins giving the same label the first
    one wins. An implementation that fails gives nothing, and what it gave before is dropped.
    """


@hookspec
async def cli_commands() -> Sequence[click.Command] | None:
    """Give commands that ``katcall`` offers besides its own.

    Fires in ``katcall``, not in the agent, and only for a command ``katcall`` does not know, its help and its
    completion. A name that ``katcall`` or a plugin before this one has is left out, with a warning.
    """


@hookspec
async def api_routes() -> Sequence[ApiRoute] | None:
    """Give routes that the API serves below ``/v1alpha1/plugins/PLUGIN/``.

    Fires once in the API server before it listens. The routes get the API's authentication, limits, problem documents,
    metrics and place in ``/openapi.json``. An implementation that fails serves nothing.
    """


# --- told, and nobody waits for it -----------------------------------------------------------------------
#
# Notifications are delivered in the order in which they happened, one at a time for each plugin, from a queue of 1,000;
# when a plugin does not keep up, its oldest are dropped and the loss is logged. What they return is ignored.


@hookspec
async def instance_changed(change: InstanceChange) -> None:
    """Hear that an instance is new, is gone, or has another phase or readiness.

    Fires on the leader, after the change is in the store. After a change of leader some may come twice.
    """


@hookspec
async def node_changed(change: NodeChange) -> None:
    """Hear that a node joined, left, or became ready or not.

    Fires on the leader, after the change is in the store. After a change of leader some may come twice.
    """


@hookspec
async def event_recorded(event: EventRecord) -> None:
    """Hear of an event, as it is recorded, repeated ones with their count.

    Fires on the agent that records it.
    """


@hookspec
async def leadership_changed(change: LeadershipChange) -> None:
    """Hear that this agent became leader, or stopped being it.

    Fires on the agent concerned; before it does a leader's work, and after it has stopped doing so.
    """
