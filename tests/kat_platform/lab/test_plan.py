"""The plan of a lab and its troubles: pure, so every name, address and rule can be checked without a machine."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kat_platform.errors import InvalidInput, NotFound, Unavailable
from kat_platform.lab import trouble
from kat_platform.lab.plan import MOST_NODES, RANGE, Lab, free_network, plan_lab
from kat_platform.model.node import NodeRole

names = st.from_regex(r"[a-z][a-z0-9]{0,7}", fullmatch=True)


def lab(nodes: int = 3, name: str = "lab", taken: tuple[IPv4Address, ...] = ()) -> Lab:
    return plan_lab(name, nodes=nodes, control_plane=1, taken=taken, now=0.0)


@settings(deadline=None)
@given(names, st.integers(1, MOST_NODES))
def test_every_name_fits_the_kernel_and_nothing_is_given_twice(name: str, nodes: int) -> None:
    made = lab(nodes, name)
    interfaces = [made.host_interface, *(made.port(node) for node in made.nodes)]
    assert all(len(each) <= 15 for each in interfaces), "IFNAMSIZ"
    spaces = [made.hub, *(made.namespace(node) for node in made.nodes)]
    assert len(set(spaces)) == len(spaces)
    addresses = [made.host_address, *(node.address for node in made.nodes)]
    assert len(set(addresses)) == len(addresses)
    assert all(address in made.network for address in addresses)
    assert made.network.broadcast_address not in addresses
    assert [node.role for node in made.nodes][:2] == [NodeRole.CONTROL_PLANE, NodeRole.WORKER][:nodes]
    assert Lab.from_json(made.to_json()) == made


@given(st.lists(st.integers(0, RANGE.num_addresses - 1), max_size=20))
def test_labs_side_by_side_have_networks_of_their_own(offsets: list[int]) -> None:
    taken = [RANGE.network_address + offset for offset in offsets]
    network = free_network(taken)
    assert network.subnet_of(RANGE)
    assert not any(address in network for address in taken)


def test_two_labs_never_share_a_name_of_the_machine() -> None:
    one, other = lab(MOST_NODES, "a"), lab(MOST_NODES, "a1")
    assert not {one.hub, *map(one.namespace, one.nodes)} & {other.hub, *map(other.namespace, other.nodes)}


def test_no_network_left() -> None:
    with pytest.raises(Unavailable):
        free_network([network.network_address for network in RANGE.subnets(new_prefix=24)])


@pytest.mark.parametrize("name", ["", "Lab", "9lab", "a-b", "toolongname", "a/b", "a.b"])
def test_names_that_will_not_do(name: str) -> None:
    with pytest.raises(InvalidInput):
        lab(3, name)


@pytest.mark.parametrize(("nodes", "control_plane"), [(0, 1), (MOST_NODES + 1, 1), (3, 0), (3, 2), (2, 3)])
def test_numbers_that_will_not_do(nodes: int, control_plane: int) -> None:
    with pytest.raises(InvalidInput):
        plan_lab("lab", nodes=nodes, control_plane=control_plane, taken=(), now=0.0)


def test_a_node_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="no node 'n9'"):
        lab().find("n9")


def test_each_boot_is_another_one() -> None:
    made = lab()
    again = made.booted(made.find("n2"))
    assert [node.boots for node in again.nodes] == [0, 1, 0]


# --- trouble ------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from(["cut", "cut from", "cut port", "slow", "heal"]), st.integers(0, 2), st.integers(0, 2)),
    max_size=12,
)


def carry_out(made: Lab, step: tuple[str, int, int]) -> Lab:
    what, one, two = step
    node, other = made.nodes[one], made.nodes[two]
    match what:
        case "cut":
            return trouble.cut(made, node, (), ())
        case "cut from":
            return trouble.cut(made, node, (other,) if one != two else (), ())
        case "cut port":
            return trouble.cut(made, node, (), (2380,))
        case "slow":
            return trouble.slow(made, node, delay_ms=5, loss=10, kbytes=100)
    return trouble.heal(made, node)


@given(steps)
def test_healing_every_node_mends_everything(done: list[tuple[str, int, int]]) -> None:
    made = sick = lab()
    for step in done:
        sick = carry_out(sick, step)
    for node in made.nodes:
        sick = trouble.heal(sick, node)
    assert sick == made


@given(steps, st.integers(0, 2))
def test_healing_one_node_leaves_the_others_troubles(done: list[tuple[str, int, int]], which: int) -> None:
    sick = lab()
    for step in done:
        sick = carry_out(sick, step)
    healed = trouble.heal(sick, sick.nodes[which])
    assert trouble.say(healed.nodes[which]) == ""
    gone = f"ip saddr {sick.nodes[which].address}"
    for before, after in zip(sick.nodes, healed.nodes, strict=True):
        if before.name != sick.nodes[which].name:
            assert after.drops == tuple(drop for drop in before.drops if drop != gone)
            assert (after.cut, after.delay_ms) == (before.cut, before.delay_ms)


def test_a_cut_between_two_is_at_both_ends() -> None:
    made = lab()
    sick = trouble.cut(made, made.nodes[0], (made.nodes[2],), ())
    assert sick.nodes[0].drops == ("ip saddr 198.18.0.12",)
    assert sick.nodes[1].drops == ()
    assert sick.nodes[2].drops == ("ip saddr 198.18.0.10",)
    assert trouble.say(sick.nodes[0]) == "partly cut"
    assert trouble.say(trouble.cut(made, made.nodes[0], (), ()).nodes[0]) == "cut"
    assert trouble.say(trouble.slow(made, made.nodes[0], delay_ms=9, loss=None, kbytes=None).nodes[0]) == "slow"


def test_trouble_twice_is_the_same_trouble() -> None:
    made = lab()
    once = trouble.cut(made, made.nodes[0], (), (2380,))
    assert trouble.cut(once, once.nodes[0], (), (2380,)) == once


@given(st.integers(2, 20), st.integers(0, 30), st.lists(st.integers(0, 19), max_size=8))
def test_new_addresses_are_nobody_elses_and_troubles_go_along(nodes: int, shift: int, who: list[int]) -> None:
    lab = plan_lab("kt", nodes=nodes, control_plane=1, taken=(), now=0.0)
    lab = trouble.cut(lab, lab.nodes[0], [lab.nodes[1]], [9115])
    for number in who:
        node = lab.nodes[number % nodes]
        made = lab.readdressed(node)
        assert made.find(node.name).address not in {each.address for each in lab.nodes}
        assert [n for n in made.nodes if n.name != node.name and n.address != lab.find(n.name).address] == []
        lab = made
    network = list(RANGE.subnets(new_prefix=24))[shift]
    moved = lab.moved(network)
    for made in (lab, moved):
        assert len({made.host_address, *(node.address for node in made.nodes)}) == nodes + 1
        assert all(node.address in made.network for node in made.nodes)
        assert f"ip saddr {made.nodes[1].address}" in made.nodes[0].drops
        assert f"ip saddr {made.nodes[0].address}" in made.nodes[1].drops
        assert [made.hardware_address(node) for node in made.nodes] == [lab.hardware_address(n) for n in lab.nodes]
    assert len({lab.hardware_address(node) for node in lab.nodes}) == nodes
