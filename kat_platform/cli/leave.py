"""leave: take the node this command runs on out of its cluster, and clear its machine."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kat_platform.cli.session import Duration
from kat_platform.errors import KatError, NotFound, TimedOut, Unavailable, UsageError

if TYPE_CHECKING:
    from kat_platform.agent.local import LocalNode, Places


@click.command("leave")
@click.option(
    "--data-path", envvar="KAT_DATA_PATH", type=click.Path(path_type=Path), default="/var/lib/kat", show_default=True
)
@click.option("--timeout", type=Duration(), default="10m", show_default=True, help="How long to wait for the drain.")
@click.option("--force", is_flag=True, help="Without a drain, although instances or volumes' data are here.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def leave(data_path: Path, timeout: float, force: bool, yes: bool) -> None:
    """Take this node out of its cluster, and everything KAT made off this machine. Volumes' data stay.

    Its instances move to other nodes first, within the update rules of their workloads. After an interruption run it
    again: it goes on where it was.
    """
    from kat_platform.agent import leave as steps
    from kat_platform.agent.local import Places, load_node

    places = Places(data_path)
    node = load_node(places)
    if steps.stage(places) is steps.Stage.STAYING:
        if not force:
            steps.refuse_stopped(places)
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError("without a terminal nothing is changed unless --yes is given")
            click.confirm(f"Take node '{node.node_name}' out of its cluster, and clear this machine?", abort=True)
    try:
        if steps.stage(places) is not steps.Stage.REMOVED:
            _go(places, node, timeout, force)
        _clear(places, node)
    except KeyboardInterrupt:
        click.echo(_way_on(places, node), err=True)
        raise


def _go(places: Places, node: LocalNode, timeout: float, force: bool) -> None:
    """Drain and remove the node."""
    from kat_platform.agent import leave as steps
    from kat_platform.cli.drain import wait_drained

    departure = steps.Departure(places, node)
    try:
        if not force:
            found = departure.drain()
            if found is None:
                return  # it was removed before a crash
            wait_drained(departure.look, found, timeout, _way_on(places, node))
        departure.remove(force=force)
    except TimedOut as error:
        raise TimedOut(error.message, hint=_way_on(places, node)) from None
    except Unavailable as error:
        raise steps.unreachable(node, error) from None
    click.echo(f"node '{node.node_name}' is out of the cluster; its certificates are refused from now on")


def _clear(places: Places, node: LocalNode) -> None:
    from kat_platform.agent import leave as steps
    from kat_platform.agent.teardown import kept_paths, reset

    servers = steps.other_servers(node)
    lock = steps.take_over(places, click.echo)
    problems = asyncio.run(reset(places, keep_volumes=True, progress=click.echo, lock=lock))
    if problems:
        raise KatError("; ".join(problems), hint="mend this and run 'kat-agent leave' again")
    for path in kept_paths(places, node, keep_volumes=True):
        click.echo(f"kept: {path}")
    _redirect_context(node.cluster_id, servers)
    click.echo("nothing else of KAT is left on this machine; where systemd starts it: systemctl disable kat-agent")


def _redirect_context(name: str, servers: tuple[str, ...]) -> None:
    """Let katcall's context for the cluster, which may be its only one, talk to the nodes that stay."""
    from kat_platform.cli import context

    try:
        found = context.load(name)
    except (NotFound, UsageError):
        return
    context.save(replace(found, servers=servers or found.servers))
    click.echo(f"kept: katcall's context '{name}' in {context.path()}; it talks to the nodes that are left")


def _way_on(places: Places, node: LocalNode) -> str:
    from kat_platform.agent.leave import Stage, stage

    if stage(places) is Stage.STAYING:
        name = node.node_name
        return (
            f"'kat-agent leave' goes on; the node takes nothing new until 'katcall node uncordon {name}' takes it back"
        )
    return "the node is out of the cluster, or about to be: run 'kat-agent leave' again to clear this machine"
