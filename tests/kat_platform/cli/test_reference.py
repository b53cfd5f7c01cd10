"""docs/katcall.md is true: every command and option has its place there, and nothing else has."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from kat_platform.cli.main import COMMANDS, LATER, cli
from kat_platform.cli.resources import KINDS

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "katcall.md").read_text()


def commands(command=cli, path="katcall"):
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in COMMANDS if command is cli else command.list_commands(context):
            found = command.get_command(context, name)
            if not found.hidden:
                yield from commands(found, f"{path} {name}")
    else:
        yield path, command


SECTIONS = dict(re.findall(r"^### `([^`]+)`\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))


def test_the_reference_has_exactly_the_commands():
    assert sorted(SECTIONS) == sorted(path for path, _ in commands())


@pytest.mark.parametrize("path", [path for path, _ in commands()])
def test_every_command_is_described_with_its_options(path):
    command = dict(commands())[path]
    text = SECTIONS[path]
    assert command.help.splitlines()[0] in text
    everywhere = {"-n", "--namespace", "--context"}
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    known = {name for option in options for name in [*option.opts, *option.secondary_opts]}
    rows = re.findall(r"^\| (`-.*?) \|", text, re.MULTILINE)
    shown = {name for row in rows for name in re.findall(r"`(-[^`]+)`", row)}
    assert shown - everywhere == known - everywhere


def test_every_kind_is_listed():
    for kind in KINDS:
        names = ", ".join(f"`{name}`" for name in (kind.singular, *kind.short))
        assert f"| `{kind.plural}` | {names} |" in TEXT


def test_what_is_not_here_yet_is_named():
    later = TEXT.split("## Not here yet")[1]
    assert [name for name in LATER if f"`{name}`" not in later] == []
