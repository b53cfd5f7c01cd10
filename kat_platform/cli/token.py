"""token: bearer tokens for people and programs that talk to the API."""

from __future__ import annotations

import time

import click

from kat_platform.cli import render
from kat_platform.cli.session import Duration, Session, talks
from kat_platform.errors import NotSupportedYet


@click.group("token")
def token() -> None:
    """Make and withdraw API tokens. Tokens by which machines join come with a later version."""


@token.command("create")
@click.option("--user", "--name", "user", help="Who will use it; appears in the audit log.")
@click.option("--role", default="view", show_default=True, help="admin, edit or view.")
@click.option("--for-namespace", "namespaces", multiple=True, help="Only in this namespace (repeatable).")
@click.option("--ttl", type=Duration(), default="8h", show_default=True, help="How long it is valid.")
@click.option("--uses", hidden=True)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@talks
def create(
    session: Session,
    user: str | None,
    role: str,
    namespaces: tuple[str, ...],
    ttl: float,
    uses: str | None,
    output: str,
) -> None:
    """Make an API token and print it: the only time it is shown.

    Use it as 'Authorization: Bearer TOKEN', or put it into a context of katcall.
    """
    if role in ("worker", "control-plane") or uses is not None:
        raise NotSupportedYet(
            "tokens by which machines join the cluster are not supported yet by this version",
            hint="katcall token create --user NAME --role admin|edit|view makes a token for the API",
        )
    if user is None:
        raise click.UsageError("name who will use it: --user NAME")
    body = {"name": user, "role": role, "namespaces": list(namespaces), "ttlSeconds": ttl}
    made = session.client.post("tokens", body=body)
    if output == "json":
        click.echo(render.as_json(made))
        return
    click.echo(made["token"])
    click.echo(
        f"token {made['id']} of {user}, role {role}, valid for {render.span(ttl)}; it is not shown again", err=True
    )


@token.command("ls")
@click.option("-o", "--output", default="table", help="table, json, yaml, name or jsonpath=TEMPLATE.")
@talks
def ls(session: Session, output: str) -> None:
    """List API tokens; never the tokens themselves."""
    render.check_format(output)
    items = session.client.get("tokens")["items"]
    text = render.structured(output, {"kind": "List", "items": items})
    if text is not None:
        click.echo(text)
        return
    if output == "name":
        click.echo("\n".join(f"token/{item['id']}" for item in items))
        return
    now = time.time()
    rows = [
        (
            item["id"],
            item["identity"],
            ", ".join(f"{space}:{role}" for space, role in item["bindings"].items()),
            _left(item.get("expiresAt"), now),
        )
        for item in items
    ]
    click.echo(render.table(("ID", "USER", "ROLES", "EXPIRES"), rows))


@token.command("rm")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@talks
def rm(session: Session, ids: tuple[str, ...]) -> None:
    """Withdraw API tokens at once."""
    from kat_platform.cli.client import at

    for each in ids:
        session.client.request("DELETE", at("tokens", each))
        click.echo(f"token/{each} withdrawn")


def _left(expires: float | None, now: float) -> str:
    if expires is None:
        return "never"
    return f"in {render.span(expires - now)}" if expires > now else "expired"
