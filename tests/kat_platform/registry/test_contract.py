"""A class is held against its Protocol: presence, async or not, parameters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from kat_platform.interfaces import CONTRACTS, Builder, Capability, Scheduler
from kat_platform.registry.contract import api_version_problem, config_problems, method_problems, operations


class Base:
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def status(self) -> Any: ...


class Good(Base):
    def schedule(self, snapshot, pending): ...
    def explain(self, snapshot, pending): ...


def problems(plugin: type, capability: Capability = Capability.SCHEDULER) -> list[str]:
    return list(method_problems(plugin, capability))


def test_a_good_class_has_no_problem():
    assert problems(Good) == []


def test_inheriting_the_protocol_alone_gives_nothing():
    class Lazy(Scheduler):
        pass

    assert problems(Lazy) == [f"it has no {name}()" for name in operations(Scheduler)]


def test_inheriting_the_protocol_and_writing_everything_is_fine():
    class Careful(Good, Scheduler):
        pass

    assert problems(Careful) == []


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ({"start": lambda self: None}, "its start() must be async"),
        ({"explain": Base.start}, "its explain() must be a plain function, not async"),
        ({"schedule": lambda self, snapshot: None}, "its schedule() does not take 'pending'"),
        ({"schedule": lambda self, snapshot, pending, more: None}, "its schedule() needs 'more'"),
        ({"schedule": 3}, "its schedule is not a method"),
    ],
)
def test_a_method_of_another_form_is_told(member, expected):
    found = problems(type("Odd", (Good,), member))
    assert any(expected in problem for problem in found), found


def test_more_optional_parameters_and_static_methods_are_fine():
    class Wider(Good):
        def schedule(self, snapshot, pending, seed=0, *rest, **more): ...

        @staticmethod
        def explain(snapshot, pending): ...

    assert problems(Wider) == []


def test_a_stream_may_be_an_async_generator_or_a_plain_function_but_no_coroutine():
    class Streams(Base):
        async def resolve(self, source): ...
        async def build(self, request) -> AsyncIterator[str]:
            yield ""

    class Coroutine(Streams):
        async def build(self, request): ...  # type: ignore[override]

    assert problems(Streams, Capability.BUILDER) == []
    assert "its build() must be a plain function that gives an async iterator, not async" in problems(
        Coroutine, Capability.BUILDER
    )
    assert set(operations(Builder)) >= {"start", "stop", "status", "resolve", "build"}


def test_a_contracts_optional_argument_must_stay_optional():
    class Stern(Base):
        async def ensure_image(self, reference, *, timeout): ...

    assert "its ensure_image() needs 'timeout', which the contract makes optional" in problems(
        Stern, Capability.RUNTIME
    )


@pytest.mark.parametrize("capability", list(Capability))
def test_every_contract_has_operations_beyond_those_of_any_driver(capability):
    assert set(operations(CONTRACTS[capability])) > {"start", "stop", "status"}


def test_config_must_forbid_and_have_defaults():
    class Loose:
        class Config(BaseModel):
            size: int

    class Needy:
        class Config(BaseModel):
            model_config = ConfigDict(extra="forbid")
            size: int = Field(description="no default")

    assert len(list(config_problems(Loose))) == 2
    assert list(config_problems(Needy)) == ["its Config has fields without a default: size"]


@pytest.mark.parametrize(("version", "good"), [("1.0", True), ("1.9", True), ("2.0", False), ("1", False), (1, False)])
def test_the_major_version_decides(version, good):
    assert (api_version_problem(version) is None) is good
