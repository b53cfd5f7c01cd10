"""Node view: what one node must know, as items that are sent again only when they differ. Rendering is pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address
from typing import Final

import structlog
from aiohttp import web

from kat_platform.model.base import Model
from kat_platform.model.instance import Desired, InstanceStatus, is_ready
from kat_platform.model.node import NodeRole
from kat_platform.model.view import AssignmentItem, ClusterItem, EndpointItem, NodeItem, ServiceItem, TrustItem
from kat_platform.server import index
from kat_platform.server.index import Index, Ref
from kat_platform.server.objects import Objects
from kat_platform.server.streams import Mailbox, Streams
from kat_platform.state.cluster import ClusterState

log = structlog.get_logger(__name__)

PING_SECONDS: Final = 10.0
CLUSTER: Final = "cluster"
TRUST: Final = "trust"
_CHUNK: Final = 256


def item_keys(ref: Ref) -> tuple[str, ...]:
    """Name the items that an object of the API goes into. Pure."""
    if ref.collection == index.WORKLOADS:
        return (f"service/{ref.namespace}/{ref.name}",)
    if ref.collection == index.INSTANCES:
        return (f"instance/{ref.namespace}/{ref.name}",)
    if ref.collection == index.NODES:
        return (f"node/{ref.name}", CLUSTER)
    if ref.collection in (index.NAMESPACES, index.CONFIGURATION):
        return (CLUSTER,)
    if ref.collection == index.TRUST:
        return (TRUST,)
    return ()


def all_keys(state: ClusterState, instances: Index, node: str) -> Iterator[str]:
    """Name every item of a node's view."""
    yield TRUST
    yield CLUSTER
    for name in sorted(state.nodes):
        yield f"node/{name}"
    for ns, name in sorted(state.workloads):
        yield f"service/{ns}/{name}"
    for ns, id_ in sorted(instances.on_node(node)):
        yield f"instance/{ns}/{id_}"


def render_item(state: ClusterState, instances: Index, node: str, key: str) -> Model | None:
    """Give one item of a node's view, or ``None`` when it has no such item (any more)."""
    kind, _, rest = key.partition("/")
    if kind == "cluster":
        return cluster_item(state)
    if kind == "node":
        return node_item(state, rest)
    if kind == TRUST:
        return trust_item(state)
    ns, _, name = rest.partition("/")
    return service_item(state, instances, ns, name) if kind == "service" else assignment_item(state, ns, name, node)


def cluster_item(state: ClusterState) -> ClusterItem | None:
    """Give the configuration, where the API answers, and the namespaces."""
    if state.configuration is None:
        return None
    return ClusterItem(
        configuration=state.configuration,
        api_endpoints=api_endpoints(state, state.configuration.spec.api_port),
        namespaces=tuple(sorted(state.namespaces)),
    )


def api_endpoints(state: ClusterState, port: int, *, first: str = "") -> tuple[str, ...]:
    """Give where the API answers: node by node, beginning with the node ``first``."""
    endpoints: list[str] = []
    inside: list[str] = []  # through the overlay: asked last, so that the first failure leads to another node
    for name, record in sorted(state.nodes.items(), key=lambda item: (item[0] != first, item[0])):
        if record.role is NodeRole.CONTROL_PLANE:
            report = state.reports.get(name)
            endpoints += [f"https://{_host(address)}:{port}" for address in (report.addresses if report else ())]
            if record.overlay_address is not None:
                inside.append(f"https://{record.overlay_address}:{port}")
    return tuple(dict.fromkeys((*endpoints, *inside)))


def trust_item(state: ClusterState) -> TrustItem | None:
    """Give whose certificates are accepted; nothing while that is the CA of the beginning and all of its."""
    record, revoked = state.trust, tuple(sorted(state.revoked))
    if record is None:
        return TrustItem(revoked=revoked) if revoked else None
    return TrustItem(
        authorities=tuple(each.certificate for each in record.authorities),
        signer=record.signer,
        store_turn=record.store_turn,
        revoked=revoked,
    )


def node_item(state: ClusterState, name: str) -> NodeItem | None:
    """Give what the mesh and DNS need of a node."""
    record = state.nodes.get(name)
    if record is None:
        return None
    report = state.reports.get(name)
    return NodeItem(
        name=name,
        subnet=record.subnet,
        public_key=record.public_key or (report.public_key if report else ""),
        addresses=report.addresses if report else (),
        listen_port=report.listen_port if report else 51820,
        alive=name in state.alive,
        control_plane=record.role is NodeRole.CONTROL_PLANE,
    )


