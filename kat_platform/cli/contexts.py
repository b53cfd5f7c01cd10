"""context: which cluster katcall talks to."""

from __future__ import annotations

import click

from kat_platform.cli import context as kept
from kat_platform.cli import render


@click.group("context")
def context() -> None:
    """Choose the cluster to talk to."""


@context.command("ls")
@click.option("-o", "--output", type=click.Choice(["table", "json", "name"]), default="table")
def ls(output: str) -> None:
    """List the contexts; the current one is marked."""
    current, contexts = kept.load_all()
    if output == "json":
        items = [_shown(each, each.name == current) for each in contexts.values()]
        click.echo(render.as_json({"kind": "List", "items": items}))
    elif output == "name":
        click.echo("\n".join(contexts))
    elif not contexts:
        click.echo(f"there are no contexts in {kept.path()}: 'kat-agent init' makes one", err=True)
    else:
        rows = [
            ("*" if each.name == current else "", each.name, each.namespace, ", ".join(each.servers))
            for each in contexts.values()
        ]
        click.echo(render.table(("", "NAME", "NAMESPACE", "SERVERS"), rows))


@context.command("use")
@click.argument("name")
@click.option("-n", "--namespace", help="Namespace this context begins with from now on.")
def use(name: str, namespace: str | None) -> None:
    """Make NAME the current context."""
    chosen = kept.use(name, namespace)
    click.echo(f"using context '{chosen.name}', namespace '{chosen.namespace}'")


@context.command("show")
@click.argument("name", required=False)
def show(name: str | None) -> None:
    """Show a context (the current one), without its keys."""
    current, _ = kept.load_all()
    chosen = kept.load(name)
    click.echo(render.as_json(_shown(chosen, chosen.name == current)))


@context.command("refresh")
@click.argument("name", required=False)
def refresh(name: str | None) -> None:
    """Bring a context (the current one) up to date: whom it trusts, and its certificate.

    For when the cluster changes its CA, as long as both are trusted; see 'katcall ca status'.
    """
    from kat_platform.cli.client import Client
    from kat_platform.cli.refresh import refresh_context

    fresh = refresh_context(Client(kept.load(name)))
    also = " and has a new certificate" if fresh.key and not fresh.token else ""
    click.echo(f"context '{fresh.name}' trusts what its cluster trusts now{also}")


def _shown(each: kept.Context, current: bool) -> dict[str, object]:
    method = "token" if each.token else "certificate" if each.key else "none"
    return {
        "name": each.name,
        "current": current,
        "servers": list(each.servers),
        "namespace": each.namespace,
        "credential": method,
    }
