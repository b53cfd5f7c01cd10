"""The kit of hooks passes a plugin that keeps the rules, and fails each that breaks one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import click
import pytest
from pydantic import BaseModel, ConfigDict, Field

from kat_platform.hooks import AdmissionReply, AdmissionRequest, ApiRoute, HookInfo, NodeFacts, hookimpl
from kat_platform.interfaces.auth import Verb
from kat_platform.interfaces.scheduler import Contributions
from kat_platform.testing.conformance.hooks import KIT, subject
from kat_platform.testing.conformance.kit import Check

INFO = HookInfo("good", "1.0.0")


class Good:
    info: Any = INFO

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        size: int = Field(default=1, description="How large.")

    @hookimpl
    async def admit_workload(self, change: AdmissionRequest) -> AdmissionReply | None:
        if not change.documents:
            return AdmissionReply.reject("nothing is ever deleted here")
        first = {**change.documents[0], "spec": {**change.documents[0]["spec"], "priority": 3}}
        return AdmissionReply.change((first,), "it matters", "be careful")

    @hookimpl
    async def scheduler_contributions(self) -> Contributions:
        ssd = lambda demand, node: None if node.labels.get("disk") == "ssd" else "has no ssd"  # noqa: E731
        return Contributions((("ssd", ssd),), (("size", 2.0, lambda demand, node: 50.0),))

    @hookimpl
    async def node_facts(self) -> NodeFacts:
        return NodeFacts({"disk": "ssd"}, {"disks": 1})

    @hookimpl
    async def cli_commands(self) -> list[click.Command]:
        return [click.Command("sizes", help="Tell sizes.")]

    @hookimpl
    async def api_routes(self) -> list[ApiRoute]:
        async def handler(request: Any) -> Any:
            return None

        return [ApiRoute("GET", "sizes", handler), ApiRoute("POST", "sizes/{name}", handler, Verb.WRITE)]

    @hookimpl
    async def event_recorded(self) -> None:
        pass


@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
async def test_a_good_plugin_passes(check: Check[object]) -> None:
    outcome = await KIT.run_one(check, subject(Good))
    assert outcome.passed, f"{outcome.rule}: {outcome.failure}"


@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
async def test_one_that_takes_part_in_nothing_passes(check: Check[object]) -> None:
    outcome = await KIT.run_one(check, subject(lambda: SimpleNamespace(info=INFO)))
    assert outcome.passed, outcome.failure


class SaysNothing(Good):
    info = None


class OfTomorrow(Good):
    info = HookInfo("good", "1.0.0", api_version="9.0")


class NotAsync(Good):
    @hookimpl
    def node_facts(self) -> NodeFacts:
        return NodeFacts()


class UnknownParameter(Good):
    @hookimpl
    async def admit_workload(self, chnage: AdmissionRequest) -> None:
        pass


class Unmarked(Good):
    async def node_facts(self) -> NodeFacts:
        return NodeFacts()


class TakesAnything(Good):
    class Config(BaseModel):
        size: int = Field(default=1, description="How large.")


class TakesOurKey(Good):
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        enabled: bool = Field(default=True, description="Whether.")


class NeedsSettings(Good):
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        size: int = Field(description="How large.")


class AnswersTrue(Good):
    @hookimpl
    async def admit_workload(self) -> Any:
        return True


class NoReason(Good):
    @hookimpl
    async def admit_workload(self) -> AdmissionReply:
        return AdmissionReply(allowed=False)


class Renames(Good):
    @hookimpl
    async def admit_workload(self, change: AdmissionRequest) -> AdmissionReply | None:
        documents = tuple({**each, "metadata": {"name": "other"}} for each in change.documents)
        return AdmissionReply.change(documents, "a nicer name")


class RaisesOnDelete(Good):
    @hookimpl
    async def admit_workload(self, change: AdmissionRequest) -> None:
        assert change.documents[0]


class FilterSaysYes(Good):
    @hookimpl
    async def scheduler_contributions(self) -> Contributions:
        return Contributions((("any", lambda demand, node: True),))  # type: ignore[arg-type,return-value]


class ScoresTooHigh(Good):
    @hookimpl
    async def scheduler_contributions(self) -> Contributions:
        return Contributions((), (("memory", 1.0, lambda demand, node: node.memory_bytes),))


class NumberLabels(Good):
    @hookimpl
    async def node_facts(self) -> NodeFacts:
        return NodeFacts({"cores": 4})  # type: ignore[dict-item]


class FactsOfObjects(Good):
    @hookimpl
    async def node_facts(self) -> NodeFacts:
        return NodeFacts({}, {"what": object()})


class MuteCommand(Good):
    @hookimpl
    async def cli_commands(self) -> list[click.Command]:
        return [click.Command("sizes")]


class OthersPath(Good):
    @hookimpl
    async def api_routes(self) -> list[Any]:
        return [ApiRoute("GET", "/v1alpha1/nodes", Good.admit_workload)]  # type: ignore[arg-type]


class ReadersMayWrite(Good):
    routes: ClassVar[list[ApiRoute]] = [ApiRoute("POST", "reset", Good.admit_workload)]  # type: ignore[arg-type]

    @hookimpl
    async def api_routes(self) -> list[ApiRoute]:
        return self.routes


@pytest.mark.parametrize(
    ("broken", "caught_by"),
    [
        (SaysNothing, "says_who_it_is"),
        (OfTomorrow, "says_who_it_is"),
        (NotAsync, "hooks_fit"),
        (UnknownParameter, "hooks_fit"),
        (Unmarked, "hooks_are_marked"),
        (TakesAnything, "settings_are_described"),
        (TakesOurKey, "settings_are_described"),
        (NeedsSettings, "settings_are_described"),
        (AnswersTrue, "admission_answers"),
        (NoReason, "admission_answers"),
        (Renames, "admission_answers"),
        (RaisesOnDelete, "admission_answers"),
        (FilterSaysYes, "contributions_answer"),
        (ScoresTooHigh, "contributions_answer"),
        (NumberLabels, "facts_are_data"),
        (FactsOfObjects, "facts_are_data"),
        (MuteCommand, "commands_are_named"),
        (OthersPath, "routes_are_relative"),
        (ReadersMayWrite, "routes_are_relative"),
    ],
)
async def test_a_broken_plugin_is_caught(broken: type[object], caught_by: str) -> None:
    check = next(check for check in KIT.checks if check.name == caught_by)
    outcome = await KIT.run_one(check, subject(broken))
    assert not outcome.passed, f"the check '{caught_by}' did not notice {broken.__name__}"
