"""A whole cluster of one node in this process: the real API over TLS, leader and agent, on drivers in memory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, ClassVar, cast

import aiohttp
from kat_auth_mtls.driver import MtlsAuth, MtlsConfig

from kat_platform.agent.identity import OwnTls
from kat_platform.agent.link import ApiLink
from kat_platform.agent.local import LocalNode, Places
from kat_platform.agent.node import NodeAgent
from kat_platform.agent.trust import NodeTrustKeeper
from kat_platform.hooks.types import NodeFacts
from kat_platform.interfaces.builder import Builder
from kat_platform.interfaces.dns import ListenAddress
from kat_platform.interfaces.driver import Capability, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.interfaces.store import Leadership
from kat_platform.leader.controller import Controller
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.identity import NodeName
from kat_platform.model.identity import NodeRole as NamedRole
from kat_platform.model.meta import Metadata
from kat_platform.model.node import NodeRecord, NodeRole
from kat_platform.pki.authority import CERTIFICATE_FILE
from kat_platform.pki.files import private_folder, write_whole
from kat_platform.quadlet.archive import pack_files
from kat_platform.registry.drivers import Drivers
from kat_platform.state import keys
from kat_platform.state.events import EventRecorder
from kat_platform.testing.control_plane import CLUSTER_ID, ControlPlane
from kat_platform.testing.fakes.dns import FakeDns
from kat_platform.testing.fakes.network import FakeNetwork
from kat_platform.testing.fakes.runtime import FakeRuntime
from kat_platform.testing.fakes.scheduler import FakeScheduler

SUBNET = IPv4Network("127.77.0.0/23")
"""On loopback, so that the agent can really listen on the gateway's address."""
IMAGE = "localhost/app:1"
API = "/v1alpha1"


class AnyPortDns(FakeDns):
    """Takes a free port: the real one is for root only."""

    async def listen(self, addresses: tuple[ListenAddress, ...]) -> tuple[ListenAddress, ...]:
        """Listen on the same addresses."""
        return await super().listen(tuple(ListenAddress(a.address, 0) for a in addresses))


class NoBuilder:
    """Stands where a builder belongs; nothing here is built."""

    info: ClassVar[DriverInfo] = DriverInfo("none", "1.0.0", Capability.BUILDER)

    async def status(self) -> DriverStatus:
        """Tell that all is well."""
        return DriverStatus(Health.OK)


async def _no_facts() -> NodeFacts:
    return NodeFacts()


