"""What the generated rules do, judged by a small model of nftables that refuses what the kernel would refuse."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kat_net_wireguard import balancer, rules
from kat_net_wireguard.names import Names

from kat_platform.errors import InvalidInput
from kat_platform.interfaces.network import Backend, IsolatedNamespace, NodeNetwork, ServicePort, ServiceTable
from kat_platform.interfaces.network import TransportProtocol as Protocol

NODE = NodeNetwork(
    "n1", IPv4Network("10.100.0.0/24"), IPv4Network("10.100.0.0/16"), IPv4Network("10.101.0.0/16"), 51820
)
TABLE = "kat_x"


@dataclass
class Model:
    """An nftables table: chains, sets and maps; a script that the kernel would refuse raises ``ValueError``."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    sets: dict[str, dict[str, str]] = field(default_factory=dict)

    def run(self, lines: Iterable[str]) -> None:
        for line in lines:
            verb, kind, family, table, name, rest = (*line.split(" ", 5), "", "")[:6]
            assert (family, table) == ("ip", TABLE) or kind == "table", line
            getattr(self, f"_{verb}_{kind}")(name, rest)
        for name, held in self.sets.items():
            for verdict in filter(None, held.values()):
                if verdict.removeprefix("goto ") not in self.chains:
                    raise ValueError(f"{name} leads to {verdict}, which is gone")
        for name, body in self.chains.items():
            for wanted in re.findall(r"@(\w+)", " ".join(body)):
                if wanted not in self.sets:
                    raise ValueError(f"{name} uses the set {wanted}, which is gone")

    def _add_table(self, *_: str) -> None:
        pass

    def _add_map(self, name: str, _: str) -> None:
        self.sets.setdefault(name, {})

    _add_set = _add_map

    def _delete_set(self, name: str, _: str) -> None:
        if any(f"@{name}" in rule for body in self.chains.values() for rule in body):
            raise ValueError(f"{name} is in use")
        del self.sets[name]

    def _add_chain(self, name: str, _: str) -> None:
        self.chains.setdefault(name, [])

    def _flush_chain(self, name: str, _: str) -> None:
        self.chains[name].clear()

    def _delete_chain(self, name: str, _: str) -> None:
        used = any(verdict == f"goto {name}" for held in self.sets.values() for verdict in held.values())
        if used or self.chains[name]:
            raise ValueError(f"{name} is in use")
        del self.chains[name]

    def _add_rule(self, name: str, rule: str) -> None:
        self.chains[name].append(rule)

    def _add_element(self, name: str, body: str) -> None:
        for key, verdict in self._parse(body):
            if self.sets[name].setdefault(key, verdict) != verdict:
                raise ValueError(f"{key} is in {name} with another verdict")

    def _delete_element(self, name: str, body: str) -> None:
        for key, _ in self._parse(body):
            del self.sets[name][key]

    @staticmethod
    def _parse(body: str) -> list[tuple[str, str]]:
        pairs = (element.partition(" : ") for element in body.strip("{} ").split(", "))
        return [(key, verdict) for key, _, verdict in pairs]

    def backends(self, port: ServicePort) -> list[tuple[str, int]]:
        """Follow a new connection to every place it may end; each place as often as it is chosen in a round."""
        verdict = self.sets["virtual_ports"].get(f"{port.address} . {port.protocol.lower()} . {port.port}")
        if verdict is None:
            return []
        rule, *last = self.chains[verdict.removeprefix("goto ")]
        assert rule.startswith(f"meta l4proto {port.protocol.lower()} dnat ip to ")
        if single := re.fullmatch(r".* to ([\d.]+):(\d+)", rule):
            return [(single[1], int(single[2]))]
        several = re.fullmatch(
            r".* to (numgen inc|jhash ip saddr) mod (\d+)(?: seed 0x[0-9a-f]+)? map \{ (.*) \}", rule
        )
        assert several is not None, rule
        assert (several[1] == "jhash ip saddr") == port.client_affinity
        targets = dict(pair.split(" : ") for pair in several[3].split(", "))
        assert sorted(map(int, targets)) == list(range(int(several[2]))), "a choice leads nowhere"
        places = [target.split(" . ") for target in targets.values()]
        (caught,) = last
        assert caught.rpartition(" ")[2].split(":") in places, "a packet that falls through goes to no backend"
        return [(address, int(number)) for address, number in places]


def backends() -> st.SearchStrategy[tuple[Backend, ...]]:
    one = st.builds(
        Backend, st.integers(2, 600).map(lambda n: IPv4Address("10.100.0.0") + n), st.integers(1, 65535), st.booleans()
    )
    return st.lists(one, max_size=6).map(tuple)


@st.composite
def tables(draw: st.DrawFn) -> ServiceTable:
    places = draw(
        st.lists(
            st.tuples(st.integers(1, 30), st.sampled_from([53, 80]), st.sampled_from(Protocol)), max_size=8, unique=True
        )
    )
    ports = [
        ServicePort(
            draw(st.text()),
            IPv4Address("10.101.0.0") + number,
            port,
            protocol,
            draw(backends()),
            draw(backends()),
            30000 + index if draw(st.booleans()) else None,
            draw(st.booleans()),
        )
        for index, (number, port, protocol) in enumerate(places)
    ]
    names = draw(st.lists(st.text(), max_size=3, unique=True))
    address = st.integers(2, 80).map(lambda n: IPv4Address("10.100.0.0") + n)
    isolated = []
    for index, name in enumerate(names):
        members = draw(st.frozensets(st.integers(0, 20), max_size=4))
        inside = frozenset(IPv4Address("10.100.1.0") + 50 * index + number for number in members)
        isolated.append(IsolatedNamespace(name, inside, draw(st.frozensets(address, max_size=3))))
    nodes = draw(st.lists(address, max_size=2, unique=True))
    return ServiceTable(tuple(ports), tuple(isolated), tuple(nodes))


