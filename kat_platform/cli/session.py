"""Session: what a command that talks to a cluster works with, and the options all such commands have."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kat_platform.errors import UsageError

if TYPE_CHECKING:
    from kat_platform.cli.client import Client
    from kat_platform.cli.context import Context

F = TypeVar("F", bound=Callable[..., Any])
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """What was given before the command."""

    namespace: str | None = None
    context: str | None = None


class Session:
    """A context, a namespace, and a client that connects when it is first used."""

    def __init__(self, namespace: str | None, context: str | None) -> None:
        self._given, self._context = namespace, context
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client of the chosen context."""
        if self._client is None:
            from kat_platform.cli.client import Client
            from kat_platform.cli.context import load

            self._client = Client(load(self._context), _warn)
        return self._client

    def use(self, context: Context) -> None:
        """Go on with a context that was changed."""
        from kat_platform.cli.client import Client

        self._client = Client(context, _warn)

    @property
    def namespace(self) -> str:
        """The namespace: as given, else the context's own."""
        return self._given or self.client.context.namespace

    @property
    def given_namespace(self) -> str | None:
        """The namespace, where one was given."""
        return self._given


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)


def talks(command: F) -> F:
    """Give a command the options ``-n`` and ``--context``, and a :class:`Session` as its first argument."""

    @functools.wraps(command)
    @click.pass_context
    def wrapper(
        ctx: click.Context, /, *args: Any, namespace: str | None, context_name: str | None, **options: Any
    ) -> Any:
        before = ctx.find_object(GlobalOptions) or GlobalOptions()
        session = Session(namespace or before.namespace, context_name or before.context)
        return command(session, *args, **options)

    wrapper = click.option("--context", "context_name", help="Context to use instead of the current one.")(wrapper)
    return click.option("-n", "--namespace", help="Namespace to work in.")(wrapper)  # type: ignore[return-value]


class Duration(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic only in newer versions
    """A length of time: ``90``, ``90s``, ``5m``, ``1h30m``; gives seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        if isinstance(value, int | float):
            return float(value)
        match = _DURATION.fullmatch(str(value))
        if not value or match is None:
            self.fail(f"'{value}' is no length of time: write 90s, 5m or 1h30m", param, ctx)
        hours, minutes, seconds = match.groups()
        return float(hours or 0) * 3600 + float(minutes or 0) * 60 + float(seconds or 0)


def split_workload(text: str, kinds: tuple[str, ...] = ("workload", "workloads", "wl")) -> tuple[str, str | None]:
    """Read ``WORKLOAD``, ``WORKLOAD/INSTANCE`` or ``workload/WORKLOAD``."""
    first, slash, second = text.partition("/")
    if slash and first in kinds:
        first, _, second = second.partition("/")
    if not first or "/" in second:
        raise UsageError(f"'{text}' is neither WORKLOAD nor WORKLOAD/INSTANCE")
    return first, second or None
