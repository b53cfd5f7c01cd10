"""Announces what happens to the hook plugins. The only module that touches pluggy's manager.

pluggy calls implementations one after another, synchronously, and one that raises ends the call for all. Ours are
coroutines, so each is called by itself, with its own deadline, and the manager is used for what it does well: matching
implementations with specifications, and their order.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pluggy
import structlog

from kat_platform.hooks import specs
from kat_platform.hooks.types import (
    AdmissionRequest,
    ApiRoute,
    EventRecord,
    InstanceChange,
    LeadershipChange,
    NodeChange,
    NodeFacts,
)
from kat_platform.interfaces.scheduler import Contributions
from kat_platform.registry.admission import Admission, Ask, Validate, ask_in_turn
from kat_platform.registry.contributions import merge
from kat_platform.registry.outbox import Outbox

if TYPE_CHECKING:
    import click

ANSWER_SECONDS = 5.0
"""Deadline of any other hook that is asked for something."""

NOTIFY_SECONDS = 10.0
"""Deadline of one delivery of a notification."""

log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contributed(Generic[T]):
    """Something a plugin gave, under the plugin's name."""

    plugin: str
    value: T


class Announcer:
    """A typed method for each hook. Construct it with the plugins, by name; the order given does not matter.

    Raises ``ValueError`` with a message for a person when a plugin's hooks do not fit the specifications; use
    :func:`plugin_problem` first to learn it for one plugin alone.
    """

    def __init__(self, plugins: Mapping[str, object] | None = None) -> None:
        self._manager = pluggy.PluginManager(specs.PROJECT)
        self._manager.add_hookspecs(specs)
        # pluggy calls the last registered first: registered backwards, plugins are called in the order of their names.
        for name in sorted(plugins or {}, reverse=True):
            _register(self._manager, name, (plugins or {})[name])
        self._outboxes = {name: Outbox(name) for name in sorted(plugins or {})}

    @property
    def plugins(self) -> tuple[str, ...]:
        """Names of the plugins taking part."""
        return tuple(self._outboxes)

    # --- asked, and the answers are used -----------------------------------------------------------------

    async def admit_workload(self, change: AdmissionRequest, validate: Validate = lambda _: None) -> Admission:
        """Ask each plugin in order; raises ``Rejected`` at the first that refuses, fails or is late."""
        calls = [(plugin, _asker(call)) for plugin, call in self._calls("admit_workload")]
        return await ask_in_turn(calls, change, validate)

    async def scheduler_contributions(self) -> Contributions:
        """Collect filters and scores, named ``PLUGIN/NAME``; none of them can raise any more."""
        given = await self._ask("scheduler_contributions", Contributions)
        return merge((each.plugin, each.value) for each in given)

    async def node_facts(self) -> NodeFacts:
        """Collect labels (of two plugins giving the same one, the first wins) and facts by plugin name."""
        labels: dict[str, str] = {}
        facts: dict[str, Any] = {}
        for given in await self._ask("node_facts", NodeFacts):
            labels = {**given.value.labels, **labels}
            if given.value.facts:
                facts[given.plugin] = dict(given.value.facts)
        return NodeFacts(labels, facts)

    async def cli_commands(self, taken: Iterable[str] = ()) -> tuple[Contributed[click.Command], ...]:
        """Collect commands, without those whose name is ``taken`` or was given before."""
        names = set(taken)
        commands: list[Contributed[click.Command]] = []
        for given in await self._ask("cli_commands", (list, tuple)):
            for command in given.value:
                if command.name in names:
                    log.warning("command left out, its name is taken", plugin=given.plugin, command=command.name)
                    continue
                names.add(command.name)
                commands.append(Contributed(given.plugin, command))
        return tuple(commands)

    async def api_routes(self) -> tuple[Contributed[ApiRoute], ...]:
        """Collect routes; the server puts each below its plugin's path."""
        given = await self._ask("api_routes", (list, tuple))
        return tuple(Contributed(each.plugin, route) for each in given for route in each.value)

    # --- told, and nobody waits for it -------------------------------------------------------------------

    def instance_changed(self, change: InstanceChange) -> None:
        """Tell every plugin, in time; returns at once."""
        self._tell("instance_changed", change=change)

    def node_changed(self, change: NodeChange) -> None:
        """Tell every plugin, in time; returns at once."""
        self._tell("node_changed", change=change)

    def event_recorded(self, event: EventRecord) -> None:
        """Tell every plugin, in time; returns at once."""
        self._tell("event_recorded", event=event)

    def leadership_changed(self, change: LeadershipChange) -> None:
        """Tell every plugin, in time; returns at once."""
        self._tell("leadership_changed", change=change)

    async def run(self) -> None:
        """Deliver notifications until cancelled. Run it as a task of the agent; without it they only queue up."""
        async with asyncio.TaskGroup() as group:
            for name, outbox in self._outboxes.items():
                group.create_task(outbox.run(), name=f"notify-{name}")

    async def delivered(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until everything told so far is delivered; tell whether it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                for outbox in self._outboxes.values():
                    await outbox.empty()
                return True
        return False

    # --- how -----------------------------------------------------------------------------------------------

    def _calls(self, hook: str, **arguments: Any) -> list[tuple[str, Callable[..., Any]]]:
        """Give ``(plugin, function)`` in calling order; each takes the hook's arguments by name."""
        caller = getattr(self._manager.hook, hook)
        return [(each.plugin_name, _by_name(each, arguments)) for each in reversed(caller.get_hookimpls())]

    async def _ask(self, hook: str, wanted: type[T] | tuple[type[T], ...], **arguments: Any) -> list[Contributed[T]]:
        calls = self._calls(hook, **arguments)
        answers = await asyncio.gather(*(_guarded(plugin, hook, call, ANSWER_SECONDS) for plugin, call in calls))
        good: list[Contributed[T]] = []
        for (plugin, _), answer in zip(calls, answers, strict=True):
            if isinstance(answer, wanted):
                good.append(Contributed(plugin, answer))
            elif answer is not None:
                log.error("hook gave a wrong type", plugin=plugin, hook=hook, got=type(answer).__name__)
        return good

    def _tell(self, hook: str, **arguments: Any) -> None:
        for plugin, call in self._calls(hook, **arguments):
            self._outboxes[plugin].put(functools.partial(_guarded, plugin, hook, call, NOTIFY_SECONDS))


def plugin_problem(name: str, plugin: object) -> str | None:
    """Tell why a plugin's hooks do not fit the specifications, or ``None``."""
    manager = pluggy.PluginManager(specs.PROJECT)
    manager.add_hookspecs(specs)
    try:
        _register(manager, name, plugin)
    except ValueError as error:
        return str(error)
    return None


def _register(manager: pluggy.PluginManager, name: str, plugin: object) -> None:
    try:
        manager.register(plugin, name)
        # Without this a misspelt hook is never called and nobody is told.
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise ValueError(" ".join(str(error).split())) from error
    for caller in manager.get_hookcallers(plugin) or []:
        for each in caller.get_hookimpls():
            if each.plugin is plugin:
                _check_implementation(caller.name, each)


def _check_implementation(hook: str, implementation: pluggy.HookImpl) -> None:
    function = implementation.function
    if implementation.wrapper or implementation.hookwrapper:
        raise ValueError(f"hook {hook} is a wrapper, which coroutine hooks cannot be")
    if not inspect.iscoroutinefunction(inspect.unwrap(function)):
        raise ValueError(f"hook {hook} must be 'async def'")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            # pluggy does not see these, so they would never be given.
            raise ValueError(f"hook {hook} declares '{parameter.name}' keyword-only: drop the '*' before it")


def _by_name(implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    def call(**more: Any) -> Any:
        given = {**arguments, **more}
        return implementation.function(*(given[name] for name in implementation.argnames))

    return call


def _asker(call: Callable[..., Awaitable[object]]) -> Ask:
    return lambda change: call(change=change)


async def _guarded(plugin: str, hook: str, call: Callable[[], Any], seconds: float) -> Any:
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await call()
    except TimeoutError:
        late = deadline.expired()
        log.error("hook failed", plugin=plugin, hook=hook, problem=f"late, {seconds:g} s" if late else "TimeoutError")
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        log.error("hook failed", plugin=plugin, hook=hook, problem="it was cancelled from within")
    except (Exception, SystemExit):  # a plugin may raise anything, and must harm nobody else
        log.exception("hook failed", plugin=plugin, hook=hook)
    return None
