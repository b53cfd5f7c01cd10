"""A driver for one check: folders of its own, started before and stopped after, nothing left behind."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from kat_platform.interfaces.driver import Driver, DriverContext
from kat_platform.testing.conformance.kit import Subject

T = TypeVar("T", bound=Driver)


def started(factory: Callable[[DriverContext], T]) -> Subject[T]:
    """Make a subject out of a driver's factory, for drivers that touch nothing but their folders and sockets."""

    @asynccontextmanager
    async def one() -> AsyncIterator[T]:
        with tempfile.TemporaryDirectory(prefix="kt-") as folder:
            data, run = Path(folder, "data"), Path(folder, "run")
            data.mkdir(mode=0o700)
            run.mkdir(mode=0o700)
            driver = factory(DriverContext("n1", data, run, "kt1"))
            await driver.start()
            try:
                yield driver
            finally:
                await driver.stop()

    return one
