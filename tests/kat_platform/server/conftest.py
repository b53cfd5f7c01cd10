"""A real API over TLS for each test, on a store in memory."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import aiohttp
import pytest
from kat_auth_mtls.driver import MtlsAuth, MtlsConfig

from kat_platform.interfaces.driver import DriverContext
from kat_platform.quadlet.archive import pack_files
from kat_platform.testing.control_plane import ControlPlane

API = "/v1alpha1"
JSON = ("application/json", "application/problem+json")


def auth(folder):
    return MtlsAuth(MtlsConfig(), DriverContext("n1", folder, folder, "kt"))


class Caller:
    """An HTTP client that speaks as somebody."""

    def __init__(self, plane, tls, token=None):
        self._plane, self._tls = plane, tls
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session = None

    async def __aenter__(self):
        self._session = aiohttp.ClientSession(headers=self._headers)
        return self

    async def __aexit__(self, *_):
        await self._session.close()

    def raw(self, method, path, **more):
        url = path if path.startswith("https:") else self._plane.url + path
        return self._session.request(method, url, ssl=self._tls, server_hostname="kat-api", **more)

    async def ask(self, method, path, status=None, **more):
        async with self.raw(method, path, **more) as answer:
            text = await answer.text()
            found = json.loads(text) if answer.content_type in JSON else text
            if status is not None:
                assert answer.status == status, f"{method} {path}: {answer.status} {text[:500]}"
            return answer.status, found, answer.headers

    async def get(self, path, status=200, **more):
        return (await self.ask("GET", API + path, status, **more))[1]

    async def post(self, path, body=None, status=200, **more):
        return (await self.ask("POST", API + path, status, json=body if body is not None else {}, **more))[1]

    async def apply(self, files, status=None, path="/apply", **more):
        method = "POST" if path == "/apply" else "PUT"
        more.setdefault("data", pack_files({name: text.encode() for name, text in files.items()}))
        return (await self.ask(method, API + path, status, **more))[1]

    @asynccontextmanager
    async def lines(self, path, **params):
        async with self.raw("GET", API + path, params=params) as answer:
            assert answer.status == 200, await answer.text()

            async def read():
                return json.loads(await answer.content.readline())

            yield read


@pytest.fixture
async def plane(tmp_path):
    plane = ControlPlane(tmp_path, auth(tmp_path))
    await plane.start()
    yield plane
    await plane.stop()


@pytest.fixture
async def admin(plane):
    async with Caller(plane, plane.user_tls("root", "admin")) as caller:
        yield caller


@pytest.fixture
def caller_of(plane):
    return lambda tls, token=None: Caller(plane, tls, token)
