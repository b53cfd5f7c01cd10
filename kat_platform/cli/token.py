"""token: bearer tokens for people and programs that talk to the API, and tokens by which machines join."""

from __future__ import annotations

import time
from typing import Any, Final

import click

from kat_platform.cli import render
from kat_platform.cli.session import Duration, Session, talks

JOIN_ROLES: Final = ("worker", "control-plane")


@click.group("token")
def token() -> None:
    """Make and withdraw tokens: of the API (for people and programs), and to join machines."""


@token.command("create")
@click.option("--user", "--name", "user", help="Who will use it; appears in the audit log.")
@click.option(
    "--role", default="view", show_default=True, help="admin, edit or view; worker or control-plane to join a machine."
)
@click.option("--for-namespace", "namespaces", multiple=True, help="Only in this namespace (repeatable).")
@click.option("--ttl", type=Duration(), help="How long it is valid. Default: 8h, or 1h to join a machine.")
@click.option("--uses", type=click.IntRange(min=1), help="How many machines may join with it. Default: 1.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@talks
def create(
    session: Session,
    user: str | None,
    role: str,
    namespaces: tuple[str, ...],
    ttl: float | None,
    uses: int | None,
    output: str,
) -> None:
    """Make a token and print it: the only time it is shown.

    With --user NAME --role admin|edit|view it is for the API: use it as 'Authorization: Bearer TOKEN', or put it into
    a context of katcall. With --role worker|control-plane it joins a machine: paste the line that is printed there.
    """
    if role in JOIN_ROLES:
        if user is not None or namespaces:
            raise click.UsageError(f"a token of role {role} joins a machine: it has no --user and no --for-namespace")
        _join_token(session, role, 3600.0 if ttl is None else ttl, uses or 1, output)
        return
    if uses is not None:
        raise click.UsageError("--uses is for tokens that join machines: --role worker or --role control-plane")
    if user is None:
        raise click.UsageError("name who will use it: --user NAME; or to join a machine: --role worker")
    ttl = 8 * 3600.0 if ttl is None else ttl
    body = {"name": user, "role": role, "namespaces": list(namespaces), "ttlSeconds": ttl}
    made = session.client.post("tokens", body=body)
    if output == "json":
        click.echo(render.as_json(made))
        return
    click.echo(made["token"])
    click.echo(
        f"token {made['id']} of {user}, role {role}, valid for {render.span(ttl)}; it is not shown again", err=True
    )


def _join_token(session: Session, role: str, ttl: float, uses: int, output: str) -> None:
    made = session.client.post("join-tokens", body={"role": role, "ttlSeconds": ttl, "uses": uses})
    if output == "json":
        click.echo(render.as_json(made))
        return
    server = next(iter(made["servers"]), session.client.context.servers[0]).removeprefix("https://")
    click.echo(f"kat-agent join {server} --token {made['token']}")
    machines = "one machine" if uses == 1 else f"{uses} machines"
    click.echo(
        f"token {made['id']} joins {machines} as {role}, valid for {render.span(ttl)}; it is not shown again", err=True
    )


@token.command("ls")
@click.option("-o", "--output", default="table", help="table, json, yaml, name or jsonpath=TEMPLATE.")
@talks
def ls(session: Session, output: str) -> None:
    """List tokens; never the tokens themselves."""
    render.check_format(output)
    items = [*session.client.get("tokens")["items"], *session.client.get("join-tokens")["items"]]
    text = render.structured(output, {"kind": "List", "items": items})
    if text is not None:
        click.echo(text)
        return
    if output == "name":
        click.echo("\n".join(f"token/{item['id']}" for item in items))
        return
    now = time.time()
    rows = [(item["id"], item["kind"], *_for_whom(item), _left(item.get("expiresAt"), now)) for item in items]
    click.echo(render.table(("ID", "KIND", "FOR", "ROLES", "EXPIRES"), rows))


def _for_whom(item: dict[str, Any]) -> tuple[str, str]:
    if item["kind"] == "JoinToken":
        left = item["usesLeft"]
        if item.get("former"):
            return "nobody: it is for the former CA", item["role"]
        return (f"{left} machine{'' if left == 1 else 's'}" if left else "used up"), item["role"]
    return item["identity"], ", ".join(f"{space}:{role}" for space, role in item["bindings"].items())


@token.command("rm")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@talks
def rm(session: Session, ids: tuple[str, ...]) -> None:
    """Withdraw tokens at once."""
    from kat_platform.cli.client import at

    joining = {item["id"] for item in session.client.get("join-tokens")["items"]}
    for each in ids:
        session.client.request("DELETE", at("join-tokens" if each in joining else "tokens", each))
        click.echo(f"token/{each} withdrawn")


def _left(expires: float | None, now: float) -> str:
    if expires is None:
        return "never"
    return f"in {render.span(expires - now)}" if expires > now else "expired"
