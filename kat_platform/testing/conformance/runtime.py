"""What any runtime driver must do, tried with real containers (or what the driver has for them).

The containers run ``sh`` of :data:`~kat_platform.testing.conformance.runtime_image.REFERENCE`. A driver with
``TransfersImages`` gets that image from the kit; any other must find it by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from kat_platform.errors import Conflict, ImageNotFound, KatError, NotFound, RuntimeFailure, TimedOut
from kat_platform.interfaces.driver import API_VERSION, Capability, Driver, DriverContext, Resettable
from kat_platform.interfaces.runtime import (
    Container,
    ContainerSpec,
    ContainerState,
    LogLine,
    Runtime,
    RuntimeEvent,
    RuntimeEventType,
    TransfersImages,
)
from kat_platform.testing.conformance.kit import CheckFailed, Kit, Subject, require
from kat_platform.testing.conformance.runtime_image import REFERENCE, archive, chunks

KIT: Final[Kit[Runtime]] = Kit("runtime")
_SERVE: Final = "trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done"
PATIENCE = 10.0
"""Seconds within which an event must be told; generous, for runtimes on busy machines."""
_DEAF: Final = "trap '' TERM; echo ready; while true; do sleep 0.05; done"


def subject(factory: Callable[[DriverContext], Driver]) -> Subject[Runtime]:
    """Make the kit's subject out of a driver's factory: own folders and tag, and everything removed at the end."""

    @asynccontextmanager
    async def one() -> AsyncIterator[Runtime]:
        with tempfile.TemporaryDirectory(prefix="kt-") as folder:
            data, run = Path(folder, "data"), Path(folder, "run")
            data.mkdir(mode=0o700)
            run.mkdir(mode=0o700)
            driver = factory(DriverContext("n1", data, run, f"kt{secrets.token_hex(2)}"))
            require(isinstance(driver, Runtime), "the driver does not have every operation of the runtime contract")
            assert isinstance(driver, Runtime)
            try:
                await driver.start()
                if isinstance(driver, TransfersImages):
                    await driver.import_image(REFERENCE, chunks(archive()))
                yield driver
            finally:
                await _clear(driver)

    return one


async def _clear(driver: Runtime) -> None:
    if isinstance(driver, Resettable):
        await driver.reset()
        return
    with contextlib.suppress(KatError):  # the failure that matters is the check's own
        for container in await driver.list_containers():
            await driver.remove(container.name)
    await driver.stop()


def _spec(name: str = "kt-one", script: str = _SERVE) -> ContainerSpec:
    return ContainerSpec(name, REFERENCE, command=("sh", "-c"), args=(script,), labels={"kt": "yes"})


async def _run(driver: Runtime, spec: ContainerSpec) -> Container:
    await driver.create(spec)
    await driver.init(spec.name)
    return await driver.start_container(spec.name)


async def _serving(driver: Runtime, name: str = "kt-one", script: str = _SERVE) -> Container:
    """Run a container and wait until its script has set its traps."""
    started = await _run(driver, _spec(name, script))
    async for line in driver.logs(name, follow=True):
        if line.text == "ready":
            return started
    raise CheckFailed("a running container's first line of output is not in its log")


async def _next(events: AsyncIterator[RuntimeEvent], kind: RuntimeEventType, name: str) -> RuntimeEvent:
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                event = await anext(events)
                if event.type is kind and event.name == name:
                    return event
    except TimeoutError:
        raise CheckFailed(f"no event {kind.value} for {name} within {PATIENCE:g} s") from None


async def _lines(lines: AsyncIterator[LogLine]) -> list[LogLine]:
    return [line async for line in lines]


async def _raises(error: type[KatError], rule: str, call: object) -> KatError:
    assert asyncio.iscoroutine(call)
    try:
        await call
    except error as raised:
        return raised
    except Exception as other:  # whatever else a driver raises here breaks the rule
        raise CheckFailed(f"{rule}: raised {type(other).__name__} ({other}), not {error.__name__}") from other
    raise CheckFailed(f"{rule}: raised nothing, not {error.__name__}")


@KIT.check("the driver says it is a runtime of this contract's version, and answers how it is")
async def identity(driver: Runtime) -> None:
    require(driver.info.capability is Capability.RUNTIME, "the driver does not call itself a runtime")
    require(driver.info.api_version.split(".")[0] == API_VERSION.split(".")[0], "made for another contract")
    await driver.status()


@KIT.check("an image is found by ensure_image and find_image; a local one that is nowhere is ImageNotFound")
async def images(driver: Runtime) -> None:
    found = await driver.ensure_image(REFERENCE, timeout=30)
    again = await driver.find_image(REFERENCE)
    require(again is not None and again.id == found.id, "find_image does not find what ensure_image gave")
    require(await driver.find_image("localhost/kat/nowhere:1") is None, "find_image finds what is not there")
    missing = driver.ensure_image("localhost/kat/nowhere:1", timeout=30)
    error = await _raises(ImageNotFound, "ensure_image of a local image that is not there", missing)
    require(not error.retryable, "a local image that is not there is said to be worth another try")


@KIT.check("create makes a container without process, gives it back on repetition, and refuses another spec")
async def creation(driver: Runtime) -> None:
    made = await driver.create(_spec())
    require(made.state is ContainerState.CREATED and made.pid is None, f"after create it is {made.state}")
    require(made.spec_digest == _spec().digest(), "the spec's digest is not that of ContainerSpec.digest()")
    require((await driver.create(_spec())).state is ContainerState.CREATED, "the second create changed its state")
    await _raises(Conflict, "create with another spec", driver.create(replace(_spec(), env={"a": "b"})))
    gone = driver.create(replace(_spec("kt-two"), image="localhost/kat/nowhere:1"))
    await _raises(ImageNotFound, "create from an image that is not there", gone)
    require(await driver.inspect("kt-two") is None, "a refused create left a container")


@KIT.check("the same create four times at once makes one container")
async def creation_at_once(driver: Runtime) -> None:
    made = await asyncio.gather(*[driver.create(_spec()) for _ in range(4)])
    require({one.spec_digest for one in made} == {_spec().digest()}, "the creates gave different containers")
    require(len(await driver.list_containers()) == 1, "there is not exactly one container")


@KIT.check("init makes pid and network namespace without running the command; repeated, it changes nothing")
async def initialisation(driver: Runtime) -> None:
    await driver.create(_spec())
    first = await driver.init("kt-one")
    require(first.state is ContainerState.INITIALIZED, f"after init it is {first.state}")
    require(first.pid is not None and first.netns, "init gives no pid or no network namespace")
    require((await driver.init("kt-one")).pid == first.pid, "the second init made another process")
    require(not await _lines(driver.logs("kt-one")), "the command ran before start_container")


@KIT.check("start runs the initialised process; repeated, it changes nothing; init of a running one neither")
async def starting(driver: Runtime) -> None:
    await driver.create(_spec())
    ready = await driver.init("kt-one")
    started = await driver.start_container("kt-one")
    require(started.state is ContainerState.RUNNING, f"after start_container it is {started.state}")
    require(started.pid == ready.pid and started.netns == ready.netns, "start made another process than init")
    require((await driver.start_container("kt-one")).pid == ready.pid, "the second start made another process")
    require((await driver.init("kt-one")).pid == ready.pid, "init of a running container made another process")
    found = await driver.inspect("kt-one")
    require(found is not None and found.state is ContainerState.RUNNING, "inspect does not say that it runs")
    require(found is not None and found.started_at is not None, "inspect does not say since when it runs")


@KIT.check("start_container without init is RuntimeFailure: it would run without its network")
async def start_needs_init(driver: Runtime) -> None:
    await driver.create(_spec())
    await _raises(RuntimeFailure, "start_container of a created container", driver.start_container("kt-one"))


@KIT.check("what is not there: NotFound, None, or nothing, as the contract says")
async def absent(driver: Runtime) -> None:
    await _raises(NotFound, "init", driver.init("kt-none"))
    await _raises(NotFound, "start_container", driver.start_container("kt-none"))
    await _raises(NotFound, "signal", driver.signal("kt-none", "SIGTERM"))
    await _raises(NotFound, "exec", driver.exec("kt-none", ("true",), timeout=5))
    await _raises(NotFound, "logs", _lines(driver.logs("kt-none")))
    require(await driver.inspect("kt-none") is None, "inspect of what is not there is not None")
    await driver.stop_container("kt-none", grace=1)
    await driver.remove("kt-none")


@KIT.check("a command that ends gives an event with its exit code, and inspect says the same")
async def ending(driver: Runtime) -> None:
    events = driver.events()
    await _run(driver, _spec(script="echo out; exit 3"))
    await _next(events, RuntimeEventType.STARTED, "kt-one")
    ended = await _next(events, RuntimeEventType.EXITED, "kt-one")
    require(ended.exit_code == 3, f"the event says exit code {ended.exit_code}, not 3")
    await asyncio.sleep(0.5)
    found = await driver.inspect("kt-one")
    require(found is not None and found.state is ContainerState.EXITED, "inspect does not say that it ended")
    require(found is not None and found.exit_code == 3, "inspect does not give exit code 3")
    require(found is not None and found.pid is None and found.netns is None, "an ended container has a pid or netns")


@KIT.check("an ended container is brought back at once by init and start, with a new process")
async def return_in_place(driver: Runtime) -> None:
    events = driver.events()
    first = await _serving(driver)
    for _ in range(3):
        await driver.signal("kt-one", "SIGKILL")
        await _next(events, RuntimeEventType.EXITED, "kt-one")
        again = await driver.init("kt-one")
        require(again.pid is not None and again.pid != first.pid, "init of an ended container gave no new process")
        started = await driver.start_container("kt-one")
        await asyncio.sleep(0.3)
        found = await driver.inspect("kt-one")
        require(found is not None and found.state is ContainerState.RUNNING, "it does not run after its return")
        require(found is not None and found.pid == started.pid == again.pid, "its process was replaced after init")
        first = again


@KIT.check("stop sends the stop signal and takes the command's own exit code")
async def stopping(driver: Runtime) -> None:
    await _serving(driver)
    stopped = await driver.stop_container("kt-one", grace=10)
    require(stopped.state is ContainerState.EXITED, f"after stop_container it is {stopped.state}")
    require(stopped.exit_code == 7, f"the exit code is {stopped.exit_code}, not the command's own 7")
    again = await driver.stop_container("kt-one", grace=10)
    require(again.state is ContainerState.EXITED, "stopping a stopped container changed its state")


@KIT.check("stop kills a command that ignores the signal, after the grace and not before")
async def killing(driver: Runtime) -> None:
    await _serving(driver, script=_DEAF)
    loop = asyncio.get_running_loop()
    began = loop.time()
    stopped = await driver.stop_container("kt-one", grace=0.7)
    took = loop.time() - began
    require(stopped.exit_code == 137, f"the exit code is {stopped.exit_code}, not 137")
    require(0.6 <= took < 5, f"it took {took:.1f} s with a grace of 0.7 s")


@KIT.check("remove kills a running container, leaves nothing of it, says so by an event, and can be repeated")
async def removal(driver: Runtime) -> None:
    events = driver.events()
    await _serving(driver)
    await driver.remove("kt-one")
    await _next(events, RuntimeEventType.REMOVED, "kt-one")
    require(await driver.inspect("kt-one") is None, "inspect still finds it")
    require(not await driver.list_containers(), "list_containers still finds it")
    await driver.remove("kt-one")
    fresh = await driver.create(replace(_spec(), env={"a": "b"}))
    require(fresh.state is ContainerState.CREATED, "its name cannot be used again")


@KIT.check("list gives every container with its labels and digest, in any state")
async def listing(driver: Runtime) -> None:
    await driver.create(_spec("kt-one"))
    await _serving(driver, "kt-two")
    found = {one.name: one for one in await driver.list_containers()}
    require(set(found) == {"kt-one", "kt-two"}, f"it lists {sorted(found)}")
    require(found["kt-one"].state is ContainerState.CREATED, "the created one is not listed as created")
    require(found["kt-two"].state is ContainerState.RUNNING, "the running one is not listed as running")
    require(found["kt-two"].pid is not None, "the running one has no pid")
    require(found["kt-one"].labels.get("kt") == "yes", "a label is missing")
    require(found["kt-two"].spec_digest == _spec("kt-two").digest(), "a digest is missing or another")


@KIT.check("collect drops what is not in the valid set, and only that")
async def collecting(driver: Runtime) -> None:
    await driver.create(_spec("kt-one"))
    await _serving(driver, "kt-two")
    dropped = await driver.collect(frozenset({"kt-one", "kt-else"}))
    require(dropped == {"kt-two"}, f"it says it dropped {sorted(dropped)}")
    require([one.name for one in await driver.list_containers()] == ["kt-one"], "not exactly the valid one is left")


@KIT.check("logs give both streams in order with time; tail and since choose; follow ends with the container")
async def logging(driver: Runtime) -> None:
    events = driver.events()
    await _run(driver, _spec(script="echo one; echo two >&2; sleep 0.6; echo three"))
    followed = await asyncio.wait_for(_lines(driver.logs("kt-one", follow=True)), 10)
    await _next(events, RuntimeEventType.EXITED, "kt-one")
    lines = await _lines(driver.logs("kt-one"))
    texts = [(line.stream, line.text) for line in lines]
    require(sorted(texts) == sorted([("stdout", "one"), ("stderr", "two"), ("stdout", "three")]), f"the log is {texts}")
    require([line.text for line in followed][-1:] == ["three"], "follow ended before the last line")
    require(len(followed) == 3, f"follow gave {len(followed)} lines, not 3")
    tail = await _lines(driver.logs("kt-one", tail=1))
    require([line.text for line in tail] == ["three"], "tail=1 does not give the last line")
    late = await _lines(driver.logs("kt-one", since=lines[-1].at - 0.3))
    require([line.text for line in late] == ["three"], "since gives lines from before")


@KIT.check("exec gives exit code and both streams; env is added; a missing program ends with 127")
async def executing(driver: Runtime) -> None:
    await _serving(driver)
    result = await driver.exec("kt-one", ("sh", "-c", "echo out; echo err >&2; exit 4"), timeout=10)
    require(result.exit_code == 4, f"the exit code is {result.exit_code}, not 4")
    require((result.stdout, result.stderr) == (b"out\n", b"err\n"), "the streams are not what was written")
    odd = "-x \u00fc two\nlines"
    shown = await driver.exec("kt-one", ("sh", "-c", 'echo "$ODD"'), timeout=10, env={"ODD": odd})
    require(shown.stdout == f"{odd}\n".encode(), "a value of env did not arrive as it was given")
    missing = await driver.exec("kt-one", ("no-such-program",), timeout=10)
    require(missing.exit_code == 127, f"a missing program ends with {missing.exit_code}, not 127")


@KIT.check("exec is ended at its timeout with TimedOut, and the container runs on")
async def exec_timeout(driver: Runtime) -> None:
    started = await _serving(driver)
    began = asyncio.get_running_loop().time()
    await _raises(TimedOut, "exec beyond its timeout", driver.exec("kt-one", ("sleep", "30"), timeout=0.5))
    require(asyncio.get_running_loop().time() - began < 5, "the timeout was not kept")
    found = await driver.inspect("kt-one")
    require(found is not None and found.pid == started.pid, "the container did not live through it")


@KIT.check("exec in a container that does not run is NotFound")
async def exec_needs_running(driver: Runtime) -> None:
    await driver.create(_spec())
    await _raises(NotFound, "exec in a created container", driver.exec("kt-one", ("true",), timeout=5))
    await _raises(NotFound, "open_exec in a created container", driver.open_exec("kt-one", ("true",)))


@KIT.check("a session carries input and output and ends with the command's exit code")
async def session(driver: Runtime) -> None:
    await _serving(driver)
    opened = await driver.open_exec("kt-one", ("cat",), stdin=True)
    await opened.write(b"hello\n")
    await opened.close_stdin()
    said = b"".join([data async for stream, data in opened.output() if stream == "stdout"])
    require(said == b"hello\n", f"what was written came back as {said!r}")
    require(await opened.wait() == 0, "the exit code is not 0")
    await opened.close()
    await opened.close()
    failing = await driver.open_exec("kt-one", ("sh", "-c", "echo err >&2; exit 5"))
    chunks_seen = [chunk async for chunk in failing.output()]
    require(b"".join(data for stream, data in chunks_seen if stream == "stderr") == b"err\n", "stderr is not apart")
    require(await failing.wait() == 5, "the exit code is not 5")
    await failing.close()


@KIT.check("a session with a terminal gives all as stdout, takes a size, and is killed by close")
async def terminal(driver: Runtime) -> None:
    await _serving(driver)
    opened = await driver.open_exec("kt-one", ("sh", "-c", "echo err >&2; sleep 30"), tty=True, stdin=True)
    await opened.resize(40, 100)
    output = opened.output()
    stream, data = await asyncio.wait_for(anext(output), 10)
    require(stream == "stdout" and b"err" in data, "with a terminal, output is not all stdout")
    await asyncio.wait_for(opened.close(), 10)
    require(await asyncio.wait_for(opened.wait(), 5) != 0, "a killed command ended with 0")


@KIT.check("usage measures running containers and no others")
async def measuring(driver: Runtime) -> None:
    await driver.create(_spec("kt-one"))
    await _serving(driver, "kt-two")
    found = {one.name: one for one in await driver.usage()}
    require(set(found) == {"kt-two"}, f"it measures {sorted(found)}")
    require(found["kt-two"].memory_bytes > 0, "it uses no memory")


@KIT.check("an exported image can be imported under another name; a broken archive is refused and leaves nothing")
async def transfer(driver: Runtime) -> None:
    if not isinstance(driver, TransfersImages):
        return
    data = b"".join([chunk async for chunk in driver.export_image(REFERENCE)])
    name = "localhost/kat/conformance:copy"
    await driver.import_image(name, chunks(data))
    require(await driver.find_image(name) is not None, "the imported image is not found")
    await driver.create(replace(_spec(), image=name))
    broken = driver.import_image("localhost/kat/broken:1", chunks(b"no archive" * 1000))
    await _raises(RuntimeFailure, "import of a broken archive", broken)
    require(await driver.find_image("localhost/kat/broken:1") is None, "a broken import left an image")


@KIT.check("reset removes everything and can be repeated")
async def resetting(driver: Runtime) -> None:
    if not isinstance(driver, Resettable):
        return
    await _serving(driver)
    await driver.reset()
    await driver.reset()
