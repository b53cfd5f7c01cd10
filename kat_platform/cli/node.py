"""node: look at nodes, and keep instances off them."""

from __future__ import annotations

import click

from kat_platform.cli import render
from kat_platform.cli.describe import show_node
from kat_platform.cli.resources import find_kind
from kat_platform.cli.session import Session, talks
from kat_platform.errors import NotSupportedYet


@click.group("node")
def node() -> None:
    """Look at nodes, and keep instances off them."""


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


@node.command("drain", hidden=True)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def drain(words: tuple[str, ...]) -> None:
    """Say that this is not here yet."""
    raise NotSupportedYet("'katcall node drain' is not supported yet by this version", hint="katcall node cordon is")


@node.command("remove", hidden=True)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def remove(words: tuple[str, ...]) -> None:
    """Say that this is not here yet."""
    raise NotSupportedYet("'katcall node remove' is not supported yet by this version")
