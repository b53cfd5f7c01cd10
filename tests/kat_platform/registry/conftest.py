"""Distributions of strangers, made on the spot: metadata and modules in a folder that is put on ``sys.path``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kat_platform.interfaces import CONTRACTS, Capability, DriverContext
from kat_platform.registry.contract import operations

HEAD = """
from kat_platform.interfaces import Capability, DriverInfo
from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = 1


Settings = Config
"""


def driver_source(capability: Capability, name: str, *, api: str = "1.0", body: str = "", without: str = "") -> str:
    """Give a module with a class ``Driver`` that keeps the form of its contract, changed as the test asks."""
    lines = [HEAD, "class Driver:"]
    lines.append(
        f"    info = DriverInfo(name={name!r}, version='1', capability=Capability('{capability}'), api_version={api!r},"
        " capabilities={'fast': True}, summary='for tests')"
    )
    lines += ["    Config = Settings", "    def __init__(self, config, context):"]
    lines += ["        self.config, self.context = config, context"]
    for operation, function in operations(CONTRACTS[capability]).items():
        if operation != without:
            kind = "async def" if inspect.iscoroutinefunction(function) else "def"
            lines.append(f"    {kind} {operation}(self, *args, **kwargs): return None")
    if capability is Capability.STORE:
        lines.append("    max_operations = 128")
    return "\n".join(lines) + "\n" + body


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give a function that installs a distribution; all of them, and what they import, are gone after the test."""
    before = set(sys.modules)

    def installed(
        distribution: str,
        entry_points: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, str] | None = None,
        *,
        version: str = "1.0",
        folder: str = "site",
    ) -> Path:
        site = tmp_path / folder
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        sections = [f"[{group}]\n" + "\n".join(f"{n} = {t}" for n, t in e.items()) for group, e in entry_points.items()]
        (info / "entry_points.txt").write_text("\n\n".join(sections) + "\n")
        for module, source in (modules or {}).items():
            (site / f"{module}.py").write_text(source)
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()
        return site

    yield installed
    for module in set(sys.modules) - before:
        del sys.modules[module]


@pytest.fixture
def source_of() -> Callable[..., str]:
    """Give the function that writes a driver's module."""
    return driver_source


@pytest.fixture
def install_driver(install: Install) -> Callable[..., None]:
    """Give a function that installs one driver as a distribution ``kt-CAPABILITY-NAME``."""

    def installed(capability: Capability, name: str, source: str | None = None, **changes: Any) -> None:
        module = f"kt_{capability}_{name}"
        text = driver_source(capability, name, **changes) if source is None else source
        install(f"kt-{capability}-{name}", {capability.group: {name: f"{module}:Driver"}}, {module: text})

    return installed


@pytest.fixture
def contexts(tmp_path: Path) -> Callable[[Capability, str], DriverContext]:
    """Give contexts with folders of the test's own."""
    return lambda capability, name: DriverContext("node-1", tmp_path / "data", tmp_path / "run", "kt1")
