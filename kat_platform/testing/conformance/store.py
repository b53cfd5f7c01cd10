"""The conformance kit of the store contract: what every store must do, whatever is behind it."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from kat_platform.interfaces.driver import Driver, DriverContext, Resettable
from kat_platform.interfaces.store import HasMembers, Store
from kat_platform.testing.conformance.kit import Kit, Subject
from kat_platform.testing.conformance.store_elections import ELECTIONS
from kat_platform.testing.conformance.store_keys import KEYS
from kat_platform.testing.conformance.store_leases import LEASES
from kat_platform.testing.conformance.store_transactions import TRANSACTIONS
from kat_platform.testing.conformance.store_watches import WATCHES

KIT: Kit[Store] = Kit("store", [*KEYS.checks, *TRANSACTIONS.checks, *WATCHES.checks, *LEASES.checks, *ELECTIONS.checks])
"""Every rule of the store contract that one driver on one node can be tried on."""


def free_port() -> int:
    """Find a TCP port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def subject(factory: Callable[[DriverContext], Driver]) -> Subject[Store]:
    """Make a fresh store for each check, in folders of its own; afterwards nothing of it is left.

    ``factory`` constructs the driver; a store with members is bootstrapped as a cluster of one on loopback.
    """

    @asynccontextmanager
    async def make() -> AsyncIterator[Store]:
        with tempfile.TemporaryDirectory(prefix="kt-store-") as folder:
            context = DriverContext("kt-node", Path(folder, "data"), Path(folder, "run"), "kt0")
            context.data_dir.mkdir(mode=0o700)
            context.run_dir.mkdir(mode=0o700)
            driver = factory(context)
            try:
                if isinstance(driver, HasMembers):
                    await driver.bootstrap(context.node_name, f"http://127.0.0.1:{free_port()}")
                await driver.start()
                yield cast(Store, driver)
            finally:
                await driver.stop()
                if isinstance(driver, Resettable):
                    await driver.reset()

    return make
