"""Hooks: each plugin is called by itself, in order, and one that fails harms nobody else."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager

import click
import pytest
from structlog.testing import capture_logs

from kat_platform.errors import InvalidInput, Rejected
from kat_platform.hooks import (
    AdmissionReply,
    AdmissionRequest,
    EventRecord,
    InstanceChange,
    NodeFacts,
    Operation,
    hookimpl,
    specs,
)
from kat_platform.interfaces.auth import Identity
from kat_platform.interfaces.scheduler import Contributions, Demand, SchedulableNode
from kat_platform.registry import admission, announce, outbox
from kat_platform.registry.announce import Announcer, plugin_problem

QUADLET = ({"kind": "Workload", "metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 1}},)
CHANGE = AdmissionRequest(Operation.CREATE, "default", "web", Identity("admin"), QUADLET)
EVENT = EventRecord("Normal", "Started", "Workload", "web", "it runs")


def plugin(**hooks):
    """Make a plugin of coroutine functions without ``self``."""
    marked = {name: staticmethod(hookimpl(function)) for name, function in hooks.items()}
    return type("Plugin", (), marked)()


async def fails(*_, **__):
    raise RuntimeError("bang")


@asynccontextmanager
async def running(announcer: Announcer):
    task = asyncio.create_task(announcer.run(), name="announcer")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- specifications -----------------------------------------------------------------------------------------


def test_every_hook_has_a_typed_method_and_is_a_documented_coroutine():
    hooks = [name for name, value in vars(specs).items() if hasattr(value, "kat_spec")]
    assert len(hooks) == 9
    for name in hooks:
        assert inspect.iscoroutinefunction(getattr(specs, name)), name
        assert "Fires" in (getattr(specs, name).__doc__ or ""), name
        assert callable(getattr(Announcer, name)), name


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"admit_wrkload": fails}, "unknown hook 'admit_wrkload'"),
        ({"node_facts": lambda: None}, "must be 'async def'"),
    ],
)
def test_a_hook_that_does_not_fit_is_refused(bad, problem):
    assert problem in (plugin_problem("bad", plugin(**bad)) or "")
    with pytest.raises(ValueError, match=problem.replace("(", r"\(")):
        Announcer({"bad": plugin(**bad)})


def test_arguments_must_be_those_of_the_specification_and_not_keyword_only():
    class Wrong:
        @hookimpl
        async def admit_workload(self, chnage):
            return None

    class KeywordOnly:
        @hookimpl
        async def admit_workload(self, *, change):
            return None

    class Wrapper:
        @hookimpl(wrapper=True)
        def admit_workload(self, change):
            return (yield)

    assert "chnage" in (plugin_problem("p", Wrong()) or "")
    assert "keyword-only" in (plugin_problem("p", KeywordOnly()) or "")
    assert "wrapper" in (plugin_problem("p", Wrapper()) or "")


# --- admission ----------------------------------------------------------------------------------------------


async def test_admission_asks_in_the_order_of_names_and_each_sees_what_the_one_before_left():
    seen = []

    def adds(name):
        async def admit_workload(change):
            seen.append((name, change.documents[0]["spec"]["replicas"]))
            change.documents[0]["spec"]["replicas"] += 1
            return AdmissionReply.change(change.documents, f"{name} wants one more", "look out")

        return plugin(admit_workload=admit_workload)

    result = await Announcer({name: adds(name) for name in ("b", "c", "a")}).admit_workload(CHANGE)
    assert seen == [("a", 1), ("b", 2), ("c", 3)]
    assert result.documents[0]["spec"]["replicas"] == 4
    assert result.changes == tuple(f"{name}: {name} wants one more" for name in "abc")
    assert result.warnings == ("a: look out", "b: look out", "c: look out")
    assert QUADLET[0]["spec"]["replicas"] == 1, "what the caller gave must not change in place"


async def test_tryfirst_and_trylast_come_before_names():
    seen = []

    def at(place, **options):
        class Plugin:
            @hookimpl(**options)
            async def admit_workload(self):
                seen.append(place)

        return Plugin()

    plugins = {"a": at("last", trylast=True), "b": at("middle"), "c": at("first", tryfirst=True)}
    await Announcer(plugins).admit_workload(CHANGE)
    assert seen == ["first", "middle", "last"]


async def test_a_refusal_ends_the_asking_and_names_the_plugin():
    asked = []

    async def refuse(change):
        return AdmissionReply.reject("no images named latest; pin a version", "first offence")

    async def later(change):
        asked.append(change)

    with pytest.raises(Rejected, match="refused by plugin 'a': no images named latest") as raised:
        await Announcer({"b": plugin(admit_workload=later), "a": plugin(admit_workload=refuse)}).admit_workload(CHANGE)
    assert asked == []
    assert raised.value.details["warnings"] == ["a: first offence"]


async def test_admission_fails_closed(monkeypatch):
    monkeypatch.setattr(admission, "ADMISSION_SECONDS", 0.02)

    async def late(change):
        await asyncio.sleep(60)

    async def nonsense(change):
        return True

    for hook, problem in ((fails, "RuntimeError"), (late, "did not answer within"), (nonsense, "answered with a bool")):
        with pytest.raises(Rejected, match=problem):
            await Announcer({"p": plugin(admit_workload=hook)}).admit_workload(CHANGE)


async def test_a_change_into_something_invalid_is_the_plugins_fault():
    async def rename(change):
        change.documents[0]["metadata"]["name"] = "other"
        return AdmissionReply.change(change.documents, "a better name")

    async def spoil(change):
        return AdmissionReply.change(({**change.documents[0], "spec": {"replicas": -1}},), "less is more")

    async def drop(change):
        return AdmissionReply.change(({},), "gone")

    def validate(documents):
        if documents[0]["spec"]["replicas"] < 0:
            raise InvalidInput("replicas must be 0 or more")

    for hook, problem in ((rename, "renamed a document"), (spoil, "0 or more"), (drop, "no kind")):
        with pytest.raises(Rejected, match=problem):
            await Announcer({"p": plugin(admit_workload=hook)}).admit_workload(CHANGE, validate)


async def test_without_plugins_everything_passes():
    assert (await Announcer().admit_workload(CHANGE)).documents == QUADLET


# --- answers ------------------------------------------------------------------------------------------------


async def test_contributions_are_named_after_their_plugin_and_cannot_raise():
    def bad(demand, node):
        raise ZeroDivisionError

    async def give():
        return Contributions((("disk", lambda d, n: "full"), ("bad", bad)), (("warm", 2.0, bad),))

    merged = await Announcer(
        {"b": plugin(scheduler_contributions=give), "a": plugin(scheduler_contributions=fails)}
    ).scheduler_contributions()
    pair = (Demand("k", "default", "web"), SchedulableNode("n", 1, 1))
    assert [(name, check(*pair)) for name, check in merged.filters] == [
        ("b/disk", "full"),
        ("b/bad", "filter b/bad failed with ZeroDivisionError"),
    ]
    assert [(name, weight, score(*pair)) for name, weight, score in merged.scores] == [("b/warm", 2.0, 0.0)]


async def test_node_facts_are_merged_and_a_failing_or_late_plugin_gives_nothing(monkeypatch):
    monkeypatch.setattr(announce, "ANSWER_SECONDS", 0.02)

    def gives(**labels):
        async def node_facts():
            return NodeFacts(labels, {"seen": 1})

        return plugin(node_facts=node_facts)

    async def late():
        await asyncio.sleep(60)

    async def wrong():
        return {"disk": "ssd"}

    async def cancels():
        raise asyncio.CancelledError

    plugins = {
        "a": plugin(node_facts=fails),
        "b": gives(disk="ssd"),
        "c": gives(disk="tape", rack="1"),
        "d": plugin(node_facts=late),
        "e": plugin(node_facts=wrong),
        "f": plugin(node_facts=cancels),
    }
    with capture_logs() as logs:
        facts = await Announcer(plugins).node_facts()
    assert facts.labels == {"disk": "ssd", "rack": "1"}
    assert facts.facts == {"b": {"seen": 1}, "c": {"seen": 1}}
    assert sorted(line["plugin"] for line in logs) == ["a", "d", "e", "f"], "each failure under its plugin's name"


async def test_commands_whose_name_is_taken_are_left_out():
    def gives(*names):
        async def cli_commands():
            return [click.Command(name) for name in names]

        return plugin(cli_commands=cli_commands)

    announcer = Announcer({"b": gives("hello", "apply"), "a": gives("hello")})
    commands = await announcer.cli_commands(taken=["apply"])
    assert [(each.plugin, each.value.name) for each in commands] == [("a", "hello")]


# --- notifications ------------------------------------------------------------------------------------------


def moved(number: int) -> InstanceChange:
    return InstanceChange("default", "web", f"i{number}", None, None, "Running", True)


async def test_notifications_come_in_order_and_a_hanging_plugin_delays_nobody_else(monkeypatch):
    monkeypatch.setattr(announce, "NOTIFY_SECONDS", 0.05)
    got: list[str] = []

    async def hears(change):
        got.append(change.instance)

    async def hangs(change):
        await asyncio.sleep(60)

    hanging = plugin(instance_changed=hangs)
    announcer = Announcer({"a": hanging, "b": plugin(instance_changed=hears), "c": plugin(instance_changed=fails)})
    async with running(announcer):
        for number in range(100):
            announcer.instance_changed(moved(number))
        announcer.event_recorded(EVENT)
        for _ in range(50):
            await asyncio.sleep(0)
        assert got == [f"i{number}" for number in range(100)]
        assert not await announcer.delivered(0.01)


async def test_delivered_tells_when_everything_has_arrived():
    got = []

    async def hears(event):
        await asyncio.sleep(0.001)
        got.append(event.reason)

    announcer = Announcer({"a": plugin(event_recorded=hears)})
    async with running(announcer):
        announcer.event_recorded(EVENT)
        assert await announcer.delivered(5)
        assert got == ["Started"]


async def test_a_plugin_that_does_not_keep_up_loses_its_oldest_and_it_is_logged():
    box = outbox.Outbox("slow", capacity=3)
    got = []

    async def deliver(number):
        got.append(number)

    with capture_logs() as logs:
        for number in range(8):
            box.put(lambda number=number: deliver(number))
    assert box.dropped == 5
    assert [line["dropped"] for line in logs] == [1, 2, 4]
    task = asyncio.create_task(box.run(), name="outbox")
    await asyncio.wait_for(box.empty(), 5)
    task.cancel()
    assert got == [5, 6, 7]
