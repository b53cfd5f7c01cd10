"""Runtimes on real Podman, in folders of their own, each cleaned away whatever happens."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.runtime import Container, ContainerSpec
from kat_platform.testing.conformance.runtime_image import REFERENCE, archive, chunks
from kat_runtime_podman.config import PodmanConfig
from kat_runtime_podman.driver import PodmanRuntime

Run = Callable[..., Awaitable[Container]]


def context_in(folder: str) -> DriverContext:
    """Make the folders an agent would make."""
    data, run = Path(folder, "data"), Path(folder, "run")
    for path in (data, run):
        path.mkdir(mode=0o700, exist_ok=True)
    return DriverContext("n1", data, run, f"kt{secrets.token_hex(2)}")


@asynccontextmanager
async def runtime_with(config: PodmanConfig, context: DriverContext) -> AsyncIterator[PodmanRuntime]:
    """Have a started driver; all it made is gone at the end."""
    driver = PodmanRuntime(config, context)
    try:
        await driver.start()
        yield driver
    finally:
        await driver.reset()


@pytest.fixture
def context() -> object:
    """A driver's folders, short enough to be used as they are."""
    with tempfile.TemporaryDirectory(prefix="kt-") as folder:
        yield context_in(folder)


@pytest.fixture
async def runtime(context: DriverContext) -> AsyncIterator[PodmanRuntime]:
    """A driver holding the kit's image."""
    async with runtime_with(PodmanConfig(local_stores=()), context) as driver:
        await driver.import_image(REFERENCE, chunks(archive()))
        yield driver


def sh(name: str, script: str, **more: object) -> ContainerSpec:
    """Give a spec whose command is a script."""
    return ContainerSpec(name, REFERENCE, command=("sh", "-c", script), **more)  # type: ignore[arg-type]


async def launch(driver: PodmanRuntime, spec: ContainerSpec) -> Container:
    """Create, init and start."""
    await driver.create(spec)
    await driver.init(spec.name)
    return await driver.start_container(spec.name)


@contextlib.contextmanager
def registry_folder() -> object:
    """A folder for a registry's data."""
    with tempfile.TemporaryDirectory(prefix="kt-registry-") as folder:
        yield Path(folder)
