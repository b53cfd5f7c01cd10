"""Runtimes on real Podman, in folders of their own, each cleaned away whatever happens."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kat_runtime_podman.config import PodmanConfig
from kat_runtime_podman.driver import PodmanRuntime

from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.runtime import Container, ContainerSpec
from kat_platform.testing.conformance.runtime_image import REFERENCE, archive, chunks

Launch = Callable[..., Awaitable[Container]]


@pytest.fixture
def context() -> Iterator[DriverContext]:
    """A driver's folders, as an agent would make them."""
    with tempfile.TemporaryDirectory(prefix="kt-") as folder:
        data, run = Path(folder, "data"), Path(folder, "run")
        for path in (data, run):
            path.mkdir(mode=0o700)
        yield DriverContext("n1", data, run, f"kt{secrets.token_hex(2)}")


@pytest.fixture
def config() -> PodmanConfig:
    """Settings without the host's own images; tests may override it."""
    return PodmanConfig(local_stores=())


@pytest.fixture
async def runtime(context: DriverContext, config: PodmanConfig) -> AsyncIterator[PodmanRuntime]:
    """A started driver that has the kit's image; all it made is gone at the end."""
    driver = PodmanRuntime(config, context)
    try:
        await driver.start()
        await driver.import_image(REFERENCE, chunks(archive()))
        yield driver
    finally:
        await driver.reset()


@pytest.fixture
def launch(runtime: PodmanRuntime) -> Launch:
    """Create, init and start a container running a shell script."""

    async def go(name: str, script: str, **more: Any) -> Container:
        await runtime.create(ContainerSpec(name, REFERENCE, command=("sh", "-c", script), **more))
        await runtime.init(name)
        return await runtime.start_container(name)

    return go
