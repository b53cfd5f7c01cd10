"""get (ls, ps): lists, single objects, and watches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from kat_platform.cli import render
from kat_platform.cli.client import at
from kat_platform.cli.follow import watch
from kat_platform.cli.resources import Kind, find_kind
from kat_platform.cli.session import Session, talks
from kat_platform.errors import NotFound, UsageError


@click.command("get")
@click.argument("kind", default="workloads")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="Objects of all namespaces.")
@click.option("-l", "--selector", default=None, help="Only objects with these labels: a=b,c!=d,e,!f.")
@click.option("-w", "--watch", "watching", is_flag=True, help="Go on and show changes as they come.")
@click.option("-o", "--output", default="table", help="table, wide, json, yaml, name or jsonpath=TEMPLATE.")
@talks
def get(
    session: Session,
    kind: str,
    names: tuple[str, ...],
    everywhere: bool,
    selector: str | None,
    watching: bool,
    output: str,
) -> None:
    """List workloads, instances, nodes, namespaces, events or revisions, or show some of them.

    KIND may be short (wl, in, no, ns, ev, rev), and KIND/NAME names one object. Revisions are those of a workload:
    get revisions WORKLOAD, or WORKLOAD/NUMBER for one.
    """
    render.check_format(output)
    if "/" in kind and not names:
        kind, _, name = kind.partition("/")
        names = (name,)
    found = find_kind(kind)
    if everywhere and names:
        raise UsageError("-A lists all namespaces: name an object together with its namespace (-n)")
    namespace = None if everywhere or not found.namespaced else session.namespace
    if watching:
        path, only = (_revisions(session, names), ()) if found.plural == "revisions" else (found.path(namespace), names)
        _watch(session, found, path, selector, only, output, everywhere)
        return
    items, one = read(session, found, namespace, names, selector)
    show(found, items, one, output, everywhere)


def _revisions(session: Session, names: tuple[str, ...]) -> str:
    if len(names) != 1:
        raise UsageError("revisions are those of one workload: katcall get revisions WORKLOAD")
    return at("namespaces", session.namespace, "workloads", names[0].partition("/")[0], "revisions")


def read(
    session: Session, kind: Kind, namespace: str | None, names: tuple[str, ...], selector: str | None
) -> tuple[list[Any], bool]:
    """Read the objects asked for, and tell whether it is one that was named."""
    client = session.client
    if kind.plural == "revisions":
        path = _revisions(session, names)
        number = names[0].partition("/")[2]
        if number:
            return [client.request("GET", f"{path}/{number}").data], True
        return sorted(client.request("GET", path).data["items"], key=lambda item: item["number"]), False
    if names:
        return [client.request("GET", kind.path(namespace, name)).data for name in names], len(names) == 1
    items = client.request("GET", kind.path(namespace), params={"labelSelector": selector}).data["items"]
    if kind.plural == "events":
        items.sort(key=lambda item: item["event"]["lastAt"])
    return items, False


def show(kind: Kind, items: list[Any], one: bool, output: str, everywhere: bool) -> None:
    """Print objects in the format asked for."""
    text = render.structured(output, items[0] if one else {"kind": "List", "items": items})
    if text is not None:
        click.echo(text)
        return
    if output == "name":
        for item in items:
            click.echo(f"{kind.singular}/{item['name']}")
        return
    if not items:
        click.echo(f"there are no {kind.plural}" + ("" if everywhere or not kind.namespaced else " here"), err=True)
        return
    wide = output == "wide"
    rows = [kind.row(item, wide=wide, with_namespace=everywhere) for item in items]
    click.echo(render.table(kind.header(wide=wide, with_namespace=everywhere), rows))


def _watch(
    session: Session,
    kind: Kind,
    path: str,
    selector: str | None,
    names: tuple[str, ...],
    output: str,
    everywhere: bool,
) -> None:
    """Show a row for each object, and one more for each change of it."""
    if output == "yaml":
        raise UsageError("a watch has no end, and YAML needs one: use -o json")
    wide = output == "wide"
    header = kind.header(wide=wide, with_namespace=everywhere)
    widths: list[int] = []
    for line in _lines(session, path, selector):
        item = line["object"]
        if names and item["name"] not in names:
            continue
        if output in ("json", "name") or output.startswith("jsonpath="):
            _program_line(kind, output, line)
            continue
        if not widths:
            widths = [len(name) for name in header]
            click.echo("  ".join(header))
        if line["type"] == "DELETED":
            row: tuple[str, ...] = (item["name"], *("-" for _ in header[2:]), "(gone)")
        else:
            row = kind.row(item, wide=wide, with_namespace=everywhere)
        widths = [max(a, len(b)) for a, b in zip(widths, row, strict=True)]
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def _program_line(kind: Kind, output: str, line: dict[str, Any]) -> None:
    if output == "json":
        click.echo(json.dumps(line))
    elif output == "name":
        click.echo(f"{kind.singular}/{line['object']['name']}")
    elif line["type"] != "DELETED":
        click.echo(render.structured(output, line["object"]))


def _lines(session: Session, path: str, selector: str | None) -> Iterator[dict[str, Any]]:
    for line in watch(session.client, path, {"labelSelector": selector}):
        if line["type"] != "BOOKMARK":
            yield line


def need_workload(session: Session, name: str) -> Any:
    """Get a workload; says which there are when there is none such."""
    try:
        return session.client.get("namespaces", session.namespace, "workloads", name)
    except NotFound as error:
        items = session.client.get("namespaces", session.namespace, "workloads")["items"]
        names = ", ".join(item["name"] for item in items[:10])
        raise NotFound(error.message, hint=f"there are: {names}" if names else "katcall get workloads -A") from None
