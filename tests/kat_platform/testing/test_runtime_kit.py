"""The runtime kit: the fake keeps every rule, and each deliberately broken runtime is caught by the rule it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

import pytest

from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.runtime import (
    Container,
    ContainerSpec,
    ContainerState,
    ExecResult,
    Image,
    LogLine,
    Runtime,
    RuntimeEvent,
    RuntimeEventType,
    Usage,
)
from kat_platform.testing.conformance.kit import Check, Outcome
from kat_platform.testing.conformance.runtime import KIT, subject
from kat_platform.testing.fakes.runtime import FakeRuntime

from .leaping import leap


def run(check: Check[Runtime], factory: Callable[[DriverContext], FakeRuntime]) -> Outcome:
    """Run a check without waiting; that of logs in the machine's own time, which their lines carry."""
    return (asyncio.run if check.name == "logging" else leap)(KIT.run_one(check, subject(factory)))


@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: str(check.name))
def test_the_fake_keeps_the_contract(check: Check[Runtime]) -> None:
    outcome = run(check, lambda context: FakeRuntime(context=context))
    assert outcome.passed, f"{outcome.rule}: {outcome.failure}"


class PullsLocalImages(FakeRuntime):
    async def ensure_image(self, reference: str, *, timeout: float = 600.0) -> Image:
        return self.add_image(reference)


class CreatesTwice(FakeRuntime):
    async def create(self, spec: ContainerSpec) -> Container:
        self.containers.pop(spec.name, None)
        return await super().create(spec)


class RunsAtInit(FakeRuntime):
    async def init(self, name: str) -> Container:
        made = await super().init(name)
        await super().start_container(name)
        await asyncio.sleep(0.01)
        return made


class RestartsAtStart(FakeRuntime):
    async def start_container(self, name: str) -> Container:
        held = self.containers.get(name)
        if held is not None and held.state is ContainerState.INITIALIZED:
            self.die(name)
            await super().init(name)
        return await super().start_container(name)


class StartsUninitialised(FakeRuntime):
    async def start_container(self, name: str) -> Container:
        if name in self.containers:
            await super().init(name)
        return await super().start_container(name)


class LosesExitCodes(FakeRuntime):
    def _ended(self, held: object, exit_code: int, oom: bool) -> None:
        super()._ended(held, 0, oom)  # type: ignore[arg-type]


class KillsAtOnce(FakeRuntime):
    async def stop_container(self, name: str, *, grace: float) -> Container:
        if name in self.containers:
            self.die(name, 137)
        return await super().stop_container(name, grace=grace)


class RemovesLoudly(FakeRuntime):
    async def remove(self, name: str) -> None:
        self._get(name)
        await super().remove(name)


class ForgetsLabels(FakeRuntime):
    async def list_containers(self) -> tuple[Container, ...]:
        return tuple(replace(one, labels={}) for one in await super().list_containers())


class CollectsAll(FakeRuntime):
    async def collect(self, valid: frozenset[str]) -> frozenset[str]:
        return await super().collect(frozenset())


class MixesStreams(FakeRuntime):
    def logs(
        self, name: str, *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> AsyncIterator[LogLine]:
        return self._mixed(super().logs(name, follow=follow, tail=tail, since=since))

    async def _mixed(self, lines: AsyncIterator[LogLine]) -> AsyncIterator[LogLine]:
        async for line in lines:
            yield LogLine(line.at, "stdout", line.text)


class IgnoresTail(FakeRuntime):
    def logs(
        self, name: str, *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> AsyncIterator[LogLine]:
        return super().logs(name, follow=follow, since=since)


class IgnoresEnv(FakeRuntime):
    async def exec(
        self, name: str, command: tuple[str, ...], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> ExecResult:
        return await super().exec(name, command, timeout=timeout)


class IgnoresTimeout(FakeRuntime):
    async def exec(
        self, name: str, command: tuple[str, ...], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> ExecResult:
        return await super().exec(name, command, timeout=timeout * 11, env=env)


class MeasuresTheDead(FakeRuntime):
    async def usage(self) -> tuple[Usage, ...]:
        return tuple(Usage(name, 0.0, 1) for name in self.containers)


class TakesAnything(FakeRuntime):
    async def import_image(self, reference: str, archive: AsyncIterator[bytes]) -> Image:
        return self.add_image(reference)


class SaysNothing(FakeRuntime):
    def events(self) -> AsyncIterator[RuntimeEvent]:
        return self._only_starts(super().events())

    async def _only_starts(self, events: AsyncIterator[RuntimeEvent]) -> AsyncIterator[RuntimeEvent]:
        async for event in events:
            if event.type is RuntimeEventType.STARTED:
                yield event


@pytest.mark.parametrize(
    ("broken", "caught_by"),
    [
        (PullsLocalImages, "images"),
        (CreatesTwice, "creation"),
        (RunsAtInit, "initialisation"),
        (RestartsAtStart, "starting"),
        (StartsUninitialised, "start_needs_init"),
        (LosesExitCodes, "ending"),
        (LosesExitCodes, "stopping"),
        (KillsAtOnce, "killing"),
        (RemovesLoudly, "absent"),
        (ForgetsLabels, "listing"),
        (CollectsAll, "collecting"),
        (MixesStreams, "logging"),
        (IgnoresTail, "logging"),
        (IgnoresEnv, "executing"),
        (IgnoresTimeout, "exec_timeout"),
        (MeasuresTheDead, "measuring"),
        (TakesAnything, "transfer"),
        (SaysNothing, "removal"),
    ],
)
def test_a_broken_runtime_is_caught(broken: type[FakeRuntime], caught_by: str) -> None:
    check = next(check for check in KIT.checks if check.name == caught_by)
    outcome = run(check, lambda context: broken(context=context))
    assert not outcome.passed, f"the check '{caught_by}' did not notice {broken.__name__}"


async def test_scripted_trouble_reaches_the_caller() -> None:
    runtime = FakeRuntime()
    runtime.add_image("localhost/a:1")
    events = runtime.events()
    await runtime.create(ContainerSpec("a", "localhost/a:1"))
    await runtime.init("a")
    await runtime.start_container("a")
    runtime.die("a", oom=True)
    runtime.interrupt_events()
    seen = [await anext(events) for _ in range(3)]
    assert [event.type.value for event in seen] == ["started", "exited", "gap"]
    assert seen[1].oom_killed
    assert seen[1].exit_code == 137
