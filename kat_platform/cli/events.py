"""events: what happened, newest last."""

from __future__ import annotations

import click

from kat_platform.cli import render
from kat_platform.cli.follow import watch
from kat_platform.cli.resources import find_kind
from kat_platform.cli.session import Session, split_workload, talks


@click.command("events")
@click.argument("workload", required=False)
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="Of all namespaces and of the cluster itself.")
@click.option("-w", "--watch", "watching", is_flag=True, help="Go on and show events as they come.")
@click.option("--warnings", is_flag=True, help="Only signs of trouble.")
@click.option("-o", "--output", default="table", help="table, wide, json, yaml, name or jsonpath=TEMPLATE.")
@talks
def events(
    session: Session, workload: str | None, everywhere: bool, watching: bool, warnings: bool, output: str
) -> None:
    """Show what happened in a namespace, or to WORKLOAD and its instances. Kept for 24 hours."""
    render.check_format(output)
    kind = find_kind("events")
    path = kind.path(None if everywhere else session.namespace)
    params = {"workload": split_workload(workload)[0] if workload else None}
    if watching:
        for line in watch(session.client, path, params):
            item = line["object"]
            if line["type"] in ("ADDED", "MODIFIED") and (not warnings or item["event"]["type"] == "Warning"):
                text = render.structured(output, item)
                click.echo(text if text is not None else "  ".join(kind.cells(item)))
        return
    items = session.client.request("GET", path, params=params).data["items"]
    items = [item for item in items if not warnings or item["event"]["type"] == "Warning"]
    items.sort(key=lambda item: item["event"]["lastAt"])
    text = render.structured(output, {"kind": "List", "items": items})
    if text is not None:
        click.echo(text)
    elif output == "name":
        click.echo("\n".join(f"event/{item['name']}" for item in items))
    elif not items:
        click.echo("there are no events here", err=True)
    else:
        wide = output == "wide"
        rows = [kind.row(item, wide=wide, with_namespace=everywhere) for item in items]
        click.echo(render.table(kind.header(wide=wide, with_namespace=everywhere), rows))