def applied(ruleset: balancer.Ruleset) -> Model:
    model = Model()
    model.run(rules.base(Names("x"), NODE, ()).splitlines())
    model.run(balancer.whole(TABLE, ruleset))
    return model


@given(tables())
def test_every_backend_is_reached_evenly_and_no_other(table: ServiceTable) -> None:
    model = applied(balancer.plan(table, NODE))
    for port in table.ports:
        wanted = sorted({(str(backend.address), backend.port) for backend in port.backends})
        assert sorted(model.backends(port)) == wanted


@given(tables(), tables())
def test_a_change_ends_where_starting_afresh_would(before: ServiceTable, after: ServiceTable) -> None:
    old, new = balancer.plan(before, NODE), balancer.plan(after, NODE)
    changed, fresh = applied(old), applied(new)
    changed.run(balancer.change(TABLE, old, new))
    assert changed == fresh
    assert balancer.change(TABLE, new, new) == []


@given(tables(), st.data())
def test_a_change_touches_only_what_differs(table: ServiceTable, data: st.DataObject) -> None:
    if not table.ports:
        return
    index = data.draw(st.integers(0, len(table.ports) - 1))
    port = replace(table.ports[index], backends=data.draw(backends()))
    after = replace(table, ports=(*table.ports[:index], port, *table.ports[index + 1 :]))
    script = balancer.change(TABLE, balancer.plan(table, NODE), balancer.plan(after, NODE))
    touched = {word for line in script for word in re.findall(r"svc_\w+", line)}
    assert touched <= {balancer.service_chain(port)}


@given(tables())
@settings(max_examples=50)
def test_no_text_of_a_user_gets_into_the_script(table: ServiceTable) -> None:
    script = balancer.whole(TABLE, balancer.plan(table, NODE))
    for line in script:
        assert re.fullmatch(r"[a-z0-9_ .:{}=,@;]+", line), line


@given(tables())
def test_the_order_backends_come_in_does_not_matter(table: ServiceTable) -> None:
    turned = tuple(replace(port, backends=port.backends[::-1]) for port in table.ports)
    assert balancer.plan(table, NODE).chains == balancer.plan(replace(table, ports=turned), NODE).chains


@given(tables())
def test_members_and_allowed_enter_a_private_namespace_and_others_are_refused(table: ServiceTable) -> None:
    model = applied(balancer.plan(table, NODE))
    for space in table.isolated:
        for address in space.addresses:
            chain = model.sets["isolated"][str(address)].removeprefix("goto ")
            *answers, permit, refuse = model.chains[chain]
            assert all(rule.startswith("ct ") for rule in answers), "only what is tracked comes in before"
            allowed = re.fullmatch(r"ip saddr @(\w+) accept", permit)
            assert allowed is not None
            assert set(model.sets[allowed[1]]) == {str(one) for one in space.addresses | space.allowed}
            assert refuse == "goto refuse"


@given(tables())
def test_udp_flows_may_stay_with_backends_and_with_those_that_drain(table: ServiceTable) -> None:
    allowed = balancer.udp_backends(table)
    for port in table.ports:
        key = (port.address, port.port)
        if port.protocol is Protocol.UDP:
            assert allowed[key] == {(one.address, one.port) for one in (*port.backends, *port.draining)}


def service(**more: object) -> ServicePort:
    base = ServicePort(
        "a/b/c/d", IPv4Address("10.101.0.1"), 80, Protocol.TCP, (Backend(IPv4Address("10.100.0.5"), 80),)
    )
    return replace(base, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "table",
    [
        ServiceTable((service(), service(name="other"))),
        ServiceTable((service(node_port=30000), service(port=81, node_port=30000))),
        ServiceTable((service(port=0),)),
        ServiceTable((service(node_port=65536),)),
        ServiceTable((service(backends=(Backend(IPv4Address("10.100.0.5"), 70000),)),)),
        ServiceTable((service(address=IPv4Address("192.0.2.1")),)),
        ServiceTable(
            isolated=(
                IsolatedNamespace("a", frozenset({IPv4Address("10.100.0.5")})),
                IsolatedNamespace("b", frozenset({IPv4Address("10.100.0.5")})),
            )
        ),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(table: ServiceTable) -> None:
    with pytest.raises(InvalidInput):
        balancer.plan(table, NODE)


def test_one_name_may_hold_several_ports_and_protocols() -> None:
    both = ServiceTable((service(), service(protocol=Protocol.UDP), service(port=81)))
    assert len(balancer.plan(both, NODE).chains) == 3


def test_nodes_start_their_round_in_different_places() -> None:
    several = tuple(Backend(IPv4Address("10.100.0.5") + number, 80) for number in range(5))
    starts = {balancer.balance_rules(service(backends=several), f"n{number}") for number in range(40)}
    assert len(starts) > 1
