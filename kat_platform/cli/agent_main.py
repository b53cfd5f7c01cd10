"""kat-agent: the daemon's command line. Few commands, each says what it does and what to do next."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from kat_platform import __version__
from kat_platform.cli.endpoint import endpoint
from kat_platform.cli.leave import leave
from kat_platform.errors import KatError, UsageError

if TYPE_CHECKING:
    from kat_platform.agent.local import Places
    from kat_platform.model.cluster import ClusterConfiguration

DEFAULT_DATA_PATH: Final = "/var/lib/kat"

_data_path = click.option(
    "--data-path",
    envvar="KAT_DATA_PATH",
    type=click.Path(path_type=Path),
    default=None,
    help=f"Folder of the node's own files. Default: {DEFAULT_DATA_PATH}, or dataPath of --config.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Run this machine as a node of a KAT cluster."""
    from kat_platform.observability.logging import configure

    configure(level=os.environ.get("KAT_LOG", "warning"))


@cli.command()
@click.option("--config", "config", type=click.Path(path_type=Path), help="cluster.kat to check the host for.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def check(config: Path | None, output: str) -> None:
    """Tell whether this host can run KAT, and what to install or change if not."""
    from kat_platform.agent.bootstrap import check_host

    results = asyncio.run(check_host(_configuration(config)))
    if output == "json":
        rows = [
            {"name": r.name, "ok": r.ok, "required": r.required, "message": r.message, "remedy": r.remedy}
            for r in results
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        for result in results:
            mark = "ok  " if result.ok else "FAIL" if result.required else "warn"
            click.echo(f"{mark}  {result.name}: {result.message}")
            if not result.ok and result.remedy:
                click.echo(f"      → {result.remedy}")
    if any(result.required and not result.ok for result in results):
        sys.exit(1)


@cli.command()
@click.option("--config", "config", type=click.Path(path_type=Path), help="cluster.kat of the new cluster.")
@click.option("--name", "name", help="Name of this node. Default: the host's name.")
@_data_path
def init(config: Path | None, name: str | None, data_path: Path | None) -> None:
    """Make this machine the first node of a new cluster."""
    from kat_platform.agent.bootstrap import init as make
    from kat_platform.agent.local import Places
    from kat_platform.cli.context import add_context

    configuration = _configuration(config)
    places = Places(data_path or Path(configuration.spec.data_path))
    node_name = name or _host_name()
    made = asyncio.run(make(places, configuration, node_name))
    where = add_context(
        made.node.cluster_id, server=made.server, ca=made.ca, certificate=made.certificate, key=made.key
    )
    click.echo(f"initialised: node '{made.node.node_name}' of cluster '{made.node.cluster_id}' in {places.data}")
    click.echo(f"katcall's context is in {where}")
    click.echo("keep the recovery key away from this machine: 'kat-agent backup-key' prints it, and only with it can")
    click.echo("backups be opened when the machine is lost. What the volumes hold is not in them")
    click.echo("next: start the agent with 'kat-agent run' (or its systemd unit)")


@cli.command()
@click.argument("address")
@click.option("--token", required=True, envvar="KAT_JOIN_TOKEN", help="As printed by 'katcall token create'.")
@click.option("--name", "name", help="Name of this node. Default: the host's name.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label of this node (repeatable).")
@_data_path
def join(address: str, token: str, name: str | None, labels: tuple[str, ...], data_path: Path | None) -> None:
    """Make this machine a node of the cluster whose API is at ADDRESS (HOST or HOST:PORT)."""
    from kat_platform.agent.join import join as enter
    from kat_platform.agent.local import Places

    places = Places(_data(data_path))
    node = asyncio.run(enter(places, address, token.strip(), name or _host_name(), _labels(labels)))
    click.echo(
        f"joined: node '{node.node_name}' of cluster '{node.cluster_id}', role {node.role.value}, in {places.data}"
    )
    click.echo("next: start the agent with 'kat-agent run' (or its systemd unit)")


@cli.command()
@_data_path
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", envvar="KAT_LOG")
def run(data_path: Path | None, log_level: str) -> None:
    """Run the agent in the foreground until it is told to end. Containers go on without it."""
    from kat_platform.agent.daemon import run_daemon
    from kat_platform.observability.logging import configure

    configure(level=log_level)
    try:
        run_daemon(_data(data_path), loop_factory=_loop_factory())
    except ExceptionGroup as group:
        error = _first_of_ours(group)
        if error is None:
            raise
        raise error from None


@cli.command()
@click.option("--config", "config", type=click.Path(path_type=Path), required=True, help="The new cluster.kat.")
@_data_path
def configure(config: Path, data_path: Path | None) -> None:
    """Change the configuration while the agent is stopped, e.g. to get away from a plugin that does not start."""
    from kat_platform.agent.local import Places, load_node
    from kat_platform.agent.settings import refuse_fixed_changes
    from kat_platform.pki.files import write_whole

    places = Places(_data(data_path))
    node = load_node(places)
    fresh = _configuration(config)
    refuse_fixed_changes(node.configuration, fresh)
    write_whole(places.pending, fresh.to_json())
    click.echo("the agent takes this configuration into use at its next start, and then the cluster's is the same")


@cli.command("backup-key")
@_data_path
def backup_key(data_path: Path | None) -> None:
    """Print the recovery key, which opens this cluster's backups. Control-plane nodes only."""
    from kat_platform.agent.local import Places, load_node
    from kat_platform.agent.recover import recovery_key

    places = Places(_data(data_path))
    key = recovery_key(load_node(places), places)
    click.echo(key.text)
    click.echo(
        f"recovery key {key.id}: opens the cluster's backups, so keep it secret, and away from the machines", err=True
    )


@cli.command()
@click.option("--force-new-cluster", is_flag=True, help="Go on alone, with the state as this node has it.")
@click.option("--from-backup", type=click.Path(path_type=Path, dir_okay=False), help="Go on with this archive.")
@click.option("--key-file", type=click.Path(path_type=Path), help="File with the recovery key; - reads stdin.")
@click.option("--name", help="On an empty machine: which lost control-plane node it is. Default: who made the archive.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_data_path
def recover(
    force_new_cluster: bool,
    from_backup: Path | None,
    key_file: Path | None,
    name: str | None,
    yes: bool,
    data_path: Path | None,
) -> None:
    """Bring the control plane back when most of its nodes, or all, are lost for good. The agent must be stopped."""
    from kat_platform.agent.local import Places

    places = Places(_data(data_path))
    if force_new_cluster is (from_backup is not None):
        raise UsageError(
            "say how: --force-new-cluster makes this node go on alone, with the state as it has it;"
            " --from-backup FILE goes on with a backup"
        )
    if from_backup is not None:
        _recover_from_backup(places, from_backup, key_file, name, yes)
        return
    if key_file is not None or name is not None:
        raise UsageError("--key-file and --name go with --from-backup")
    _recover_alone(places, yes)


def _recover_alone(places: Places, yes: bool) -> None:
    from kat_platform.agent.local import load_node
    from kat_platform.agent.recover import recover as go_on_alone
    from kat_platform.agent.recover import refuse_unfit

    node = load_node(places)
    refuse_unfit(node)
    _confirm(
        yes,
        f"Make '{node.node_name}' the only control-plane node?",
        "What only the lost control-plane nodes had acknowledged is gone after this.",
        "They must never start again with their data: there would be two clusters.",
    )
    made = asyncio.run(go_on_alone(places))
    _tell_recovered(made.node, made.revision, made.lost)


def _recover_from_backup(places: Places, archive: Path, key_file: Path | None, name: str | None, yes: bool) -> None:
    from kat_platform.agent.restore import carry_out, plan
    from kat_platform.backup.key import RecoveryKey
    from kat_platform.cli.context import add_context

    key = None if key_file is None else RecoveryKey.decode(_text_of(key_file))
    wanted = asyncio.run(plan(places, archive, key, name))
    made_at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wanted.checked.header.created_at))
    _confirm(
        yes,
        f"Make this machine '{wanted.node.node_name}', the only control-plane node of '{wanted.node.cluster_id}'?",
        f"The archive is of {made_at}: what was changed in the cluster since then is gone after this.",
        "Lost control-plane nodes must never start again with their data: there would be two clusters.",
    )
    made = asyncio.run(carry_out(places, wanted))
    if made.aside is not None:
        click.echo(f"the store that was here is in {made.aside}")
    if made.access is not None:
        new = made.access
        where = add_context(new.node.cluster_id, server=new.server, ca=new.ca, certificate=new.certificate, key=new.key)
        click.echo(f"katcall's context is in {where}")
    _tell_recovered(made.node.node_name, made.settled.revision, made.settled.lost)


def _tell_recovered(node: str, revision: int, lost: tuple[str, ...]) -> None:
    click.echo(f"recovered: '{node}' is the only member of the store, at revision {revision}")
    click.echo("next: start the agent with 'kat-agent run' (or its systemd unit)")
    for name in lost:
        click.echo(f"then: katcall node remove {name} --force   (and 'kat-agent reset' on it, should it come back)")


def _confirm(yes: bool, question: str, *warnings: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("without a terminal nothing is changed unless --yes is given")
    for line in warnings:
        click.echo(line)
    click.confirm(question, abort=True)


def _text_of(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None


@cli.command()
@_data_path
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--delete-volumes", is_flag=True, help="Remove the volumes' data as well.")
def reset(data_path: Path | None, yes: bool, delete_volumes: bool) -> None:
    """Remove everything KAT made on this machine. Volumes stay unless --delete-volumes; backups stay always."""
    from kat_platform.agent.local import Places, load_node
    from kat_platform.agent.teardown import kept_paths
    from kat_platform.agent.teardown import reset as take_away
    from kat_platform.cli.context import remove_context

    places = Places(_data(data_path))
    node = load_node(places)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("without a terminal nothing is removed unless --yes is given")
        click.confirm(f"Remove node '{node.node_name}' with all its containers?", abort=True)
    backups = places.rebased(node.configuration.spec.backup_path, node.configuration.spec.data_path)
    problems = asyncio.run(take_away(places, keep_volumes=not delete_volumes, progress=click.echo))
    for problem in problems:
        click.echo(f"not removed: {problem}", err=True)
    if problems:
        click.echo("mend this and run 'kat-agent reset' again", err=True)
        sys.exit(1)
    remove_context(node.cluster_id)
    for path in kept_paths(places, node, keep_volumes=not delete_volumes):
        click.echo(f"kept: {path}")
        if path == backups:
            click.echo("      (opens only with the recovery key, which is not on this machine any more)")
    click.echo("nothing else of KAT is left on this machine")


@cli.command()
@_data_path
def context(data_path: Path | None) -> None:
    """Write katcall's administrator context anew, on a control-plane node: for when it was lost, or has ended."""
    from kat_platform.agent.bootstrap import administrator
    from kat_platform.agent.local import Places
    from kat_platform.cli.context import add_context

    made = administrator(Places(_data(data_path)))
    where = add_context(
        made.node.cluster_id, server=made.server, ca=made.ca, certificate=made.certificate, key=made.key
    )
    click.echo(f"katcall's context '{made.node.cluster_id}' is in {where}")


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(f"kat-agent {__version__}")


cli.add_command(leave)
cli.add_command(endpoint)


def _configuration(path: Path | None) -> ClusterConfiguration:
    from kat_platform.model.cluster import ClusterConfiguration
    from kat_platform.model.meta import Metadata
    from kat_platform.quadlet.parser import parse_cluster

    if path is None:
        return ClusterConfiguration(metadata=Metadata(name="cluster"))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    return parse_cluster(data, str(path))


def _labels(given: tuple[str, ...]) -> dict[str, str]:
    made = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"'{text}' is no label: write --label KEY=VALUE")
        made[key] = value
    return made


def _data(path: Path | None) -> Path:
    return path or Path(DEFAULT_DATA_PATH)


def _host_name() -> str:
    name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:63] or "node"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Use uvloop where it is installed: the name server answers about twice as fast with it."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _first_of_ours(group: BaseExceptionGroup[BaseException]) -> KatError | None:
    for error in group.exceptions:
        found = _first_of_ours(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, KatError):
            return found
    return None


def main() -> None:
    """Run ``kat-agent``; errors of KAT's become one clear line and an exit code."""
    try:
        cli(standalone_mode=False)
    except KatError as error:
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(f"       {error.hint}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("aborted: nothing more is done", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2 if isinstance(error, click.UsageError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
