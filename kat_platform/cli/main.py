"""katcall: the command line of a KAT cluster. Finds the command, runs it, and makes an exit code of what went wrong."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from kat_platform.cli.session import GlobalOptions
from kat_platform.errors import KatError, NotSupportedYet

COMMANDS: Final = {
    "apply": ("apply", "Create or change a workload from its Quadlet."),
    "diff": ("apply", "Show what an apply would change."),
    "lint": ("lint", "Check Quadlets without a cluster."),
    "get": ("get", "List objects, or show one."),
    "describe": ("describe", "Show an object with everything around it."),
    "delete": ("delete", "Delete workloads and namespaces."),
    "logs": ("logs", "Show the output of instances."),
    "exec": ("execute", "Run a command in an instance."),
    "scale": ("scale", "Set the number of a workload's instances."),
    "restart": ("scale", "Replace every instance of a workload."),
    "rollout": ("rollout", "Watch, hold and undo changes of a workload."),
    "rollback": ("rollout", "Go back to an older revision."),
    "events": ("events", "Show what happened, and why."),
    "why": ("why", "Show why instances go where they go, or nowhere."),
    "wait": ("wait", "Wait until a workload is ready or gone."),
    "ports": ("ports", "Show what is reachable from where."),
    "explain": ("explain", "Say what a field of a document means."),
    "node": ("node", "Look at nodes, and keep instances off them."),
    "plugin": ("plugin", "Look at plugins, and check them."),
    "backup": ("backup", "Make, list, try and fetch backups of the cluster's state."),
    "token": ("token", "Make and withdraw tokens: of the API, and to join machines."),
    "ca": ("ca", "Look at the cluster's CA, and change it."),
    "context": ("contexts", "Choose the cluster to talk to."),
    "lab": ("lab", "Make a cluster of several nodes on this machine."),
    "completion": ("completion", "Print completion for a shell."),
    "version": ("version", "Print the versions of client and server."),
}
"""Every command: the module it is in, and what it is for. Modules are imported when their command is run."""

ALIASES: Final = {"ls": "get", "ps": "get"}

LATER: Final = frozenset({"cp", "cron", "debug", "job", "port-forward", "rebalance", "secret", "top", "volume"})
"""Commands of the specification that this version does not have."""


class Katcall(click.Group):
    """The group of all commands: imports only the one that is asked for, and asks plugins for what it does not know."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names of our own commands and of plugins'."""
        return [*COMMANDS, *sorted(plugin_commands())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name in COMMANDS:
            module = import_module(f"kat_platform.cli.{COMMANDS[name][0]}")
            found: click.Command = getattr(module, name.replace("exec", "execute"))
            return found
        return plugin_commands().get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a command line; says what was probably meant when there is none."""
        name = args[0]
        if name in LATER:
            raise NotSupportedYet(f"'katcall {name}' is not supported yet by this version")
        if name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        near = get_close_matches(name, [*COMMANDS, *ALIASES, *plugin_commands()], n=1, cutoff=0.5)
        meant = f" Did you mean '{near[0]}'?" if near else ""
        raise click.UsageError(f"There is no command '{name}'.{meant}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        rows = [(name, text) for name, (_, text) in COMMANDS.items()]
        rows += [(name, command.get_short_help_str()) for name, command in sorted(plugin_commands().items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


_plugin_commands: dict[str, click.Command] | None = None


def plugin_commands() -> dict[str, click.Command]:
    """Give the commands that hook plugins contribute, by name. Asked once; what fails there is told and left out."""
    global _plugin_commands
    if _plugin_commands is None:
        from kat_platform.cli.contributed import contributed_commands

        _plugin_commands = contributed_commands({*COMMANDS, *ALIASES, *LATER})
    return _plugin_commands


@click.command(cls=Katcall, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("-n", "--namespace", help="Namespace to work in.")
@click.option("--context", "context_name", help="Context to use instead of the current one.")
@click.pass_context
def cli(ctx: click.Context, namespace: str | None, context_name: str | None) -> None:
    """Talk to a KAT cluster."""
    ctx.obj = GlobalOptions(namespace, context_name)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run ``katcall`` and exit: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 conflict, 5 denied, 6 timed out."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run ``katcall`` and give its exit code."""
    try:
        code: Any = cli.main(args=arguments, prog_name="katcall", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KatError as error:
        from kat_platform.cli.render import error_text

        click.echo(error_text(error), err=True)
        return error.exit_code
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return 1
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read us has had enough. The interpreter must not try to flush into the void at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    main()
