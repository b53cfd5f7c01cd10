"""delete: workloads and namespaces, and waiting until they are gone."""

from __future__ import annotations

import click

from kat_platform.cli.apply import read_source
from kat_platform.cli.client import at
from kat_platform.cli.resources import find_kind
from kat_platform.cli.session import Duration, Session, talks
from kat_platform.errors import NotFound, UsageError


@click.command("delete")
@click.argument("targets", metavar="[KIND] NAME...", nargs=-1)
@click.option("-f", "--file", "source", help="Delete what this Quadlet (folder or file) describes.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until everything is gone.")
@click.option("--timeout", type=Duration(), default="2m", show_default=True, help="How long to wait at most.")
@click.option("--ignore-not-found", is_flag=True, help="It is no failure if there is nothing to delete.")
@talks
def delete(
    session: Session, targets: tuple[str, ...], source: str | None, wait: bool, timeout: float, ignore_not_found: bool
) -> None:
    """Delete workloads: delete workload NAME..., or delete NAMESPACE with 'namespace NAME'.

    Instances are stopped within their grace; their addresses and the virtual IP become free. Volumes are kept.
    """
    if (source is None) == (not targets):
        raise UsageError("name what to delete: katcall delete workload NAME, or -f FOLDER")
    found = _from_files(source) if source is not None else _from_words(session, targets)
    missing: list[NotFound] = []
    for kind, namespace, name in found:
        try:
            _delete(session, kind, namespace, name, wait, timeout)
        except NotFound as error:
            if not ignore_not_found:
                missing.append(error)
    if missing:
        raise missing[0]


def _from_words(session: Session, words: tuple[str, ...]) -> list[tuple[str, str, str]]:
    first, rest = words[0], words[1:]
    pairs = [word.split("/", 1) for word in words] if "/" in first else [[first, name] for name in rest]
    if not pairs:
        raise UsageError(f"delete which {first}? katcall delete {first} NAME")
    found: list[tuple[str, str, str]] = []
    for pair in pairs:
        if len(pair) != 2:
            raise UsageError(f"'{pair[0]}' has no kind: write KIND/NAME for each, or the kind once and then names")
        kind = find_kind(pair[0]).plural
        if kind not in ("workloads", "namespaces"):
            raise UsageError(f"{kind} cannot be deleted: they follow from workloads")
        found.append((kind, session.namespace if kind == "workloads" else "", pair[1]))
    return found


def _from_files(source: str) -> list[tuple[str, str, str]]:
    from kat_platform.quadlet.archive import unpack
    from kat_platform.quadlet.parser import parse_quadlet

    given = read_source(source)
    quadlet = parse_quadlet(unpack(given) if isinstance(given, bytes) else given)
    found: list[tuple[str, str, str]] = []
    if quadlet.workload is not None:
        found.append(("workloads", quadlet.workload.metadata.namespace, quadlet.workload.metadata.name))
    found += [("namespaces", "", namespace.metadata.name) for namespace in quadlet.namespaces]
    if not found:
        raise UsageError(f"'{source}' describes nothing that can be deleted")
    return found


def _delete(session: Session, kind: str, namespace: str, name: str, wait: bool, timeout: float) -> None:
    client = session.client
    if kind == "namespaces":
        client.request("DELETE", at("namespaces", name))
        click.echo(f"namespace/{name} deleted")
        return
    client.request("DELETE", at("namespaces", namespace, "workloads", name))
    if not wait:
        click.echo(f"workload/{name} is being deleted")
        return
    from kat_platform.cli.progress import gone, wait_for

    wait_for(client, namespace, name, gone, what="gone", timeout=timeout)
    click.echo(f"workload/{name} deleted")
