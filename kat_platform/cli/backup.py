"""backup: make, list, try and fetch backups of the cluster's state. Archives lie on control-plane nodes."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kat_platform.cli import render
from kat_platform.cli.session import Session, talks
from kat_platform.errors import KatError, NotFound, Unauthenticated, Unavailable, UsageError

if TYPE_CHECKING:
    from kat_platform.cli.client import Client

LONG_SECONDS: Final = 600.0
"""How long a backup, or a trial of one, may take."""


@click.group("backup")
def backup() -> None:
    """Make, list, try and fetch backups. What is in them: docs/recovery.md."""


@backup.command("create")
@click.option("-o", "output", type=click.Path(path_type=Path), help="Also fetch the archive into this file.")
@talks
def create(session: Session, output: Path | None) -> None:
    """Make a backup now, on the control-plane node that answers; it has been read back when this ends."""
    from kat_platform.cli.client import at

    _refuse_existing(output)
    made = session.client.request("POST", at("backups"), body=b"{}", timeout=LONG_SECONDS).data
    click.echo(f"backup/{made['name']} made on node {made['node']}, {made['size']} bytes, read back and found good")
    if output is not None:
        _fetch(_having(session.client, made["name"]), made["name"], output)


@backup.command("ls")
@click.option("-o", "--output", default="table", help="table, json, yaml, name or jsonpath=TEMPLATE.")
@talks
def ls(session: Session, output: str) -> None:
    """List the backups on every control-plane node that this context knows and that answers."""
    render.check_format(output)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for answer in _listed(session.client):
        found.update({(item["node"], item["name"]): item for item in answer["items"]})
    items = sorted(found.values(), key=lambda item: (item["createdAt"], item["node"]))
    text = render.structured(output, {"kind": "List", "items": items})
    if text is not None:
        click.echo(text)
    elif output == "name":
        click.echo("\n".join(f"backup/{item['name']}" for item in items))
    else:
        now = time.time()
        rows = [
            (
                item["name"],
                item["node"],
                render.span(now - item["createdAt"]),
                f"{item['size'] / 1024:.0f} KiB",
                str(item["revision"]),
                item["version"],
                item["keyId"],
            )
            for item in items
        ]
        click.echo(render.table(("NAME", "NODE", "AGE", "SIZE", "REVISION", "VERSION", "KEY"), rows))


@backup.command("verify")
@click.argument("name")
@talks
def verify(session: Session, name: str) -> None:
    """Try a backup: restore it into a store of its own beside the running one, and compare what is in it."""
    from kat_platform.cli.client import at

    name = name.removeprefix("backup/")
    client = _having(session.client, name)
    found = client.request("POST", at("backups", name, "verify"), body=b"{}", timeout=LONG_SECONDS).data
    how = "all of them compared" if found["exact"] else "counted; the state changed while it was made"
    click.echo(
        f"backup/{name} is good: restored on node {found['node']} in {found['seconds']:.1f} s,"
        f" {found['keys']} keys ({how}), revision {found['revision']}"
    )


@backup.command("download")
@click.argument("name")
@click.option("-o", "output", type=click.Path(path_type=Path), help="File to write. Default: NAME.katbackup here.")
@talks
def download(session: Session, name: str, output: Path | None) -> None:
    """Fetch a sealed archive, to keep it away from the machines. It is of no use without the recovery key."""
    name = name.removeprefix("backup/")
    output = output or Path(f"{name}.katbackup")
    _refuse_existing(output)
    _fetch(_having(session.client, name), name, output)


def _everywhere(client: Client) -> Iterator[tuple[Client, dict[str, Any] | KatError]]:
    """Ask every server for what lies on its node, side by side, so that all that are dead are waited for only once.

    Gives the answers as they come, each with a client of that server alone, and why one gave none. Raises what went
    wrong elsewhere, and what the last one says when nobody can be spoken with. The threads end with the process.
    """
    import queue
    import threading

    from kat_platform.cli.client import Client

    found: queue.SimpleQueue[tuple[Client, dict[str, Any] | Exception]] = queue.SimpleQueue()

    def ask(one: Client) -> None:
        try:
            found.put((one, one.get("backups")))
        except Exception as error:  # raised where it is waited for
            found.put((one, error))

    for server in client.context.servers:
        one = Client(replace(client.context, servers=(server,)))
        threading.Thread(target=ask, args=(one,), name=f"backups-{server}", daemon=True).start()
    answered = False
    for left in reversed(range(len(client.context.servers))):
        one, answer = found.get()
        if not isinstance(answer, Exception):
            answered = True
        elif not isinstance(answer, Unavailable | Unauthenticated) or not (left or answered):
            raise answer
        yield one, answer


def _listed(client: Client) -> Iterator[dict[str, Any]]:
    """Give what every server lists, in the order of the servers; says who did not answer."""
    found = {one.context.servers[0]: answer for one, answer in _everywhere(client)}
    for server in client.context.servers:
        answer = found[server]
        if isinstance(answer, KatError):
            click.echo(f"not listed: {answer.message}", err=True)
        else:
            yield answer


def _having(client: Client, name: str) -> Client:
    """Find the server on whose node a backup lies; raises ``NotFound``."""
    for one, answer in _everywhere(client):
        if not isinstance(answer, KatError) and any(item["name"] == name for item in answer["items"]):
            return one
    raise NotFound(f"there is no backup '{name}' on a node that answers", hint="katcall backup ls lists them")


def _refuse_existing(output: Path | None) -> None:
    if output is not None and output.exists():
        raise UsageError(f"{output} exists already: choose another file")


def _fetch(client: Client, name: str, output: Path) -> None:
    """Write an archive whole or not at all, for its owner only."""
    from kat_platform.cli.client import at

    draft = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        with open(draft, "wb", opener=lambda path, flags: os.open(path, flags | os.O_EXCL, 0o600)) as file:
            size = client.download(at("backups", name, "content"), file, timeout=LONG_SECONDS)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(output)
    except OSError as error:
        raise KatError(f"cannot write {output}: {error.strerror or error}") from None
    finally:
        draft.unlink(missing_ok=True)
    click.echo(f"{output}: {size} bytes; it opens only with the recovery key (kat-agent backup-key)")
