"""Routes about the server itself: is it well, what does it serve, who leads."""

from __future__ import annotations

import asyncio

from aiohttp import web

import kat_platform
from kat_platform.errors import Unavailable
from kat_platform.model.version import agents_of
from kat_platform.observability.metrics import CONTENT_TYPE
from kat_platform.server.api import Api
from kat_platform.server.requests import answer, answer_json
from kat_platform.server.table import PREFIX, Route

_STORE_SECONDS = 1.0


async def livez(_: web.Request, __: Api) -> web.StreamResponse:
    """Say that the server runs."""
    return answer(b'{"status":"ok"}')


async def readyz(_: web.Request, api: Api) -> web.StreamResponse:
    """Say whether the server can serve: the store answers and its state is here."""
    if api.streams.closing:
        raise Unavailable("the server is shutting down")
    try:
        async with asyncio.timeout(_STORE_SECONDS):
            status = await api.deps.store.store_status()
    except TimeoutError:
        raise Unavailable(f"the store did not answer within {_STORE_SECONDS:g} s") from None
    if not status.available:
        raise Unavailable("the store does not answer")
    return answer_json({"status": "ok", "revision": api.state.revision, "alarms": list(status.alarms)})


async def metrics(_: web.Request, api: Api) -> web.StreamResponse:
    """Give the metrics of this process."""
    return web.Response(body=api.metrics.render(), headers={"Content-Type": CONTENT_TYPE})


async def openapi(_: web.Request, api: Api) -> web.StreamResponse:
    """Give the OpenAPI document."""
    return answer(api.openapi)


async def version(_: web.Request, api: Api) -> web.StreamResponse:
    """Give the server's version, and which agents it works with."""
    oldest, newest = agents_of(kat_platform.__version__)
    return answer_json(
        {
            "version": kat_platform.__version__,
            "apiVersion": "v1alpha1",
            "node": api.deps.node_name,
            "agents": {"oldest": str(oldest), "newest": str(newest)},
        }
    )


async def leader(_: web.Request, api: Api) -> web.StreamResponse:
    """Tell which node leads."""
    return answer_json({"leader": api.deps.leader_info()})


async def plugins(_: web.Request, api: Api) -> web.StreamResponse:
    """Tell which plugins are installed, chosen and refused on this node."""
    report = await asyncio.to_thread(api.deps.plugins_report)  # reads what is installed, from disk
    return answer_json({"node": api.deps.node_name, **report})


ROUTES = (
    Route("GET", "/livez", livez, "Whether the server runs.", answer="Health", public=True),
    Route("GET", "/readyz", readyz, "Whether the server can serve.", answer="Health", public=True),
    Route("GET", "/metrics", metrics, "Metrics for Prometheus.", media="text/plain", any_caller=True),
    Route("GET", "/openapi.json", openapi, "This document.", answer="Any", public=True),
    Route("GET", f"{PREFIX}/version", version, "The server's version.", answer="Version", any_caller=True),
    Route("GET", f"{PREFIX}/leader", leader, "Which node leads.", "leader", answer="Leader"),
    Route("GET", f"{PREFIX}/plugins", plugins, "Plugins of the node that answers.", "plugins", answer="Plugins"),
)
