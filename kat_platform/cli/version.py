"""version: of client and server."""

from __future__ import annotations

import click

import kat_platform
from kat_platform.cli.session import Session, talks
from kat_platform.errors import KatError


@click.command("version")
@click.option("--client", "only_client", is_flag=True, help="Only katcall's own version; needs no cluster.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@talks
def version(session: Session, only_client: bool, output: str) -> None:
    """Print the versions of client and server."""
    found = {"client": kat_platform.__version__}
    failure: KatError | None = None
    if not only_client:
        try:
            found["server"] = session.client.get("version")["version"]
            _warn(found["client"], found["server"])
        except KatError as error:
            failure = error
    if output == "json":
        from kat_platform.cli.render import as_json

        click.echo(as_json(found))
    else:
        for part, number in found.items():
            click.echo(f"{part}: {number}")
    if failure is not None:
        raise failure


def _warn(client: str, server: str) -> None:
    from kat_platform.model.version import read_version, work_together

    if not work_together(server, client):
        text = f"warning: katcall {client} and a server of {server} are more than one minor version apart"
        click.echo(f"{text}: install kat {read_version(server)} here", err=True)
