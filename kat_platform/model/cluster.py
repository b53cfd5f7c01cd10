"""ClusterConfiguration: addresses, ports, folders, timing and drivers of a cluster (``cluster.kat``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, JsonValue, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from kat_platform.errors import InvalidValue
from kat_platform.model.base import Model
from kat_platform.model.faults import Fault, FieldPath, refuse
from kat_platform.model.meta import Document
from kat_platform.model.scalars import AbsolutePath, Domain, PluginName, Port, Positive

NARROWEST_NODE_SUBNET: Final = 29
"""A node's subnet holds at least the bridge and five instances."""
NARROWEST_SERVICE_RANGE: Final = 29
WIDEST_RANGE: Final = 8


def parse_network(value: Any) -> IPv4Network:
    """Read a private-use IPv4 network such as ``10.100.0.0/16``; raises ``InvalidValue``."""
    if isinstance(value, IPv4Network):
        return value
    if not isinstance(value, str) or "/" not in value:
        raise InvalidValue("an IPv4 network is written like 10.100.0.0/16")
    try:
        network = IPv4Network(value, strict=False)
    except ValueError:
        raise InvalidValue(f"'{value[:40]}' is not an IPv4 network: write it like 10.100.0.0/16") from None
    if str(network.network_address) != value.partition("/")[0]:
        raise InvalidValue(f"'{value}' is an address within a network", hint=f"did you mean '{network}'?")
    if network.is_loopback or network.is_multicast or network.is_link_local or network.prefixlen < WIDEST_RANGE:
        raise InvalidValue(f"'{network}' cannot be used for instances: choose one such as 10.100.0.0/16")
    if network.network_address.is_reserved or network.network_address.packed[0] == 0:
        raise InvalidValue(f"'{network}' cannot be used for instances: choose one such as 10.100.0.0/16")
    return network


Network = Annotated[
    IPv4Network,
    PlainValidator(parse_network),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "ipv4network", "examples": ["10.100.0.0/16"]}),
]
Seconds = Annotated[float, Field(strict=True, gt=0, le=86400, allow_inf_nan=False)]


class PluginChoice(Model):
    """Which driver serves each capability: exactly one, by name."""

    runtime: PluginName = Field(default="podman", description="Runs containers.")
    network: PluginName = Field(default="wireguard", description="Connects instances and nodes.")
    store: PluginName = Field(default="etcd", description="Keeps the cluster's state.")
    scheduler: PluginName = Field(default="binpack", description="Chooses nodes.")
    dns: PluginName = Field(default="kat", description="Answers names.")
    builder: PluginName = Field(default="git", description="Builds images.")
    auth: PluginName = Field(default="mtls", description="Recognises callers.")