def service_item(state: ClusterState, instances: Index, ns: str, name: str) -> ServiceItem | None:
    """Give a workload with its virtual IP and the instances behind it."""
    if (ns, name) not in state.workloads:
        return None
    target = state.target(ns, name)
    balancer = target.load_balancer if target is not None else None
    address = state.vips.get((ns, name))
    return ServiceItem(
        namespace=ns,
        workload=name,
        virtual_ip=IPv4Address(address) if address else None,
        spec=balancer.spec if balancer is not None else None,
        endpoints=tuple(_endpoints(state, instances, ns, name)),
    )


def _endpoints(state: ClusterState, instances: Index, ns: str, name: str) -> Iterator[EndpointItem]:
    for id_ in sorted(instances.of_workload(ns, name)):
        record, status = state.instances[ns, id_], state.statuses.get((ns, id_))
        if record.node is None or record.lost_at is not None or not _has_address(status):
            continue
        assert status is not None and status.address is not None  # noqa: PT018 - what _has_address means
        yield EndpointItem(
            id=id_,
            node=record.node,
            address=IPv4Address(status.address),
            ready=is_ready(record, status),
            draining=record.desired is Desired.STOP,
        )


def _has_address(status: InstanceStatus | None) -> bool:
    return status is not None and bool(status.address) and not status.phase.terminal


def assignment_item(state: ClusterState, ns: str, id_: str, node: str) -> AssignmentItem | None:
    """Give an instance that is bound to ``node``, with everything needed to run it."""
    record = state.instances.get((ns, id_))
    if record is None or record.node != node:
        return None
    revision = state.revisions.get((ns, record.workload, record.revision))
    if revision is None:
        log.error("instance-without-revision", instance=record.key, revision=record.revision)
        return None
    balancer = revision.load_balancer
    return AssignmentItem(
        record=record, document=revision.document, health_check_from=balancer.spec if balancer is not None else None
    )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


class SharedItems:
    """The items that are the same for every node, rendered once for all streams."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._bodies: dict[str, bytes | None] = {}
        objects.subscribe(self._forget)

    def _forget(self, refs: Iterable[Ref]) -> None:
        for ref in refs:
            for key in item_keys(ref):
                self._bodies.pop(key, None)

    def body(self, node: str, key: str) -> bytes | None:
        """Give an item as JSON, or ``None`` when there is none."""
        if key.startswith("instance/"):
            return self._render(node, key)
        if key not in self._bodies:
            self._bodies[key] = self._render(node, key)
        return self._bodies[key]

    def _render(self, node: str, key: str) -> bytes | None:
        item = render_item(self._objects.state, self._objects.index, node, key)
        return None if item is None else item.to_json()


class ViewSender:
    """What one node has been told: gives the lines for items that differ from it."""

    def __init__(self, shared: SharedItems, node: str) -> None:
        self._shared, self._node = shared, node
        self._sent: dict[str, bytes] = {}

    def lines(self, keys: Iterable[str]) -> list[bytes]:
        """Give lines for those of ``keys`` whose item changed; counts them as sent."""
        out: list[bytes] = []
        for key in keys:
            body = self._shared.body(self._node, key)
            if body == self._sent.get(key):
                continue
            if body is None:
                del self._sent[key]
            else:
                self._sent[key] = body
            out.append(b'{"key":%s,"body":%s}\n' % (json.dumps(key).encode(), body or b"null"))
        return out


async def stream_view(
    request: web.Request, streams: Streams, objects: Objects, shared: SharedItems, node: str, now: Callable[[], float]
) -> web.StreamResponse:
    """Stream a node's view: every item, ``synced``, then what changes; a ping when nothing does."""
    box = Mailbox()
    stop = objects.subscribe(box.put)
    try:
        response = await streams.begin(request)
        async with streams.open("view", box):
            sender = ViewSender(shared, node)
            revision = objects.state.revision
            await _write(response, sender, list(all_keys(objects.state, objects.index, node)))
            await response.write(b'{"synced":%d}\n' % revision)
            while not box.closed and node in objects.state.nodes:  # one that was removed is told nothing any more
                refs = await box.take(PING_SECONDS)
                keys = list(dict.fromkeys(key for ref in refs for key in item_keys(ref)))
                if not await _write(response, sender, keys) and not refs:
                    await response.write(b'{"ping":%d}\n' % now())
    finally:
        stop()
    return response


async def _write(response: web.StreamResponse, sender: ViewSender, keys: list[str]) -> bool:
    written = False
    for start in range(0, len(keys), _CHUNK):
        lines = sender.lines(keys[start : start + _CHUNK])
        if lines:
            await response.write(b"".join(lines))
            written = True
    return written
