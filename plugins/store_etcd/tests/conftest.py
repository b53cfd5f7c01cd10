"""What the store's tests share: real etcds in folders of their own, gone at the end whatever happened."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from kat_store_etcd.config import EtcdConfig
from kat_store_etcd.driver import EtcdStore

from kat_platform.interfaces.driver import DriverContext
from kat_platform.testing.conformance.store import free_port

MakeStore = Callable[..., EtcdStore]


def make_context(root: Path, name: str) -> DriverContext:
    """Give a driver's context with its folders."""
    context = DriverContext(name, root / name / "data", root / name / "run", "kt0")
    for folder in (context.data_dir, context.run_dir):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return context


@pytest.fixture(autouse=True)
def _etcd_is_installed(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("real") and shutil.which("etcd") is None:
        pytest.fail("these tests need etcd: install the package etcd-server")


@pytest_asyncio.fixture
async def make_store(tmp_path: Path) -> AsyncIterator[MakeStore]:
    """Construct stores by node name; all of them are reset at the end."""
    async with AsyncExitStack() as stack:

        def make(name: str = "kt-a", root: Path | None = None, **config: Any) -> EtcdStore:
            store = EtcdStore(EtcdConfig(**config), make_context(root or tmp_path, name))
            stack.push_async_callback(store.reset)
            return store

        yield make


@pytest_asyncio.fixture
async def store(make_store: MakeStore) -> EtcdStore:
    """Give a started store of one member."""
    made = make_store()
    await made.bootstrap("kt-a", peer_url())
    await made.start()
    return made


def peer_url() -> str:
    """Give a peer URL on loopback with a free port."""
    return f"http://127.0.0.1:{free_port()}"
