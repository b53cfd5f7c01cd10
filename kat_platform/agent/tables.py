"""Tables: from a node's view to what its network and DNS drivers are to do. Pure.

What this node knows of its own instances goes before what the control plane last said of them: readiness takes effect
here at
once, and a node that is cut off still balances rightly over what it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from kat_platform.interfaces.dns import DnsInstance, DnsNode, DnsPort, DnsView, DnsWorkload
from kat_platform.interfaces.network import Backend, Peer, ServicePort, ServiceTable, TransportProtocol
from kat_platform.model.instance import Desired, InstanceStatus
from kat_platform.model.view import AssignmentItem, ClusterItem, EndpointItem, NodeItem, ServiceItem, TrustItem


@dataclass(frozen=True, slots=True)
class NodeView:
    """Everything the control plane told this node, by name; immutable, replaced whole."""

    node: str
    cluster: ClusterItem | None = None
    nodes: Mapping[str, NodeItem] = field(default_factory=dict)
    services: Mapping[str, ServiceItem] = field(default_factory=dict)
    """By ``NAMESPACE/WORKLOAD``."""
    assignments: Mapping[str, AssignmentItem] = field(default_factory=dict)
    """By ``NAMESPACE/ID``."""
    given: str | None = None
    """Where the others are looked for instead of where they last were: see ``agent.given``."""
    trust: TrustItem | None = None

    @property
    def subnet(self) -> IPv4Network | None:
        """This node's subnet, once the leader gave it one."""
        own = self.nodes.get(self.node)
        return None if own is None else own.subnet


@dataclass(frozen=True, slots=True)
class Away:
    """Who does not answer this node."""

    nodes: frozenset[str] = frozenset()
    cut_off: bool = False
    """Whether the control plane does not answer either. If it does, it may know better."""


def endpoints(
    view: NodeView, service: ServiceItem, local: Mapping[str, InstanceStatus], away: Away = Away()
) -> tuple[EndpointItem, ...]:
    """Give a service's instances as this node should see them now; ``local`` has its own by ``NAMESPACE/ID``.

    Those on nodes that are ``away`` count as not ready, unless no other is and the control plane still counts on them.
    """
    found = _told_and_own(view, service, local)
    answering = tuple(item.model_copy(update={"ready": False}) if item.node in away.nodes else item for item in found)
    return answering if away.cut_off or any(item.ready for item in answering) else found


def _told_and_own(
    view: NodeView, service: ServiceItem, local: Mapping[str, InstanceStatus]
) -> tuple[EndpointItem, ...]:
    found = {item.id: item for item in service.endpoints}
    for key, assignment in view.assignments.items():
        record = assignment.record
        if (record.namespace, record.workload) != (service.namespace, service.workload):
            continue
        status = local.get(key)
        if status is None or status.address is None or status.phase.terminal:
            if status is not None:
                found.pop(record.id, None)
            continue
        wanted = record.desired is Desired.RUN
        found[record.id] = EndpointItem(
            id=record.id,
            node=view.node,
            address=IPv4Address(status.address),
            ready=status.ready and wanted,
            draining=not wanted,
        )
    return tuple(sorted(found.values(), key=lambda item: item.id))


def service_table(
    view: NodeView,
    local: Mapping[str, InstanceStatus],
    node_addresses: tuple[IPv4Address, ...],
    away: Away = Away(),
) -> ServiceTable:
    """Give the virtual IPs with the instances that may get connections now."""
    ports: list[ServicePort] = []
    for key, service in sorted(view.services.items()):
        if service.virtual_ip is None or service.spec is None:
            continue
        known = endpoints(view, service, local, away)
        for port in service.spec.ports:
            ready = tuple(Backend(e.address, port.container_port, e.node == view.node) for e in known if e.ready)
            leaving = tuple(
                Backend(e.address, port.container_port, e.node == view.node)
                for e in known
                if e.draining and not e.ready
            )
            ports.append(
                ServicePort(
                    name=f"{key}/{port.name}",
                    address=service.virtual_ip,
                    port=port.port,
                    protocol=TransportProtocol(port.protocol),
                    backends=ready,
                    draining=leaving,
                    node_port=port.node_port,
                    client_affinity=service.spec.session_affinity == "ClientIP",
                )
            )
    return ServiceTable(tuple(ports), (), node_addresses)


def dns_view(view: NodeView, local: Mapping[str, InstanceStatus], serial: int, away: Away = Away()) -> DnsView | None:
    """Give the zone's content, or ``None`` while the configuration is not known."""
    if view.cluster is None:
        return None
    spec = view.cluster.configuration.spec
    workloads = tuple(
        DnsWorkload(
            name=service.workload,
            namespace=service.namespace,
            virtual_ip=service.virtual_ip,
            ports=_dns_ports(service),
            instances=tuple(DnsInstance(e.id, e.address, e.ready) for e in endpoints(view, service, local, away)),
        )
        for _, service in sorted(view.services.items())
    )
    nodes = tuple(
        DnsNode(item.name, item.subnet.network_address + 1)
        for _, item in sorted(view.nodes.items())
        if item.subnet is not None
    )
    return DnsView(
        domain=spec.cluster_domain,
        serial=serial,
        workloads=workloads,
        nodes=nodes,
        reverse_zones=(spec.cluster_cidr, spec.service_cidr),
        namespaces=view.cluster.namespaces,
    )


def _dns_ports(service: ServiceItem) -> tuple[DnsPort, ...]:
    if service.spec is None:
        return ()
    return tuple(
        DnsPort(port.name, TransportProtocol(port.protocol), port.port, port.container_port)
        for port in service.spec.ports
    )


def peers(view: NodeView) -> tuple[Peer, ...]:
    """Give the other nodes as tunnels: those with a subnet and a key."""
    return tuple(
        Peer(
            node_name=item.name,
            subnet=item.subnet,
            public_key=item.public_key,
            endpoint=(place, item.listen_port) if (place := view.given or next(iter(item.addresses), None)) else None,
            keepalive_seconds=25,
        )
        for _, item in sorted(view.nodes.items())
        if item.name != view.node and item.subnet is not None and item.public_key
    )


def fold(view: NodeView, items: Mapping[str, Any | None]) -> NodeView:
    """Fold items of the view stream (``None`` removes) into a new view.

    Pure; raises ``ValueError`` on a body it cannot read.
    """
    nodes, services, assignments = dict(view.nodes), dict(view.services), dict(view.assignments)
    cluster, trust = view.cluster, view.trust
    for key, body in items.items():
        kind, _, name = key.partition("/")
        if kind == "cluster":
            cluster = ClusterItem.from_peer(body) if body is not None else cluster
        elif kind == "trust":
            trust = TrustItem.from_peer(body) if body is not None else TrustItem()
        elif kind == "node":
            _put(nodes, name, None if body is None else NodeItem.from_peer(body))
        elif kind == "service":
            _put(services, name, None if body is None else ServiceItem.from_peer(body))
        elif kind == "instance":
            _put(assignments, name, None if body is None else AssignmentItem.from_peer(body))
    return NodeView(view.node, cluster, nodes, services, assignments, view.given, trust)


def _put(mapping: dict[str, Any], name: str, value: Any | None) -> None:
    if value is None:
        mapping.pop(name, None)
    else:
        mapping[name] = value
