"""Which peers a tunnel gets, and that only what must change is changed."""

from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kat_net_wireguard.mesh import PeerChange, PeerState, TunnelPeer, changes, nudges, wanted_peers, without_crossing

from kat_platform.errors import InvalidInput, InvalidValue
from kat_platform.interfaces.network import NodeNetwork, Peer

NODE = NodeNetwork(
    "n0", IPv4Network("10.100.0.0/24"), IPv4Network("10.100.0.0/16"), IPv4Network("10.101.0.0/16"), 51820
)
OWN = bytes(32)
NOW = 10_000.0


def peer(number: int, **more: object) -> Peer:
    key = base64.b64encode(bytes([number]) * 32).decode()
    base = Peer(f"n{number}", IPv4Network((f"10.100.{number}.0", 24)), key, (f"192.0.2.{number}", 51820))
    return replace(base, **more)  # type: ignore[arg-type]


def carry_out(current: dict[bytes, PeerState], steps: tuple[PeerChange, ...]) -> dict[bytes, PeerState]:
    """Do what WireGuard does: a subnet belongs to the last peer that was given it."""
    after = dict(current)
    for step in steps:
        if step.remove:
            del after[step.public_key]
            continue
        have = after.get(step.public_key, PeerState(step.public_key, None, frozenset()))
        if step.allowed is not None:
            for key, other in after.items():
                after[key] = replace(other, allowed=other.allowed - step.allowed)
            have = replace(have, allowed=step.allowed)
        if step.endpoint is not None:
            have = replace(have, endpoint=step.endpoint)
        if step.keepalive is not None:
            have = replace(have, keepalive=step.keepalive)
        after[step.public_key] = have
    return after


@st.composite
def meshes(draw: st.DrawFn) -> tuple[Peer, ...]:
    numbers = draw(st.lists(st.integers(1, 40), unique=True, max_size=6))
    subnets = draw(st.permutations(numbers))
    endpoint = st.one_of(st.none(), st.tuples(st.just("192.0.2.7"), st.integers(1, 65535)))
    return tuple(
        peer(
            number,
            subnet=IPv4Network((f"10.100.{subnet}.0", 24)),
            endpoint=draw(endpoint),
            keepalive_seconds=draw(st.one_of(st.none(), st.integers(1, 60))),
        )
        for number, subnet in zip(numbers, subnets, strict=True)
    )


@given(meshes(), meshes())
def test_changes_lead_from_any_mesh_to_any_other(before: tuple[Peer, ...], after: tuple[Peer, ...]) -> None:
    told = wanted_peers(NODE, OWN, before)
    state = carry_out({}, changes({}, told, {}, NOW))
    wanted = wanted_peers(NODE, OWN, after)
    state = carry_out(state, changes(state, wanted, told, NOW))
    assert {key: one.allowed for key, one in state.items()} == {key: one.allowed for key, one in wanted.items()}
    for key, one in wanted.items():
        assert state[key].keepalive == one.keepalive
        assert one.endpoint is None or state[key].endpoint == one.endpoint
    assert changes(state, wanted, wanted, NOW) == ()


@given(meshes())
def test_this_node_is_never_its_own_peer(mesh: tuple[Peer, ...]) -> None:
    own = peer(50, public_key=base64.b64encode(OWN).decode(), subnet=NODE.subnet)
    assert OWN not in wanted_peers(NODE, OWN, (*mesh, own))


@given(meshes(), st.binary(min_size=32, max_size=32))
def test_of_two_new_neighbours_exactly_one_speaks_first(mesh: tuple[Peer, ...], own: bytes) -> None:
    wanted = wanted_peers(NODE, own, mesh)
    steps = changes({}, wanted, {}, NOW)
    first = without_crossing(steps, (), own)
    for step, said in zip(steps, first, strict=True):
        back = without_crossing((PeerChange(own, keepalive=step.keepalive),), (), step.public_key)
        speakers = bool(said.keepalive) + bool(back[0].keepalive)
        assert speakers == (1 if step.keepalive else 0)
    state = carry_out({}, first)
    later = changes(state, wanted, wanted, NOW)
    assert without_crossing(later, state.keys(), own) == later
    assert {key: one.keepalive for key, one in carry_out(state, later).items()} == {
        key: one.keepalive for key, one in wanted.items()
    }


