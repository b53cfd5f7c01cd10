"""katcall against a real API that lives in a thread of its own."""

from __future__ import annotations

import asyncio
import io
import json
import threading

import pytest
from kat_auth_mtls.driver import MtlsAuth, MtlsConfig

from kat_platform.cli import main
from kat_platform.interfaces.driver import DriverContext
from kat_platform.observability import logging
from kat_platform.testing.control_plane import ControlPlane


class Cluster:
    """A control plane on a loop in a thread; ``run`` carries coroutines over to it."""

    def __init__(self, folder):
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="kt-cluster", daemon=True)
        self.thread.start()
        context = DriverContext("n1", folder, folder, "kt")
        self.plane = self.run(self._make(MtlsAuth(MtlsConfig(), context)))

    async def _make(self, auth):
        plane = ControlPlane(self.folder, auth)
        await plane.start()
        return plane

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def put(self, key, model):
        data = model if isinstance(model, bytes) else model.to_json()

        async def write():
            await self.plane.store.put(key, data)
            await self.plane.settled()

        self.run(write())

    def close(self):
        self.run(self.plane.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


@pytest.fixture(autouse=True)
def _no_logs():
    """The server lives in this process: its log must not be taken for what katcall prints."""
    logging.configure(stream=io.StringIO())


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    cluster = Cluster(tmp_path)
    monkeypatch.setenv("KAT_CONFIG", str(tmp_path / "config.json"))
    use_as(cluster, "root", "admin")
    yield cluster
    cluster.close()


def use_as(cluster, name, role, **changes):
    """Make a context that speaks as a user."""
    certificate, key = cluster.plane.issue_user(name, role)
    context = {
        "servers": [cluster.plane.url],
        "ca": cluster.plane.authority.pem().decode(),
        "certificate": certificate.read_text(),
        "key": key.read_text(),
        "token": None,
        "namespace": "default",
        **changes,
    }
    path = cluster.folder / "config.json"
    path.write_text(json.dumps({"current": name, "contexts": {name: context}}))


@pytest.fixture
def become(cluster):
    return lambda name, role, **changes: use_as(cluster, name, role, **changes)


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def katcall(capfd):
    def call(*arguments, code=0):
        capfd.readouterr()
        found = main.run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert found == code, f"exit code {found}\n{out}\n{err}"
        return Result(found, out, err)

    return call
