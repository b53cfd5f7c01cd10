"""The conformance kit under all kits: what every driver must do, whatever its capability. Nothing is started."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from kat_platform.interfaces.driver import Driver, DriverContext, DriverStatus, Resettable
from kat_platform.testing.conformance.kit import Kit, Subject, require


@dataclass(frozen=True, slots=True)
class Unstarted:
    """A driver just constructed, and the context it was given."""

    driver: Driver
    context: DriverContext


KIT: Kit[Unstarted] = Kit("driver")
"""The rules of ``docs/contracts/driver.md`` that can be tried on any driver."""


def subject(factory: Callable[[DriverContext], Driver]) -> Subject[Unstarted]:
    """Construct a driver for each check in folders of its own, and reset it afterwards where it can be."""

    @asynccontextmanager
    async def make() -> AsyncIterator[Unstarted]:
        with tempfile.TemporaryDirectory(prefix="kt-driver-") as folder:
            context = DriverContext("kt-node", Path(folder, "data"), Path(folder, "run"), "ktd")
            context.data_dir.mkdir(mode=0o700)
            context.run_dir.mkdir(mode=0o700)
            driver = factory(context)
            try:
                yield Unstarted(driver, context)
            finally:
                if isinstance(driver, Resettable):
                    await driver.reset()

    return make


@KIT.check("construction does no I/O: it leaves the driver's folders empty")
async def construction_is_quiet(made: Unstarted) -> None:
    found = [*made.context.data_dir.iterdir(), *made.context.run_dir.iterdir()]
    require(not found, f"construction made {', '.join(path.name for path in found)}")


@KIT.check("a driver may be stopped without having been started, and twice")
async def stop_is_safe(made: Unstarted) -> None:
    await made.driver.stop()
    await made.driver.stop()


@KIT.check("status never raises, and is a DriverStatus whose facts are JSON", timeout=5)
async def status_always_answers(made: Unstarted) -> None:
    status = await made.driver.status()
    require(isinstance(status, DriverStatus), f"status gave a {type(status).__name__}")
    json.dumps(dict(status.facts))


@KIT.check("capabilities are plain data")
async def capabilities_are_data(made: Unstarted) -> None:
    json.dumps(dict(made.driver.info.capabilities))


@KIT.check("every setting has a default and a description, and unknown keys are refused")
async def settings_are_described(made: Unstarted) -> None:
    schema = made.driver.Config
    schema()
    bare = [name for name, setting in schema.model_fields.items() if not setting.description]
    require(not bare, f"no description: {', '.join(bare)}")
    require(schema.model_config.get("extra") == "forbid", "unknown keys are not refused")


@KIT.check("reset works without start, and twice", timeout=60)
async def reset_is_idempotent(made: Unstarted) -> None:
    if isinstance(made.driver, Resettable):
        await made.driver.reset()
        await made.driver.reset()
