"""The conformance kit of hook plugins: ``KIT.run(subject(make))``, with ``make`` constructing the plugin.

A hook plugin takes part in as many hooks as it likes, so a check passes when the plugin leaves that hook out.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from kat_platform.hooks import specs
from kat_platform.hooks.types import (
    AdmissionReply,
    AdmissionRequest,
    ApiRoute,
    Document,
    HookInfo,
    NodeFacts,
    Operation,
)
from kat_platform.interfaces.auth import Identity, Role, Verb
from kat_platform.interfaces.scheduler import Contributions, Demand, SchedulableNode
from kat_platform.registry.announce import ANSWER_SECONDS, plugin_problem
from kat_platform.registry.contract import api_version_problem
from kat_platform.testing.conformance.kit import CheckFailed, Kit, Subject, require

KIT: Kit[object] = Kit("hooks")
"""The rules of ``docs/hooks.md`` that can be tried on any plugin."""

_MARK: Final = f"{specs.PROJECT}_impl"
"""The attribute by which pluggy knows an implementation."""
_METHODS: Final = ("GET", "PUT", "POST", "PATCH", "DELETE")
_WORKLOAD: Final[Document] = {
    "apiVersion": "kat.dws.rip/v1alpha1",
    "kind": "Workload",
    "metadata": {"name": "web", "namespace": "default", "labels": {}, "annotations": {}},
    "spec": {"type": "Service", "source": {"image": "registry.example/web:1"}, "replicas": 1},
}


def subject(make: Callable[[], object]) -> Subject[object]:
    """Construct the plugin anew for each check."""

    @asynccontextmanager
    async def one() -> AsyncIterator[object]:
        yield make()

    return one


def _marked(plugin: object, hook: str) -> Any:
    """Find the plugin's implementation of a hook; ``None`` when there is none, or when nobody would call it."""
    found = getattr(plugin, hook, None)
    return found if hasattr(found, _MARK) else None


async def _answer(plugin: object, hook: str, **given: object) -> Any:
    """Call a hook as the host does: with those arguments by name that it takes. ``None`` when the plugin has none."""
    call = _marked(plugin, hook)
    if call is None:
        return None
    taken = inspect.signature(call).parameters
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await call(**{name: value for name, value in given.items() if name in taken})
    except TimeoutError:
        raise CheckFailed(f"{hook} did not answer within {ANSWER_SECONDS:g} s") from None


@KIT.check("it says who it is, and its API version is this host's")
async def says_who_it_is(plugin: object) -> None:
    info = getattr(plugin, "info", None)
    if not isinstance(info, HookInfo):
        raise CheckFailed(f"its info is {type(info).__name__}, not a HookInfo")
    problem = api_version_problem(info.api_version)
    require(problem is None, str(problem))


@KIT.check("every hook fits its specification: its name, async def, and its parameters")
async def hooks_fit(plugin: object) -> None:
    problem = plugin_problem("checked", plugin)
    require(problem is None, str(problem))


@KIT.check("what has a hook's name is marked as one, or it would never be called")
async def hooks_are_marked(plugin: object) -> None:
    names = [name for name, value in vars(specs).items() if hasattr(value, f"{specs.PROJECT}_spec")]
    bare = [name for name in names if hasattr(plugin, name) and _marked(plugin, name) is None]
    require(not bare, f"not marked with @hookimpl: {', '.join(bare)}")


@KIT.check("every setting has a default and a description, and unknown keys are refused")
async def settings_are_described(plugin: object) -> None:
    schema = getattr(plugin, "Config", None)
    if schema is None:
        return
    schema()
    bare = [name for name, setting in schema.model_fields.items() if not setting.description]
    require(not bare, f"no description: {', '.join(bare)}")
    require(schema.model_config.get("extra") == "forbid", "unknown keys are not refused")
    require("enabled" not in schema.model_fields, "'enabled' is KAT's own key and never reaches the plugin")


@KIT.check("admission answers a create, an update and a delete, and a change keeps what documents are called")
async def admission_answers(plugin: object) -> None:
    caller = Identity("kt", {"*": Role.ADMIN})
    for operation in Operation if _marked(plugin, "admit_workload") else ():
        documents = () if operation is Operation.DELETE else (_WORKLOAD,)
        previous = () if operation is Operation.CREATE else (_WORKLOAD,)
        change = AdmissionRequest(operation, "default", "web", caller, documents, previous, dry_run=True)
        reply = await _answer(plugin, "admit_workload", change=change)
        require(reply is None or isinstance(reply, AdmissionReply), f"it answered with a {type(reply).__name__}")
        if reply is None:
            continue
        require(reply.allowed or reply.reason, f"it refuses the {operation} without a reason")
        if reply.documents is not None:
            kept = [(d.get("kind"), d.get("metadata", {}).get("name")) for d in reply.documents]
            require(kept == [("Workload", "web")], f"after the change the documents are {kept}")


@KIT.check("filters give a reason or None, scores 0 to 100, whatever the demand and the node")
async def contributions_answer(plugin: object) -> None:
    given = await _answer(plugin, "scheduler_contributions")
    if given is None:
        return
    require(isinstance(given, Contributions), f"scheduler_contributions gave a {type(given).__name__}")
    pairs = (
        (Demand("d", "default", "web"), SchedulableNode("n1", 1000, 1 << 30)),
        (Demand("e", "other", "db", {"app": "db"}, 500, 1 << 20), SchedulableNode("n2", 0, 0, labels={"disk": "ssd"})),
    )
    for demand, node in pairs:
        for name, ask in given.filters:
            reason = ask(demand, node)
            require(reason is None or (isinstance(reason, str) and reason), f"filter {name} gave {reason!r}")
        for name, weight, ask_score in given.scores:
            score = ask_score(demand, node)
            require(0 <= score <= 100, f"score {name} gave {score!r}")
            require(weight >= 0, f"score {name} has the weight {weight!r}")


@KIT.check("node facts are labels of text, and JSON")
async def facts_are_data(plugin: object) -> None:
    given = await _answer(plugin, "node_facts")
    if given is None:
        return
    require(isinstance(given, NodeFacts), f"node_facts gave a {type(given).__name__}")
    bad = [key for key, value in given.labels.items() if not (isinstance(key, str) and isinstance(value, str))]
    require(not bad, f"labels that are not text: {bad}")
    json.dumps(dict(given.facts))


@KIT.check("commands are click's, each with a name and a help text")
async def commands_are_named(plugin: object) -> None:
    import click

    given = await _answer(plugin, "cli_commands")
    for command in given or ():
        require(isinstance(command, click.Command), f"cli_commands gave a {type(command).__name__}")
        require(command.name, "a command has no name")
        require(command.help, f"'{command.name}' has no help text")


@KIT.check("routes are relative, of a known method, and say what the caller must be allowed to do")
async def routes_are_relative(plugin: object) -> None:
    given = await _answer(plugin, "api_routes")
    for route in given or ():
        require(isinstance(route, ApiRoute), f"api_routes gave a {type(route).__name__}")
        require(route.method in _METHODS, f"{route.path}: the method is {route.method!r}")
        require(not route.path.startswith("/"), f"{route.path} is not relative: it is served below the plugin's path")
        require(isinstance(route.verb, Verb), f"{route.path}: the verb is {route.verb!r}")
        reads = route.method == "GET"
        require(
            reads or route.verb is not Verb.READ, f"{route.method} {route.path} changes things for who may only read"
        )
