"""From the service table to nftables: what each chain, set and map should hold. Pure.

A virtual IP costs one lookup in a map, however many there are: ``address . protocol . port`` leads to the service's
own chain, which translates to a backend. A service without backends is in no map; its packets stay
addressed to the virtual IP and the base rules refuse them. Chains are named by hashes: no text of a user gets into a
script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import IPv4Address

from kat_platform.errors import InvalidInput
from kat_platform.interfaces.network import Backend, NodeNetwork, ServicePort, ServiceTable, TransportProtocol

VIRTUAL_MAP, NODE_PORT_MAP, ISOLATED_MAP = "virtual_ports", "node_ports", "isolated"
NODE_ADDRESS_SET, HAIRPIN_SET = "node_addresses", "hairpin"
FIXED_SETS: Mapping[str, str] = {
    VIRTUAL_MAP: "map virtual_ports { type ipv4_addr . inet_proto . inet_service : verdict; }",
    NODE_PORT_MAP: "map node_ports { type inet_proto . inet_service : verdict; }",
    ISOLATED_MAP: "map isolated { type ipv4_addr : verdict; }",
    NODE_ADDRESS_SET: "set node_addresses { type ipv4_addr; }",
    HAIRPIN_SET: "set hairpin { type ipv4_addr . ipv4_addr; }",
}
"""The sets and maps every table has, with their declarations."""
_ANSWERS = ("ct state related accept", "ct direction reply ct state established accept")
"""What comes back to an isolated container for what it asked itself."""


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What the changing part of the table holds: rules by chain, elements by set or map, sets made for it."""

    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    elements: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Set or map → key → verdict (empty in a set)."""
    sets: Mapping[str, str] = field(default_factory=dict)


def _hash(*parts: object) -> str:
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=8).hexdigest()


def service_chain(port: ServicePort) -> str:
    """Name the chain of a service port."""
    return f"svc_{_hash(port.address, port.protocol, port.port)}"


def plan(table: ServiceTable, network: NodeNetwork) -> Ruleset:
    """Say what the table should hold on this node. Raises ``InvalidInput`` for a table that contradicts itself."""
    _check(table, network)
    chains: dict[str, tuple[str, ...]] = {}
    virtual: dict[str, str] = {}
    node_ports: dict[str, str] = {}
    hairpin: dict[str, str] = {}
    for port in table.ports:
        if not port.backends:
            continue
        chain, protocol = service_chain(port), port.protocol.lower()
        chains[chain] = balance_rules(port, network.node_name)
        virtual[f"{port.address} . {protocol} . {port.port}"] = f"goto {chain}"
        if port.node_port is not None:
            node_ports[f"{protocol} . {port.node_port}"] = f"goto {chain}"
        for backend in port.backends:
            if backend.address in network.subnet:
                hairpin[f"{backend.address} . {backend.address}"] = ""
    isolated: dict[str, str] = {}
    sets: dict[str, str] = {}
    elements: dict[str, Mapping[str, str]] = {}
    for space in table.isolated:
        chain = f"iso_{_hash(space.namespace)}"
        source_set = f"{chain}_from"
        sets[source_set] = f"set {source_set} {{ type ipv4_addr; }}"
        elements[source_set] = {str(address): "" for address in space.addresses | space.allowed}
        chains[chain] = (*_ANSWERS, f"ip saddr @{source_set} accept", "goto refuse")
        isolated |= {str(address): f"goto {chain}" for address in space.addresses}
    elements |= {
        VIRTUAL_MAP: virtual,
        NODE_PORT_MAP: node_ports,
        ISOLATED_MAP: isolated,
        NODE_ADDRESS_SET: {str(address): "" for address in table.node_addresses},
        HAIRPIN_SET: hairpin,
    }
    return Ruleset(chains, elements, sets)


def balance_rules(port: ServicePort, node_name: str) -> tuple[str, ...]:
    """Write the rules that give a new connection its backend: in turn, or by the client's address.

    A packet that is judged by a chain while a transaction replaces it looks into the old rule's map after its
    elements are gone, finds nothing and falls through. The last rule, which looks nowhere, catches it: without it about
    one connection in ten thousand was refused while backends changed sixty times a second.
    """
    backends = _order(port, node_name)
    head = f"meta l4proto {port.protocol.lower()} dnat ip to"
    direct = f"{head} {backends[0].address}:{backends[0].port}"
    if len(backends) == 1:
        return (direct,)
    choice = "jhash ip saddr" if port.client_affinity else "numgen inc"
    seed = " seed 0x4b41" if port.client_affinity else ""
    targets = ", ".join(f"{index} : {one.address} . {one.port}" for index, one in enumerate(backends))
    return (f"{head} {choice} mod {len(backends)}{seed} map {{ {targets} }}", direct)


def _order(port: ServicePort, node_name: str) -> list[Backend]:
    """Order backends the same whatever order they came in; unless clients stick, start elsewhere on each node."""
    unique = {(backend.address, backend.port): backend for backend in port.backends}
    ordered = [unique[key] for key in sorted(unique)]
    if port.client_affinity:
        return ordered
    start = int(_hash(node_name, port.address, port.port), 16) % len(ordered)
    return ordered[start:] + ordered[:start]


def _check(table: ServiceTable, network: NodeNetwork) -> None:
    seen: dict[tuple[object, ...], str] = {}
    for port in table.ports:
        if port.address not in network.service_cidr:
            raise InvalidInput(f"{port.name}: {port.address} is outside the service network {network.service_cidr}")
        numbers = [port.port, *(backend.port for backend in (*port.backends, *port.draining))]
        numbers += [] if port.node_port is None else [port.node_port]
        for number in numbers:
            if not 1 <= number <= 65535:
                raise InvalidInput(f"{port.name}: {number} is not a port (1 to 65535)")
        keys: list[tuple[object, ...]] = [(port.address, port.protocol, port.port)]
        keys += [] if port.node_port is None else [("node port", port.protocol, port.node_port)]
        for key in keys:
            if key in seen:
                raise InvalidInput(f"{port.name} and {seen[key]} both want {' '.join(map(str, key))}")
            seen[key] = port.name
    owner: dict[IPv4Address, str] = {}
    for space in table.isolated:
        for address in space.addresses:
            if owner.setdefault(address, space.namespace) != space.namespace:
                raise InvalidInput(f"{address} is in the namespaces {owner[address]} and {space.namespace}")


def whole(table: str, ruleset: Ruleset) -> list[str]:
    """Write the commands that fill a table whose fixed sets and base chains were just made."""
    return change(table, Ruleset(), ruleset)


def change(table: str, old: Ruleset, new: Ruleset) -> list[str]:
    """Write the commands that turn ``old`` into ``new``, touching only what differs; none when nothing does.

    Order matters inside the transaction: what is referred to is made before and removed after what refers to it.
    """
    lines: list[str] = []
    for name in new.sets.keys() - old.sets.keys():
        lines.append(f"add {new.sets[name].replace(name, f'ip {table} {name}', 1)}")
    altered = [name for name in new.chains if new.chains[name] != old.chains.get(name)]
    lines += [f"add chain ip {table} {name}" for name in altered if name not in old.chains]
    for name in altered:
        if name in old.chains:
            lines.append(f"flush chain ip {table} {name}")
        lines += [f"add rule ip {table} {name} {rule}" for rule in new.chains[name]]
    for name in sorted(old.elements.keys() | new.elements.keys()):
        before, after = old.elements.get(name, {}), new.elements.get(name, {})
        if name in new.sets or name in FIXED_SETS:
            lines += _elements("delete", table, name, ((key, "") for key in before if after.get(key) != before[key]))
        lines += _elements("add", table, name, ((key, after[key]) for key in after if before.get(key) != after[key]))
    removed = sorted(old.chains.keys() - new.chains.keys())
    lines += [f"flush chain ip {table} {name}" for name in removed]
    lines += [f"delete chain ip {table} {name}" for name in removed]
    lines += [f"delete set ip {table} {name}" for name in sorted(old.sets.keys() - new.sets.keys())]
    return lines


def _elements(verb: str, table: str, name: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    listed = ", ".join(f"{key} : {verdict}" if verdict else key for key, verdict in pairs)
    return [f"{verb} element ip {table} {name} {{ {listed} }}"] if listed else []


def udp_backends(table: ServiceTable) -> dict[tuple[IPv4Address, int], frozenset[tuple[IPv4Address, int]]]:
    """Say which backends may keep UDP flows, by the virtual or node address and port they were sent to."""
    allowed: dict[tuple[IPv4Address, int], frozenset[tuple[IPv4Address, int]]] = {}
    for port in table.ports:
        if port.protocol is not TransportProtocol.UDP:
            continue
        keep = frozenset((backend.address, backend.port) for backend in (*port.backends, *port.draining))
        allowed[port.address, port.port] = keep
        if port.node_port is not None:
            allowed |= {(address, port.node_port): keep for address in table.node_addresses}
    return allowed
