"""Images come from a registry, from the host's own Podman, or from a build; and each failure has its name."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kat_runtime_podman.config import PodmanConfig
from kat_runtime_podman.driver import PodmanRuntime

from kat_platform.errors import BuildFailed, ImageNotFound, ImagePullFailed
from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.runtime import ContainerSpec
from kat_platform.testing.conformance.runtime_image import REFERENCE, archive, chunks

pytestmark = pytest.mark.real


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def registry() -> AsyncIterator[str]:
    """A registry on loopback, without TLS."""
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        pytest.skip("needs Debian's docker-registry")
    with tempfile.TemporaryDirectory(prefix="kt-registry-") as folder:
        port = free_port()
        settings = Path(folder, "config.yml")
        settings.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
            f"http: {{addr: '127.0.0.1:{port}'}}\n"
        )
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(program, "serve", str(settings), stdout=quiet, stderr=quiet)
        try:
            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        break
                    await asyncio.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            await process.wait()


@pytest.fixture
def config(registry: str) -> PodmanConfig:
    return PodmanConfig(local_stores=(), insecure_registries=(registry,))


async def podman(runtime: PodmanRuntime, *words: str) -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "podman", *words, env=runtime.environment, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


async def test_images_are_pulled_and_failures_told_apart(runtime: PodmanRuntime, registry: str) -> None:
    name = f"{registry}/kt/app:1"
    await podman(runtime, "tag", REFERENCE, name)
    await podman(runtime, "push", "--quiet", name)
    await podman(runtime, "rmi", name)
    assert await runtime.find_image(name) is None
    first, second = await asyncio.gather(runtime.ensure_image(name), runtime.ensure_image(name))
    assert first == second
    assert first.digest is not None
    pinned = await runtime.ensure_image(f"{registry}/kt/app@{first.digest}")
    assert pinned.id == first.id
    await runtime.create(ContainerSpec("kt-a", name))
    with pytest.raises(ImageNotFound):
        await runtime.ensure_image(f"{registry}/kt/app:none")
    with pytest.raises(ImageNotFound):
        await runtime.ensure_image(f"{registry}/kt/none:1")
    with pytest.raises(ImagePullFailed) as refused:
        await runtime.ensure_image(f"127.0.0.1:{free_port()}/kt/app:1")
    assert refused.value.retryable


async def test_what_the_host_built_is_found_and_copied(context: DriverContext, runtime: PodmanRuntime) -> None:
    store = runtime.environment["CONTAINERS_STORAGE_CONF"]
    graph = Path(store).parent.parent / "storage"
    with tempfile.TemporaryDirectory(prefix="kt-") as folder:
        data, run = Path(folder, "data"), Path(folder, "run")
        data.mkdir()
        run.mkdir()
        other = PodmanRuntime(PodmanConfig(local_stores=(str(graph),)), DriverContext("n2", data, run, "ktoth"))
        try:
            await other.start()
            copied = await other.ensure_image(REFERENCE)
            assert copied == await runtime.find_image(REFERENCE)
            again = await other.ensure_image(REFERENCE)
            assert again == copied
            with pytest.raises(ImageNotFound):
                await other.ensure_image("localhost/kt/never:1")
        finally:
            await other.reset()


async def test_builds(runtime: PodmanRuntime, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "Dockerfile").write_text(f"FROM {REFERENCE}\nARG WHO\nLABEL who=$WHO\nCOPY file /file\n")
    lines = runtime.build_image(
        str(tmp_path), dockerfile="Dockerfile", tag="localhost/kt/built:1", build_args={"WHO": "-me too"}
    )
    said = [line async for line in lines]
    assert said
    assert await runtime.find_image("localhost/kt/built:1") is not None
    (tmp_path / "Dockerfile").write_text(f"FROM {REFERENCE}\nCOPY nothing /file\n")
    with pytest.raises(BuildFailed) as failed:
        async for _ in runtime.build_image(
            str(tmp_path), dockerfile="Dockerfile", tag="localhost/kt/bad:1", build_args={}
        ):
            pass
    assert failed.value.details["output"]


async def test_an_archive_is_known_by_the_name_it_is_imported_under(runtime: PodmanRuntime) -> None:
    await runtime.import_image("localhost/kt/other:2", chunks(archive("localhost/kt/inner:1")))
    assert await runtime.find_image("localhost/kt/other:2") is not None
    assert await runtime.find_image("localhost/kt/inner:1") is None
