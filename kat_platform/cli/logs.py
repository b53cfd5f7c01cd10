"""logs: the output of a workload's instances, merged over replicas and nodes."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import click

from kat_platform.cli import render
from kat_platform.cli.client import at, error_of
from kat_platform.cli.get import need_workload
from kat_platform.cli.session import Duration, Session, split_workload, talks
from kat_platform.errors import KatError, UsageError

FOLLOW_SECONDS = 365 * 86400.0
"""A log may be silent for as long as it likes."""


@click.command("logs")
@click.argument("workload", metavar="WORKLOAD[/INSTANCE]")
@click.option("-f", "--follow", is_flag=True, help="Go on and show lines as they come.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last lines of each instance.")
@click.option("--since", type=Duration(), help="Only lines of the last time: 90s, 5m, 1h30m.")
@click.option("--previous", is_flag=True, help="Only what was printed before the last restart.")
@click.option("--prefix/--no-prefix", default=None, help="Name the instance before each line.")
@click.option("--timestamps", is_flag=True, help="Say when each line was written.")
@talks
def logs(
    session: Session,
    workload: str,
    follow: bool,
    tail: int | None,
    since: float | None,
    previous: bool,
    prefix: bool | None,
    timestamps: bool,
) -> int:
    """Show the output of WORKLOAD's instances, merged, or of one INSTANCE. (-n is the namespace: lines are --tail.)"""
    if previous and follow:
        raise UsageError("--follow and --previous do not go together: an earlier run prints nothing any more")
    name, instance = split_workload(workload, ("workload", "workloads"))
    need_workload(session, name)
    params: dict[str, Any] = {
        "follow": follow,
        "tail": tail,
        "since": None if since is None else f"{time.time() - since:.3f}",
        "instance": instance,
        "previous": previous,
    }
    path = at("namespaces", session.namespace, "workloads", name, "logs")
    named = prefix if prefix is not None else instance is None
    failed, lines = False, 0
    for line in session.client.stream(path, params, timeout=FOLLOW_SECONDS if follow else 60.0):
        if line.get("error"):
            failed = True
            _warn(error_of(int(line["error"]["status"]), line["error"]))
            continue
        lines += 1
        head = f"{line['instance']} " if named else ""
        if timestamps:
            at_ = datetime.fromtimestamp(line["at"], UTC).isoformat(timespec="milliseconds")
            head += f"{at_.replace('+00:00', 'Z')} "
        text = line["text"].rstrip("\n")
        click.echo(render.paint(head, "grey") + text if head else text)
    if previous and not lines and not failed:
        click.echo("there is no output of an earlier run", err=True)
    return 1 if failed else 0


def _warn(error: KatError) -> None:
    click.echo(f"warning: {render.clean(error.message)}", err=True)
