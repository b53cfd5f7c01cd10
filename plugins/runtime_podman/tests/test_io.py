"""What goes into containers arrives as given, and what comes out is whole: command lines, logs, execs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from kat_runtime_podman.config import PodmanConfig
from kat_runtime_podman.driver import PodmanRuntime

from kat_platform.errors import RuntimeFailure, TimedOut
from kat_platform.interfaces.runtime import Container, ContainerSpec, LogLine, Mount
from kat_platform.testing.conformance.runtime_image import REFERENCE

pytestmark = pytest.mark.real
Launch = Callable[..., Awaitable[Container]]


@pytest.fixture
def config() -> PodmanConfig:
    return PodmanConfig(local_stores=(), log_max_bytes=65536)


async def output(runtime: PodmanRuntime, name: str) -> list[LogLine]:
    return [line async for line in runtime.logs(name, follow=True)]


async def test_a_spec_arrives_as_given(runtime: PodmanRuntime, launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mounted\n")
    tmp_path.chmod(0o755)
    await launch(
        "kt-a",
        'echo "$ODD"; cat /m/f /etc/resolv.conf; id -u; cat /proc/sys/kernel/hostname; (echo no > /x);'
        " cat /proc/mounts /etc/hosts",
        env={"ODD": "--a 'b' \"c\"\n\u00fc"},
        mounts=(Mount(str(tmp_path), "/m", read_only=True),),
        tmpfs=("/t",),
        user="1234",
        hostname="web-0",
        host_entries=(("10.100.0.5", "web-0"),),
        read_only_root=True,
        dns_servers=("10.1.2.3",),
        dns_search=("a.b", "c"),
        cap_drop=("ALL",),
    )
    lines = await output(runtime, "kt-a")
    said = [line.text for line in lines if line.stream == "stdout"]
    expected = ["--a 'b' \"c\"", "\u00fc", "mounted", "search a.b c", "nameserver 10.1.2.3"]
    expected += ["options ndots:2", "1234", "web-0"]
    assert said[: len(expected)] == expected
    assert any("Read-only" in line.text for line in lines if line.stream == "stderr")
    assert [line.split() for line in said if "web-0" in line] == [["web-0"], ["10.100.0.5", "web-0"]]
    hosts = Path("/etc/hosts").read_text().split()
    assert not any(name in " ".join(said).split() for name in hosts if name not in ("localhost", "127.0.0.1", "::1"))


async def test_entrypoint_and_arguments(runtime: PodmanRuntime, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f'FROM {REFERENCE}\nENTRYPOINT ["echo", "entry"]\nCMD ["cmd"]\n')
    async for _ in runtime.build_image(str(tmp_path), dockerfile="Dockerfile", tag="localhost/kt/e:1", build_args={}):
        pass
    cases: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...] | None, str]] = {
        "kt-a": (None, None, "entry cmd"),
        "kt-b": (None, ("-x", "--", "$y"), "entry -x -- $y"),
        "kt-c": (("echo", "own"), None, "own"),
        "kt-d": (("echo",), ("-", "args"), "- args"),
        "kt-e": (None, (), "entry"),
    }
    for name, (command, args, expected) in cases.items():
        await runtime.create(ContainerSpec(name, "localhost/kt/e:1", command=command, args=args))
        await runtime.init(name)
        await runtime.start_container(name)
        assert [line.text for line in await output(runtime, name)] == [expected], name


async def test_a_missing_program_cannot_start(runtime: PodmanRuntime) -> None:
    await runtime.create(ContainerSpec("kt-a", REFERENCE, command=("/no/such",)))

    async def bring_up() -> None:
        await runtime.init("kt-a")
        await runtime.start_container("kt-a")

    with pytest.raises(RuntimeFailure, match="/no/such"):
        await bring_up()


async def test_long_lines_are_whole_and_a_chatty_container_does_not_fill_the_disk(
    runtime: PodmanRuntime, launch: Launch
) -> None:
    await launch("kt-a", "head -c 30000 /dev/zero | tr '\\\\0' x; echo; echo end")
    lines = await output(runtime, "kt-a")
    assert [len(line.text) for line in lines] == [30000, 3]
    await launch("kt-b", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo last")
    lines = await output(runtime, "kt-b")
    assert lines[-1].text == "last"
    size = sum(path.stat().st_size for path in (runtime.storage / "overlay-containers").glob("*/userdata/ctr.log"))
    assert size < 2 * 65536 + 40000


async def test_the_log_goes_on_after_a_restart(runtime: PodmanRuntime, launch: Launch) -> None:
    await launch("kt-a", "echo run")
    await output(runtime, "kt-a")
    await runtime.init("kt-a")
    again = await runtime.start_container("kt-a")
    await output(runtime, "kt-a")
    lines = await output(runtime, "kt-a")
    assert [line.text for line in lines] == ["run", "run"]
    assert lines[0].at < (again.started_at or 0) <= lines[1].at


async def test_terminals(runtime: PodmanRuntime, launch: Launch) -> None:
    await launch("kt-a", "sleep 100")
    session = await runtime.open_exec("kt-a", ("sh",), tty=True, stdin=True)
    collected = bytearray()
    answered = asyncio.Event()

    async def read() -> None:
        async for _, data in session.output():
            collected.extend(data)
            if b"42 ready" in collected:
                answered.set()

    reader = asyncio.create_task(read())
    await session.write(b"echo $((40+2)) ready\n")
    await asyncio.wait_for(answered.wait(), 10)
    await session.resize(33, 77)
    await asyncio.sleep(0.2)
    await session.write(b"stty size; exit 9\n")
    assert await asyncio.wait_for(session.wait(), 10) == 9
    await asyncio.wait_for(reader, 5)
    await session.close()
    assert b"33 77" in collected


async def test_a_timed_out_exec_leaves_no_process(runtime: PodmanRuntime, launch: Launch) -> None:
    await launch("kt-a", "sleep 100")
    with pytest.raises(TimedOut):
        await runtime.exec("kt-a", ("sh", "-c", "sleep 77 & sleep 77"), timeout=0.5)
    await asyncio.sleep(0.2)
    result = await runtime.exec("kt-a", ("ps",), timeout=10)
    assert b"sleep 77" not in result.stdout
    assert b"sleep 100" in result.stdout
    big = await runtime.exec("kt-a", ("head", "-c", "300000", "/dev/zero"), timeout=10)
    assert len(big.stdout) == 65536


async def test_nothing_secret_is_on_a_command_line(runtime: PodmanRuntime, launch: Launch) -> None:
    await launch("kt-a", "sleep 100", env={"KEY": "s3cr3t-in-spec"})
    session = await runtime.open_exec("kt-a", ("sleep", "5"))
    running = asyncio.create_task(runtime.exec("kt-a", ("sleep", "1"), timeout=5, env={"K": "s3cr3t-in-exec"}))
    await asyncio.sleep(0.4)
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                assert b"s3cr3t-in" not in Path("/proc", entry, "cmdline").read_bytes()
            except OSError:
                continue
    await running
    await session.close()
