"""completion: what the shell needs to complete katcall's commands."""

from __future__ import annotations

import click

from kat_platform.errors import UsageError


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL. For bash: source <(katcall completion bash)."""
    from click.shell_completion import get_completion_class

    from kat_platform.cli.main import cli

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"there is no completion for '{shell}'")
    click.echo(found(cli, {}, "katcall", "_KATCALL_COMPLETE").source())