def state(**more: object) -> PeerState:
    base = PeerState(b"k" * 32, ("192.0.2.99", 4000), frozenset(), 0, last_handshake_at=NOW - 10)
    return replace(base, **more)  # type: ignore[arg-type]


def want(endpoint: tuple[str, int] | None) -> dict[bytes, TunnelPeer]:
    return {b"k" * 32: TunnelPeer(b"k" * 32, endpoint, frozenset())}


HOME, MOVED = ("192.0.2.1", 51820), ("192.0.2.2", 51820)


@pytest.mark.parametrize(
    ("have", "wanted", "told", "sets"),
    [
        (state(), HOME, HOME, None),  # roamed, and alive there: leave it
        (state(), HOME, None, None),  # we restarted; the link lives
        (state(), MOVED, HOME, MOVED),  # somebody says that it moved
        (state(last_handshake_at=NOW - 500), HOME, HOME, HOME),  # dead where it roamed to: try home again
        (state(last_handshake_at=None), HOME, None, HOME),
        (state(endpoint=None), HOME, None, HOME),
        (state(), None, HOME, None),  # unknown now: what was learnt stays
    ],
)
def test_an_endpoint_learnt_by_roaming_is_respected(
    have: PeerState,
    wanted: tuple[str, int] | None,
    told: tuple[str, int] | None,
    sets: tuple[str, int] | None,
) -> None:
    steps = changes({have.public_key: have}, want(wanted), want(told) if told else {}, NOW)
    assert [step.endpoint for step in steps if not step.remove] == ([sets] if sets else [])


@pytest.mark.parametrize(
    ("have", "begins_anew"),
    [
        (state(endpoint=HOME, last_handshake_at=None), True),  # it may have been spoken to a moment ago, in vain
        (state(endpoint=HOME, last_handshake_at=NOW - 500), True),
        (state(endpoint=HOME), False),  # its session goes on from the other place
        (state(endpoint=None, last_handshake_at=None), False),  # nothing was ever sent
    ],
)
def test_only_a_peer_without_a_session_begins_anew_at_its_new_endpoint(have: PeerState, begins_anew: bool) -> None:
    steps = changes({have.public_key: have}, want(MOVED), want(HOME), NOW)
    assert [step.remove for step in steps] == ([True, False] if begins_anew else [False])
    assert steps[-1].endpoint == MOVED
    assert carry_out({have.public_key: have}, steps)[have.public_key].endpoint == MOVED


@given(meshes(), st.sets(st.integers(1, 40)), st.binary(min_size=32, max_size=32), st.integers(1, 9))
def test_a_nudge_leaves_the_mesh_as_it_is_and_touches_the_silent_only(
    mesh: tuple[Peer, ...], answered: set[int], own: bytes, turn: int
) -> None:
    wanted = wanted_peers(NODE, own, mesh)
    state = carry_out({}, changes({}, wanted, {}, NOW))
    for key in state:
        if key[0] in answered:
            state[key] = replace(state[key], last_handshake_at=NOW - 500)
    steps = nudges(state, wanted, own, turn)
    assert carry_out(state, steps) == state
    touched = {step.public_key for step in steps}
    assert not {key[0] for key in touched} & answered
    others = {step.public_key for step in nudges(state, wanted, own, turn + 1)}
    assert not touched & others, "the two sides of a pair try in different turns"
    assert touched | others == {k for k, w in wanted.items() if w.endpoint and w.keepalive and k[0] not in answered}


@pytest.mark.parametrize(
    "peers",
    [
        (peer(1), peer(2, public_key=peer(1).public_key)),
        (peer(1), peer(2, subnet=IPv4Network("10.100.0.0/22"))),
        (peer(1, subnet=NODE.subnet),),
        (peer(1, subnet=IPv4Network("172.16.0.0/24")),),
    ],
)
def test_contradicting_nodes_are_refused(peers: tuple[Peer, ...]) -> None:
    with pytest.raises(InvalidInput):
        wanted_peers(NODE, OWN, peers)


@pytest.mark.parametrize("key", ["", "short", "!" * 44, base64.b64encode(bytes(31)).decode()])
def test_a_bad_key_is_named(key: str) -> None:
    with pytest.raises(InvalidValue, match="public key"):
        wanted_peers(NODE, OWN, (peer(1, public_key=key),))