class World:
    """One node and its control plane; ``crash_agent`` and ``start_agent`` treat its drivers as the machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        context = DriverContext("n1", folder, folder, "kt")
        self.auth = MtlsAuth(MtlsConfig(), context)
        self.plane = ControlPlane(folder, self.auth)
        self.runtime, self.network, self.dns = FakeRuntime(), FakeNetwork(None, context), AnyPortDns(None, context)
        self.scheduler = FakeScheduler()
        self.runtime.add_image(IMAGE)
        self.runtime.add_image("localhost/app:2")
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._http = aiohttp.ClientSession()
        self._user = self.plane.user_tls("kt", "admin")

    async def start(self) -> None:
        """Start everything."""
        await self.plane.start()
        recorder = EventRecorder(self.plane.store)
        self._tasks["events"] = asyncio.create_task(recorder.run(), name="events")
        record = NodeRecord(name="n1", role=NodeRole.CONTROL_PLANE, subnet=SUBNET, public_key="k")
        await self.plane.store.put(keys.node("n1"), record.to_json())
        await self.plane.store.delete(keys.alive("n1"))
        leadership = await self.plane.store.campaign(keys.ELECTION, "n1", ttl=60)
        self._tasks["leader"] = asyncio.create_task(self._lead(leadership, recorder), name="leader")
        for driver in (self.runtime, self.network, self.dns):
            await driver.start()
        self.start_agent()

    async def _lead(self, leadership: Leadership, recorder: EventRecorder) -> None:
        await Controller(self.plane.store, self.plane.cache, self.scheduler, recorder).lead(leadership)

    def start_agent(self) -> None:
        """Start the worker half of an agent."""
        places = Places(self.folder / "node")
        places.data.mkdir(exist_ok=True)
        configuration = ClusterConfiguration(metadata=Metadata(name="cluster"))
        spec = configuration.spec.model_copy(
            update={
                "agent_port": 0,
                "agent_tick_seconds": 0.1,
                "cluster_cidr": IPv4Network("127.77.0.0/16"),
                "volume_base_path": str(self.folder / "volumes"),
            }
        )
        node = LocalNode(
            cluster_id=CLUSTER_ID,
            node_name="n1",
            role=NodeRole.CONTROL_PLANE,
            tag="kt",
            configuration=configuration.model_copy(update={"spec": spec}),
        )
        tls = self.plane.node_tls("n1", NamedRole.CONTROL_PLANE)
        private_folder(places.pki)
        write_whole(places.pki / CERTIFICATE_FILE, self.plane.authority.pem())
        files = self.plane.issue_node(NodeName(CLUSTER_ID, "n1", NamedRole.CONTROL_PLANE))
        for made, place in zip(files, (places.certificate, places.key), strict=True):
            write_whole(place, made.read_bytes())
        own = OwnTls(places)
        trust = NodeTrustKeeper("n1", places, own)
        drivers = Drivers(
            runtime=self.runtime,
            network=self.network,
            store=self.plane.store,
            scheduler=self.scheduler,
            dns=self.dns,
            builder=cast(Builder, NoBuilder()),
            auth=self.auth,
        )
        self.link = ApiLink("n1", (self.plane.url,), tls)
        # The API tells agents the address of the real port, which this one does not have.
        self.link.set_endpoints = lambda endpoints: None  # type: ignore[method-assign]
        agent = NodeAgent(
            node, places, drivers, self.link, own, trust, plugin_facts=_no_facts, on_configuration=lambda *_: None
        )
        self._tasks["agent"] = asyncio.create_task(agent.run(), name="agent")

    async def crash_agent(self) -> None:
        """End the agent between two steps of its; the containers go on."""
        await self._end("agent")
        await self.link.close()

    async def _end(self, name: str) -> None:
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def stop(self) -> None:
        """Stop everything; raises what broke."""
        await asyncio.sleep(0)
        broken = [task for task in self._tasks.values() if task.done()]
        errors = [error for task in broken if (error := task.exception()) is not None]
        for name in list(self._tasks):
            if not self._tasks[name].done():
                await self._end(name)
        await self.link.close()
        await self._http.close()
        for driver in (self.dns, self.network, self.runtime):
            await driver.stop()
        await self.plane.stop()
        if errors:
            raise errors[0]

    # --- as a user ------------------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, data: Any = None) -> tuple[int, Any]:
        """Ask the API as an administrator."""
        url = f"{self.plane.url}{API}{path}"
        body = data if isinstance(data, bytes) or data is None else json.dumps(data).encode()
        async with self._http.request(method, url, data=body, ssl=self._user, server_hostname="kat-api") as answer:
            return answer.status, await answer.json(content_type=None)

    async def apply(self, name: str = "web", *, balancer: dict[str, Any] | None = None, **spec: Any) -> Any:
        """Apply a Service."""
        body = {"type": "Service", "source": {"image": IMAGE}, **spec}
        files = {"workload.kat": _document("Workload", name, body)}
        if balancer is not None:
            files["lb.kat"] = _document("VirtualLoadBalancer", name, balancer)
        status, answer = await self.ask(
            "POST", "/apply", pack_files({path: text.encode() for path, text in files.items()})
        )
        assert status in (200, 201), answer
        return answer

    async def instances(self) -> list[Any]:
        """Give all instances."""
        return cast(list[Any], (await self.ask("GET", "/namespaces/default/instances"))[1]["items"])

    async def workload(self, name: str = "web") -> Any:
        """Give a workload."""
        return (await self.ask("GET", f"/namespaces/default/workloads/{name}"))[1]

    async def until(self, look: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
        """Wait until ``look`` (may be asynchronous) gives something true."""
        deadline = time.monotonic() + seconds
        while True:
            seen = look()
            seen = await seen if asyncio.iscoroutine(seen) else seen
            if seen:
                return seen
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; {await self.instances()}"
            await asyncio.sleep(0.01)

    async def ready(self, count: int, name: str = "web") -> Any:
        """Wait until a workload has exactly ``count`` ready instances of its newest revision and no others."""

        async def look() -> Any:
            item = await self.workload(name)
            summary, all_of_it = item["summary"], [i for i in await self.instances() if i["workload"] == name]
            same = {summary[key] for key in ("wanted", "updated", "ready", "available")} == {count}
            return item if same and len(all_of_it) == count else None

        return await self.until(look, f"{count} ready instances of {name}")


def _document(kind: str, name: str, spec: dict[str, Any]) -> str:
    return json.dumps({"apiVersion": "kat.dws.rip/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
