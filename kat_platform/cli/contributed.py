"""Commands that hook plugins bring to ``katcall``."""

from __future__ import annotations

import asyncio
from importlib import metadata
from typing import Any

import click

from kat_platform.errors import KatError
from kat_platform.hooks.specs import GROUP


def contributed_commands(taken: set[str]) -> dict[str, click.Command]:
    """Ask the hook plugins for commands; quick when none is installed. A broken plugin is named and left out.

    Their settings are those of this machine, ``pluginConfig`` beside the contexts: not the cluster's.
    """
    if not metadata.entry_points(group=GROUP):
        return {}
    from kat_platform.observability import logging
    from kat_platform.registry.catalog import Catalog
    from kat_platform.registry.hooks import announcer_of, examine_hooks

    # What the host logs of plugins is for standard error: what katcall prints may be somebody's input.
    logging.configure(level="warning", as_json=False)
    examined = examine_hooks(_settings(), Catalog.read())
    for found in examined:
        for fault in found.faults:
            click.echo(f"warning: plugin '{fault.name}' is left out: {fault.problem}", err=True)
    given = asyncio.run(announcer_of(examined).cli_commands(taken))
    return {each.value.name: each.value for each in given if each.value.name is not None}


def _settings() -> dict[str, dict[str, Any]]:
    from kat_platform.cli.context import plugin_config

    try:
        return plugin_config()
    except KatError as error:
        click.echo(f"warning: {error.message}", err=True)
        return {}
