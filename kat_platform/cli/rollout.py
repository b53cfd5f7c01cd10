"""rollout and rollback: how the change to a new revision goes, holding it, and going back."""

from __future__ import annotations

import click

from kat_platform.cli import render
from kat_platform.cli.get import need_workload
from kat_platform.cli.resources import find_kind, rollout_word
from kat_platform.cli.scale import settle
from kat_platform.cli.session import Duration, Session, split_workload, talks

_wait = click.option("--wait", is_flag=True, help="Wait until everything is ready.")
_timeout = click.option("--timeout", type=Duration(), default="5m", show_default=True, help="How long at most.")
_to = click.option("--to-revision", type=click.IntRange(min=1), help="Which one; default: the one before the present.")


@click.group("rollout")
def rollout() -> None:
    """Watch, hold and undo changes of a workload."""


@rollout.command("status")
@click.argument("workload")
@click.option("-w", "--watch", "--wait", "watching", is_flag=True, help="Wait until it has ended.")
@_timeout
@talks
def status(session: Session, workload: str, watching: bool, timeout: float) -> int:
    """Show how the change to the newest revision goes. Exit code 1 when it is paused or was rolled back."""
    name, _ = split_workload(workload)
    item = need_workload(session, name)
    if watching:
        settle(session, name, item, True, timeout)
        return 0
    summary, word = item["summary"], rollout_word(item)
    message = (item.get("rollout") or {}).get("message", "")
    click.echo(
        f"revision {item['record']['revision']}: {render.state(word)}, {summary['updated']} of {summary['wanted']} "
        f"updated, {summary['ready']} ready, {summary['available']} available"
    )
    if message:
        click.echo(render.clean(message))
    return 1 if word in ("Paused", "RolledBack") else 0


@rollout.command("history")
@click.argument("workload")
@click.option("-o", "--output", default="table", help="table, wide, json, yaml, name or jsonpath=TEMPLATE.")
@talks
def history(session: Session, workload: str, output: str) -> None:
    """List the revisions that are kept; the present one is marked."""
    render.check_format(output)
    name, _ = split_workload(workload)
    current = need_workload(session, name)["record"]["revision"]
    items = session.client.get("namespaces", session.namespace, "workloads", name, "revisions")["items"]
    items.sort(key=lambda item: item["number"])
    text = render.structured(output, {"kind": "List", "items": items})
    if text is not None:
        click.echo(text)
        return
    if output == "name":
        click.echo("\n".join(f"revision/{item['name']}" for item in items))
        return
    kind = find_kind("revisions")
    rows = [("*" if item["number"] == current else "", str(item["number"]), *kind.cells(item)[1:]) for item in items]
    click.echo(render.table(("", "REVISION", *kind.columns[1:]), rows))


@rollout.command("pause")
@click.argument("workload")
@talks
def pause(session: Session, workload: str) -> None:
    """Hold the change where it is."""
    name, _ = split_workload(workload)
    session.client.post("namespaces", session.namespace, "workloads", name, "pause")
    click.echo(f"the rollout of workload/{name} is paused")


@rollout.command("resume")
@click.argument("workload")
@talks
def resume(session: Session, workload: str) -> None:
    """Let the change go on; also one that was paused by its deadline."""
    name, _ = split_workload(workload)
    session.client.post("namespaces", session.namespace, "workloads", name, "resume")
    click.echo(f"the rollout of workload/{name} goes on")


@rollout.command("undo")
@click.argument("workload")
@_to
@_wait
@_timeout
@talks
def undo(session: Session, workload: str, to_revision: int | None, wait: bool, timeout: float) -> None:
    """Go back to an older revision."""
    _back(session, workload, to_revision, wait, timeout)


@click.command("rollback")
@click.argument("workload")
@_to
@_wait
@_timeout
@talks
def rollback(session: Session, workload: str, to_revision: int | None, wait: bool, timeout: float) -> None:
    """Go back to an older revision of WORKLOAD. History only grows: this makes a new revision like the old one."""
    _back(session, workload, to_revision, wait, timeout)


def _back(session: Session, workload: str, to_revision: int | None, wait: bool, timeout: float) -> None:
    name, _ = split_workload(workload)
    body = {} if to_revision is None else {"toRevision": to_revision}
    item = session.client.post("namespaces", session.namespace, "workloads", name, "rollback", body=body)
    click.echo(f"workload/{name} goes back, as revision {item['record']['revision']}")
    settle(session, name, item, wait, timeout)
