"""node: look at nodes, and keep instances off them."""

from __future__ import annotations

import json
from typing import Final

import click

from kat_platform.cli import render
from kat_platform.cli.client import at
from kat_platform.cli.describe import show_node
from kat_platform.cli.drain import drain
from kat_platform.cli.resources import find_kind
from kat_platform.cli.session import Session, talks
from kat_platform.errors import NotFound, UsageError

EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")


@click.group("node")
def node() -> None:
    """Look at nodes, and keep instances off them."""


node.add_command(drain)


@node.command("ls")
@click.option("-l", "--selector", default=None, help="Only nodes with these labels: a=b,c!=d,e,!f.")
@click.option("-o", "--output", default="table", help="table, wide, json, yaml, name or jsonpath=TEMPLATE.")
@talks
def ls(session: Session, selector: str | None, output: str) -> None:
    """List the nodes."""
    from kat_platform.cli.get import read, show

    render.check_format(output)
    kind = find_kind("nodes")
    items, one = read(session, kind, None, (), selector)
    show(kind, items, one, output, False)


@node.command("describe")
@click.argument("name")
@talks
def describe(session: Session, name: str) -> None:
    """Show a node with its instances."""
    show_node(session, session.client.get("nodes", name))


@node.command("cordon")
@click.argument("name")
@talks
def cordon(session: Session, name: str) -> None:
    """Let no new instance come to a node; those that are there stay."""
    session.client.post("nodes", name, "cordon")
    click.echo(f"node/{name} cordoned")


@node.command("uncordon")
@click.argument("name")
@talks
def uncordon(session: Session, name: str) -> None:
    """Let instances come to a node again."""
    session.client.post("nodes", name, "uncordon")
    click.echo(f"node/{name} uncordoned")


@node.command("remove")
@click.argument("name")
@click.option("--force", is_flag=True, help="Although instances or volumes are on it: they are lost to the cluster.")
@talks
def remove(session: Session, name: str, force: bool) -> None:
    """Take a node out of the cluster and refuse its certificates everywhere. Drain it first.

    Where the machine still runs, 'kat-agent reset' there stops what it runs and leaves nothing behind.
    """
    session.client.request("DELETE", at("nodes", name), params={"force": force})
    click.echo(f"node/{name} removed")
    click.echo("where that machine still runs, 'kat-agent reset' cleans it up", err=True)


@node.command("label")
@click.argument("name")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
@talks
def label(session: Session, name: str, changes: tuple[str, ...]) -> None:
    """Set labels of a node (KEY=VALUE), or remove them (KEY-). What runs there already stays."""
    labels: dict[str, str | None] = {}
    for text in changes:
        key, equals, value = text.partition("=")
        if not equals and not text.endswith("-"):
            raise UsageError(f"'{text}' is neither KEY=VALUE nor KEY-")
        labels[key if equals else text[:-1]] = value if equals else None
    session.client.request("PATCH", at("nodes", name), body=json.dumps({"labels": labels}).encode())
    click.echo(f"node/{name} labelled")


@node.command("taint")
@click.argument("name")
@click.argument("changes", nargs=-1, required=True, metavar="KEY[=VALUE]:EFFECT|KEY[:EFFECT]-...")
@talks
def taint(session: Session, name: str, changes: tuple[str, ...]) -> None:
    """Keep instances away that do not tolerate it, or stop doing so (with a final -).

    EFFECT is NoSchedule, PreferNoSchedule, or NoExecute, which also moves away what runs there.
    """
    item = session.client.get("nodes", name)
    taints = changed_taints(item["record"].get("taints", []), changes)
    session.client.request(
        "PATCH",
        at("nodes", name),
        body=json.dumps({"taints": taints}).encode(),
        headers={"If-Match": f'"{item["etag"]}"'},
    )
    click.echo(f"node/{name} tainted")


def changed_taints(taints: list[dict[str, str]], changes: tuple[str, ...]) -> list[dict[str, str]]:
    """Give a node's taints after the changes; raises ``UsageError`` for one that cannot be read."""
    found = {(each["key"], each["effect"]): each for each in taints}
    for text in changes:
        head, _, effect = text.removesuffix("-").partition(":")
        key, _, value = head.partition("=")
        if not key or (effect or "NoSchedule") not in EFFECTS or (not effect and not text.endswith("-")):
            raise UsageError(f"'{text}' is no taint: write KEY=VALUE:EFFECT with {', '.join(EFFECTS)}, or KEY-")
        if not text.endswith("-"):
            found[key, effect] = {"key": key, "value": value, "effect": effect}
            continue
        gone = [place for place in found if place[0] == key and effect in ("", place[1])]
        if not gone:
            raise NotFound(f"the node has no taint '{text.removesuffix('-')}'")
        for place in gone:
            del found[place]
    return list(found.values())