class ClusterConfigurationSpec(Model):
    """Addresses, ports, folders, timing and drivers."""

    cluster_cidr: Network = Field(default=IPv4Network("10.100.0.0/16"), description="Addresses of instances.")
    service_cidr: Network = Field(default=IPv4Network("10.101.0.0/16"), description="Virtual addresses of workloads.")
    node_subnet_bits: Annotated[int, Field(strict=True, ge=0, le=21)] = Field(
        default=7, description="Bits of clusterCidr that number the nodes: 7 of a /16 give a /23 to each of 128 nodes."
    )
    cluster_domain: Domain = Field(default="kat.cluster.local", description="DNS zone of the cluster.")
    api_port: Port = Field(default=9115, description="TCP port of the HTTP API on control-plane nodes.")
    agent_port: Port = Field(default=9116, description="TCP port of each node's agent.")
    etcd_peer_port: Port = Field(default=2380, description="TCP port between members of the store.")
    wireguard_port: Port = Field(default=51820, description="UDP port of the overlay network.")
    data_path: AbsolutePath = Field(default="/var/lib/kat", description="Folder of KAT's own files on a node.")
    volume_base_path: AbsolutePath = Field(default="/var/lib/kat/volumes", description="Folder of the volumes.")
    backup_path: AbsolutePath = Field(default="/var/lib/kat/backups", description="Folder of the backups.")
    backup_interval_minutes: Positive = Field(default=30, description="Minutes between backups.")
    backup_retention: Positive = Field(default=48, description="How many backups are kept.")
    agent_tick_seconds: Seconds = Field(default=2, description="Seconds between an agent's rounds and signs of life.")
    node_loss_timeout_seconds: Seconds = Field(
        default=8, description="Seconds without a sign of life after which a node is NotReady."
    )
    plugins: PluginChoice = Field(default=PluginChoice(), description="Which driver serves each capability.")
    plugin_config: Mapping[PluginName, Mapping[str, JsonValue]] = Field(
        default_factory=dict, description="Settings of drivers, by driver name; each checks its own."
    )

    @property
    def node_prefix(self) -> int:
        """Prefix length of each node's subnet."""
        return self.cluster_cidr.prefixlen + self.node_subnet_bits

    @property
    def max_nodes(self) -> int:
        """How many nodes have a subnet."""
        return 1 << self.node_subnet_bits

    def node_subnet(self, index: int) -> IPv4Network:
        """Give the subnet of the node numbered ``index``, from 0 to ``max_nodes - 1``."""
        if not 0 <= index < self.max_nodes:
            raise InvalidValue(f"there are {self.max_nodes} node subnets: {index} is not the number of one")
        first = int(self.cluster_cidr.network_address) + (index << (32 - self.node_prefix))
        return IPv4Network((first, self.node_prefix))

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _is_given(self, wire_name: str) -> bool:
        given = {type(self).model_fields[name].alias for name in self.model_fields_set}
        return wire_name in given

    def _faults(self) -> Iterator[Fault]:
        if self.cluster_cidr.overlaps(self.service_cidr):
            first, second = (
                ("clusterCidr", "serviceCidr") if self._is_given("serviceCidr") else ("serviceCidr", "clusterCidr")
            )
            networks = {"clusterCidr": self.cluster_cidr, "serviceCidr": self.service_cidr}
            yield Fault((second,), f"{second} {networks[second]} overlaps {first} {networks[first]}")
        if self.service_cidr.prefixlen > NARROWEST_SERVICE_RANGE:
            yield Fault(("serviceCidr",), f"serviceCidr {self.service_cidr} is too small: at least a /29 is needed")
        if self.node_prefix > NARROWEST_NODE_SUBNET:
            room = NARROWEST_NODE_SUBNET - self.cluster_cidr.prefixlen
            advice = f"at most {room} for {self.cluster_cidr}" if room >= 0 else "clusterCidr itself is too small"
            text = f"nodeSubnetBits {self.node_subnet_bits} leaves each node a /{self.node_prefix}: {advice}"
            yield Fault(("nodeSubnetBits",), text)
        tcp = (("apiPort", self.api_port), ("agentPort", self.agent_port), ("etcdPeerPort", self.etcd_peer_port))
        for index, (name, port) in enumerate(tcp):
            for other, taken in tcp[:index]:
                if port == taken:
                    # A default cannot be at fault: point at the one that was written.
                    first, second = (other, name) if self._is_given(name) else (name, other)
                    yield Fault((second,), f"{second} {port} is {first} already")
        if self.node_loss_timeout_seconds < 2 * self.agent_tick_seconds:
            text = "nodeLossTimeoutSeconds must be at least twice agentTickSeconds, or each late tick loses a node"
            yield Fault(("nodeLossTimeoutSeconds",), text)
        for name, config in self.plugin_config.items():
            for place in _nulls(config, ("pluginConfig", name)):
                yield Fault(place, f"'{place[-1]}' is empty: give it a value or remove the line")


def _nulls(value: JsonValue | Mapping[str, JsonValue], at: FieldPath) -> Iterator[FieldPath]:
    if value is None:
        yield at
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _nulls(child, (*at, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _nulls(child, (*at, index))


class ClusterConfiguration(Document):
    """The configuration of the whole cluster."""

    namespaced: ClassVar[bool] = False

    kind: Literal["ClusterConfiguration"] = Field(default="ClusterConfiguration", description="Kind of the document.")
    spec: ClusterConfigurationSpec = Field(default=ClusterConfigurationSpec(), description="The settings.")
