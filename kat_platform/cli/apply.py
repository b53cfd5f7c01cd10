"""apply and diff: send a Quadlet, show what it changes, and wait until it is so."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from kat_platform.cli import render
from kat_platform.cli.client import Client, at
from kat_platform.cli.session import Duration, Session, talks
from kat_platform.errors import InvalidInput, UsageError

_MARKS: Final = {"create": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red"), "none": ("=", "grey")}
_SHOWN: Final = 300

_file = click.option("-f", "--file", "source", help="Folder, .kat file, .tar.gz, or - for standard input.")
_place = click.argument("folder", required=False)


@click.command("apply")
@_place
@_file
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--wait", is_flag=True, help="Wait until everything is ready.")
@click.option("--timeout", type=Duration(), default="5m", show_default=True, help="How long to wait at most.")
@click.option("-o", "--output", default="table", help="table or json (the server's plan).")
@talks
def apply(
    session: Session, folder: str | None, source: str | None, dry_run: bool, wait: bool, timeout: float, output: str
) -> None:
    """Create or change a workload from the Quadlet in FOLDER (or -f), and show what that changes.

    A cluster.kat changes the cluster's configuration instead.
    """
    if output not in ("table", "json"):
        raise UsageError(f"'{output}' is no output format of apply: use table or json")
    answer = send(session.client, read_source(source or folder, session.given_namespace), dry_run=dry_run)
    if output == "json":
        click.echo(render.as_json(answer))
    else:
        show_plan(answer)
    if wait and not dry_run and answer.get("workload"):
        from kat_platform.cli.progress import rolled_out, wait_for

        name, namespace = answer["workload"], answer["namespace"]
        done = rolled_out(answer["revision"], answer["generation"])
        picture = wait_for(session.client, namespace, name, done, what="ready", timeout=timeout)
        item = picture.workload or {}
        where = f" at {item['virtualIp']}" if item.get("virtualIp") else ""
        click.echo(f"{namespace}/{name} is ready: {item['summary']['ready']} instances{where}", err=output == "json")


@click.command("diff")
@_place
@_file
@talks
def diff(session: Session, folder: str | None, source: str | None) -> int:
    """Show what applying FOLDER (or -f) would change. Exit code 0: nothing, 1: something."""
    answer = send(session.client, read_source(source or folder, session.given_namespace), dry_run=True)
    changes = [entry for entry in answer["plan"] if entry["action"] != "none"]
    if changes:
        show_plan(answer)
    return 1 if changes else 0


def read_source(source: str | None, namespace: str | None = None) -> Mapping[str, bytes] | bytes:
    """Read what to apply: files by name, or an archive as it is. Raises ``UsageError`` or ``InvalidInput``."""
    if namespace is not None:
        raise UsageError(
            "-n has no meaning here: a Quadlet says itself which namespace it is for",
            hint="set metadata.namespace in its documents",
        )
    if source is None:
        raise UsageError("name a folder: katcall apply FOLDER, or -f FILE")
    if source == "-":
        data = sys.stdin.buffer.read()
        return data if data.startswith(b"\x1f\x8b") else {"workload.kat": data}
    path = Path(source)
    try:
        if path.is_dir():
            from kat_platform.quadlet.archive import read_folder

            return read_folder(path)
        if not path.exists():
            raise UsageError(f"there is no file or folder '{source}'")
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"'{source}' cannot be read: {error.strerror}") from None
    if data.startswith(b"\x1f\x8b"):
        return data
    name = path.name if path.name.endswith(".kat") else f"{path.stem}.kat"
    return {name: data}


def send(client: Client, source: Mapping[str, bytes] | bytes, *, dry_run: bool) -> dict[str, Any]:
    """Send a Quadlet, or a cluster.kat, and give the server's plan."""
    params = {"dryRun": dry_run}
    if isinstance(source, bytes):
        archive = source
    elif _is_cluster(source):
        from kat_platform.quadlet.parser import parse_cluster

        [(name, content)] = source.items()
        document = parse_cluster(content, name)
        answer: dict[str, Any] = client.request("PUT", at("configuration"), params=params, body=document.to_json()).data
        return answer
    else:
        from kat_platform.quadlet.archive import pack_files

        archive = pack_files(source)
    answer = client.request("POST", at("apply"), params=params, body=archive).data
    return answer


def _is_cluster(files: Mapping[str, bytes]) -> bool:
    if list(files) == ["cluster.kat"]:
        return True
    return len(files) == 1 and any(
        line.strip() == b"kind: ClusterConfiguration" for line in next(iter(files.values())).splitlines()
    )


def show_plan(answer: Mapping[str, Any]) -> None:
    """Print a plan: an object a line, and below it each field that changes."""
    shown: set[tuple[str, str, str]] = set()
    for entry in answer["plan"]:
        place = (entry["kind"], entry.get("namespace", ""), entry["name"])
        name = "/".join(part for part in place[1:] if part)
        if not entry.get("path"):
            mark, colour = _MARKS[entry["action"]]
            unchanged = " (unchanged)" if entry["action"] == "none" else ""
            click.echo(render.paint(f"{mark} {place[0]} {name}{unchanged}", colour))
            continue
        if place not in shown:
            shown.add(place)
            click.echo(render.paint(f"~ {place[0]} {name}", "yellow"))
        mark, colour = _MARKS[entry["action"]]
        click.echo("    " + render.paint(f"{mark} {entry['path']}: {_values(entry)}", colour))
    for warning in answer.get("warnings", ()):
        click.echo(f"warning: {render.clean(warning)}", err=True)
    if answer.get("dryRun"):
        click.echo("nothing was changed (dry run)", err=True)


def _values(entry: Mapping[str, Any]) -> str:
    before, after = _value(entry.get("before")), _value(entry.get("after"))
    if entry["action"] == "create":
        return after
    return before if entry["action"] == "remove" else f"{before} -> {after}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value)
    text = render.clean(text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
