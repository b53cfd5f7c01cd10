"""scale and restart."""

from __future__ import annotations

from typing import Any

import click

from kat_platform.cli.get import need_workload
from kat_platform.cli.session import Duration, Session, split_workload, talks
from kat_platform.errors import UsageError

_wait = click.option("--wait", is_flag=True, help="Wait until everything is ready.")
_timeout = click.option("--timeout", type=Duration(), default="5m", show_default=True, help="How long at most.")


@click.command("scale")
@click.argument("workload")
@click.argument("count", required=False, type=click.IntRange(min=0))
@click.option("--replicas", type=click.IntRange(min=0), help="The number, as an option.")
@_wait
@_timeout
@talks
def scale(session: Session, workload: str, count: int | None, replicas: int | None, wait: bool, timeout: float) -> None:
    """Run COUNT instances of WORKLOAD, until the next apply."""
    wanted = replicas if replicas is not None else count
    if wanted is None:
        raise UsageError(f"to how many? katcall scale {workload} COUNT")
    name, _ = split_workload(workload)
    need_workload(session, name)
    item = session.client.post("namespaces", session.namespace, "workloads", name, "scale", body={"replicas": wanted})
    click.echo(f"workload/{name} scaled to {wanted}")
    settle(session, name, item, wait, timeout)


@click.command("restart")
@click.argument("workload")
@_wait
@_timeout
@talks
def restart(session: Session, workload: str, wait: bool, timeout: float) -> None:
    """Replace every instance of WORKLOAD by a new one, at the pace of its update strategy."""
    name, _ = split_workload(workload)
    need_workload(session, name)
    item = session.client.post("namespaces", session.namespace, "workloads", name, "restart")
    click.echo(f"workload/{name} is being restarted")
    settle(session, name, item, wait, timeout)


def settle(session: Session, name: str, item: dict[str, Any], wait: bool, timeout: float) -> None:
    """Wait until a workload is as its record says, if asked to."""
    if wait:
        from kat_platform.cli.progress import rolled_out, wait_for

        done = rolled_out(item["record"]["revision"], item["record"]["generation"])
        wait_for(session.client, session.namespace, name, done, what="ready", timeout=timeout)
        click.echo(f"workload/{name} is ready")
