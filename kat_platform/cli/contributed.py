"""Commands that hook plugins bring to ``katcall``."""

from __future__ import annotations

import asyncio
from importlib import metadata

import click

from kat_platform.hooks.specs import GROUP


def contributed_commands(taken: set[str]) -> dict[str, click.Command]:
    """Ask the hook plugins for commands; quick when none is installed. A broken plugin is named and left out."""
    if not metadata.entry_points(group=GROUP):
        return {}
    from kat_platform.registry.catalog import Catalog
    from kat_platform.registry.hooks import announcer_of, examine_hooks

    examined = examine_hooks({}, Catalog.read())
    for found in examined:
        for fault in found.faults:
            click.echo(f"warning: plugin '{fault.name}' is left out: {fault.problem}", err=True)
    given = asyncio.run(announcer_of(examined).cli_commands(taken))
    return {each.value.name: each.value for each in given if each.value.name is not None}
