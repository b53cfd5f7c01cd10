"""Teardown: ``kat-agent reset``. Takes everything of KAT's off the host, also after a crash."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import structlog

from kat_platform.agent.daemon import plugins_for
from kat_platform.agent.local import AgentLock, LocalNode, Places, load_node, remove_places
from kat_platform.errors import KatError
from kat_platform.interfaces.driver import Capability, Driver, Resettable

log = structlog.get_logger(__name__)

ORDER = (Capability.RUNTIME, Capability.DNS, Capability.NETWORK, Capability.STORE, Capability.BUILDER, Capability.AUTH)
"""Containers go first, then what they stood on."""


async def reset(
    places: Places, *, keep_volumes: bool, progress: Callable[[str], None], lock: AgentLock | None = None
) -> list[str]:
    """Remove containers, interfaces, rules, processes and files of this node; gives what could not be removed.

    Backups are always kept, volumes if ``keep_volumes``. ``lock`` is given by who has it already. Raises ``Conflict``
    while an agent runs, ``NotFound`` when there is nothing to reset.
    """
    node = load_node(places)
    if lock is None:
        lock = AgentLock(places)
        lock.acquire()
    problems: list[str] = []
    try:
        for driver in _drivers(node, places, problems):
            if isinstance(driver, Resettable):
                progress(f"removing what {driver.info.name} made")
                try:
                    await driver.reset()
                except KatError as error:
                    problems.append(f"{driver.info.name}: {error}")
    finally:
        lock.release()
    if problems:
        return problems
    progress("removing files")
    spec = node.configuration.spec
    volumes = places.rebased(spec.volume_base_path, spec.data_path)
    if not keep_volumes and volumes.is_dir():
        shutil.rmtree(volumes)
    remove_places(places, node.tag, kept_paths(places, node, keep_volumes=keep_volumes))
    return []


def kept_paths(places: Places, node: LocalNode, *, keep_volumes: bool) -> tuple[Path, ...]:
    """Give the folders a reset leaves alone: backups, and volumes if wanted, as far as they exist and hold anything."""
    spec = node.configuration.spec
    chosen = [spec.backup_path, *([spec.volume_base_path] if keep_volumes else [])]
    wanted = [places.rebased(path, spec.data_path) for path in chosen]
    return tuple(path for path in wanted if path.is_dir() and any(path.iterdir()))


def _drivers(node: LocalNode, places: Places, problems: list[str]) -> list[Driver]:
    try:
        drivers = plugins_for(node, places).drivers
    except KatError as error:
        problems.append(f"the plugins cannot be loaded, so what they made cannot be removed: {error}")
        return []
    return [driver for capability in ORDER for c, driver in drivers.all() if c is capability]
