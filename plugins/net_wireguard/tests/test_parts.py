"""The small parts: names, keys, the two tunnel languages, packets, settings, what a host is told."""

from __future__ import annotations

import base64
import struct
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kat_net_wireguard import conntrack, firewall, host, kernel, keys, link, netlink, rtnetlink, sysctl, uapi
from kat_net_wireguard.conntrack import Connection, Flow
from kat_net_wireguard.mesh import PeerChange
from kat_net_wireguard.names import Names

from kat_platform.errors import Conflict, InvalidValue, NetworkFailure

KEY = bytes(range(32))


@given(st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True), st.text(min_size=1))
def test_interface_names_fit_and_belong_to_one_tag(tag: str, instance: str) -> None:
    names = Names(tag)
    made = [names.bridge, names.tunnel, names.veth(instance), names.veth(instance, 7)]
    assert all(len(name) <= 15 and "/" not in name for name in made)
    assert names.veth(instance) == names.veth(instance) != names.veth(instance, 7)
    assert not names.veth(instance).startswith(Names(tag[:-1] or "zz").veth_prefix)


@pytest.mark.parametrize("tag", ["", "toolong", "UP", "a-b", "a b", "é"])
def test_a_tag_that_could_escape_is_refused(tag: str) -> None:
    with pytest.raises(InvalidValue):
        Names(tag)


def test_the_key_is_private_stays_and_is_never_replaced(tmp_path: Path) -> None:
    key = keys.load_or_make(tmp_path)
    assert keys.load_or_make(tmp_path) == key
    assert (tmp_path / "private.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["private.key"]
    assert keys.decode(keys.public_of(key)) != key
    (tmp_path / "private.key").write_text("rubbish")
    with pytest.raises(NetworkFailure, match="not a WireGuard key"):
        keys.load_or_make(tmp_path)


def test_a_key_moves_to_an_empty_machine_and_never_over_another(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    secret = keys.load_or_make(old)
    keys.take(new, secret)
    keys.take(new, secret)
    assert keys.load_or_make(new) == secret
    assert (new / keys.KEY_FILE).stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict, match="another key"):
        keys.take(new, bytes(32))
    with pytest.raises(InvalidValue):
        keys.take(new, b"short")
    assert keys.load_or_make(new) == secret


NETWORKS = frozenset({IPv4Network("10.100.2.0/24"), IPv4Network("10.100.1.0/24")})


def test_a_userspace_request_says_each_thing_in_the_protocols_order() -> None:
    add = PeerChange(KEY, endpoint=("2001:db8::1", 51820), allowed=NETWORKS, keepalive=25)
    assert uapi.peers_request((PeerChange(b"\1" * 32, remove=True), add)).splitlines() == [
        "set=1",
        f"public_key={'01' * 32}",
        "remove=true",
        f"public_key={KEY.hex()}",
        "endpoint=[2001:db8::1]:51820",
        "persistent_keepalive_interval=25",
        "replace_allowed_ips=true",
        "allowed_ip=10.100.1.0/24",
        "allowed_ip=10.100.2.0/24",
        "",
    ]


@given(st.sampled_from(["192.0.2.1", "2001:db8::7"]), st.integers(1, 65535))
def test_endpoints_are_read_as_written(address: str, port: int) -> None:
    assert uapi.read_endpoint(uapi.write_endpoint((address, port))) == (address, port)


def test_a_userspace_answer_is_read() -> None:
    answer = (
        f"private_key={'00' * 32}\nlisten_port=51820\npublic_key={KEY.hex()}\nendpoint=[2001:db8::1]:9\n"
        "allowed_ip=10.100.1.0/24\nallowed_ip=fd00::/64\nallowed_ip=10.100.2.0/24\nlast_handshake_time_sec=100\n"
        "last_handshake_time_nsec=500000000\nrx_bytes=7\ntx_bytes=8\npersistent_keepalive_interval=25\n"
        f"public_key={'01' * 32}\nlast_handshake_time_sec=0\nerrno=0\n\n"
    )
    peers = uapi.read_peers(answer)
    first, second = peers[KEY], peers[b"\1" * 32]
    assert (first.endpoint, first.allowed, first.keepalive) == (("2001:db8::1", 9), NETWORKS, 25)
    assert (first.last_handshake_at, first.received_bytes, first.sent_bytes) == (100.5, 7, 8)
    assert (second.endpoint, second.last_handshake_at) == (None, None)
    assert uapi.error_of(answer) == 0
    assert uapi.error_of("errno=-22\n\n") == -22


class Answer(dict[str, Any]):
    def get_attr(self, name: str) -> Any:
        return self.get(name)


class Library:
    """Records what the kernel would have been told."""

    said: list[tuple[str, dict[str, Any]]]

    def __init__(self) -> None:
        self.said = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set(self, interface: str, **arguments: Any) -> None:
        self.said.append((interface, arguments))

    def info(self, interface: str) -> list[Answer]:
        peer = Answer(
            WGPEER_A_PUBLIC_KEY=base64.b64encode(KEY),
            WGPEER_A_ENDPOINT={"family": 2, "addr": "192.0.2.1", "port": 51820},
            WGPEER_A_LAST_HANDSHAKE_TIME={"tv_sec": 100, "tv_nsec": 500000000},
            WGPEER_A_ALLOWEDIPS=[{"addr": "10.100.1.0/24"}, {"addr": "10.100.2.0/24"}, {"addr": "fd00::/64"}],
            WGPEER_A_RX_BYTES=7,
            WGPEER_A_TX_BYTES=8,
        )
        return [Answer(WGDEVICE_A_PEERS=[peer]), Answer()]


async def test_the_kernels_tunnel_says_the_same_in_its_own_words() -> None:
    library = Library()
    tunnel = kernel.KernelTunnel(Names("x"), lambda: library)
    change = PeerChange(KEY, endpoint=("192.0.2.1", 51820), allowed=NETWORKS, keepalive=0)
    await tunnel.change((PeerChange(b"\1" * 32, remove=True), change, PeerChange(KEY, keepalive=25)))
    public = base64.b64encode(KEY).decode()
    assert library.said == [
        ("wgx", {"peer": {"public_key": base64.b64encode(b"\1" * 32).decode(), "remove": True}}),
        (
            "wgx",
            {
                "peer": {
                    "public_key": public,
                    "endpoint_addr": "192.0.2.1",
                    "endpoint_port": 51820,
                    "persistent_keepalive": 0,
                    "replace_allowed_ips": True,
                    "allowed_ips": ["10.100.1.0/24", "10.100.2.0/24"],
                }
            },
        ),
        ("wgx", {"peer": {"public_key": public, "persistent_keepalive": 25}}),
    ]
    (state,) = (await tunnel.peers()).values()
    assert (state.public_key, state.endpoint, state.allowed) == (KEY, ("192.0.2.1", 51820), NETWORKS)
    assert (state.last_handshake_at, state.received_bytes, state.sent_bytes, state.keepalive) == (100.5, 7, 8, 0)


@given(st.lists(st.tuples(st.integers(1, 200), st.binary(max_size=40)), unique_by=lambda pair: pair[0]))
def test_attributes_are_read_as_written(pairs: list[tuple[int, bytes]]) -> None:
    encoded = b"".join(netlink.attribute(kind, data) for kind, data in pairs)
    assert netlink.attributes(encoded) == dict(pairs)
    assert len(encoded) % 4 == 0


@given(st.binary(max_size=60))
def test_rubbish_attributes_do_no_harm(data: bytes) -> None:
    netlink.attributes(data)


@pytest.mark.parametrize("alias", ["", "kat", "kat 10.0.0.1 x i1", "somebody's", "kat 10.0.0.1 5 i 1"])
def test_a_foreign_alias_is_no_cable(alias: str) -> None:
    assert link.cable_of(rtnetlink.Link("kvx-aaaaaa", 1, alias, "veth", True, 1420)) is None


def test_an_alias_is_read() -> None:
    cable = link.cable_of(rtnetlink.Link("kvx-aaaaaa", 1, "kat 10.0.0.1 77 web-1", "veth", True, 1420))
    assert cable is not None
    assert (cable.instance_id, cable.address, cable.inode) == ("web-1", IPv4Address("10.0.0.1"), 77)


CLIENT, VIRTUAL, GONE, OTHER = (IPv4Address(text) for text in ("10.100.0.5", "10.101.0.1", "10.100.0.6", "10.100.0.7"))


def connection(protocol: int, to: IPv4Address, backend: IPv4Address) -> Connection:
    return Connection(protocol, Flow(CLIENT, 4000, to, 80), Flow(backend, 8080, CLIENT, 4000), b"")


def test_the_end_that_is_left_hears_from_the_address_it_knows() -> None:
    through, direct, other = (
        connection(conntrack.TCP, VIRTUAL, GONE),
        connection(conntrack.TCP, GONE, GONE),
        connection(conntrack.TCP, VIRTUAL, OTHER),
    )
    victims = conntrack.touching([through, direct, other], frozenset({GONE}))
    assert victims == [through, direct]
    assert conntrack.surviving_ends(victims, frozenset({GONE})) == [
        Flow(VIRTUAL, 80, CLIENT, 4000),
        Flow(GONE, 80, CLIENT, 4000),
    ]
    assert conntrack.surviving_ends([through], frozenset({CLIENT})) == [Flow(CLIENT, 4000, GONE, 8080)]
    assert conntrack.surviving_ends([through], frozenset({CLIENT, GONE})) == []
    assert conntrack.surviving_ends([connection(conntrack.UDP, VIRTUAL, GONE)], frozenset({GONE})) == []


def test_udp_flows_are_stale_when_their_backend_is_no_longer_allowed() -> None:
    services = IPv4Network("10.101.0.0/16")
    flow = connection(conntrack.UDP, VIRTUAL, GONE)
    keep = {(VIRTUAL, 80): frozenset({(GONE, 8080)})}
    assert conntrack.stale_udp([flow], services, keep) == []
    assert conntrack.stale_udp([flow], services, {(VIRTUAL, 80): frozenset()}) == [flow]
    assert conntrack.stale_udp([flow], services, {}) == [flow]
    assert conntrack.stale_udp([connection(conntrack.UDP, OTHER, OTHER)], services, {}) == []
    assert conntrack.stale_udp([connection(conntrack.TCP, VIRTUAL, GONE)], services, {}) == []


@given(st.integers(1, 65535), st.integers(1, 65535), st.integers(0, 2**32 - 1))
def test_a_segments_checksum_is_right(source: int, target: int, sequence: int) -> None:
    packet = conntrack.segment(Flow(VIRTUAL, source, CLIENT, target), sequence)
    pseudo = VIRTUAL.packed + CLIENT.packed + struct.pack("!BBH", 0, 6, 20)
    total = sum(struct.unpack(f"!{(len(pseudo) + 20) // 2}H", pseudo + packet[20:]))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF
    assert struct.unpack("!HHI", packet[20:28]) == (source, target, sequence)
    assert packet[33] == 0x10


def test_settings_are_given_back_unless_changed_since(tmp_path: Path) -> None:
    root, folder = tmp_path / "sys", tmp_path / "data"
    (root / "net/ipv4").mkdir(parents=True)
    folder.mkdir()
    forward = root / "net/ipv4/ip_forward"
    forward.write_text("0\n")
    sysctl.apply(folder, root)
    sysctl.apply(folder, root)
    assert forward.read_text() == "1"
    sysctl.restore(folder, root)
    assert forward.read_text() == "0"
    assert not list(folder.iterdir())
    forward.write_text("1\n")
    sysctl.apply(folder, root)
    sysctl.restore(folder, root)
    assert forward.read_text() == "1\n", "forwarding was on before us and must stay on"


@pytest.mark.parametrize(
    ("rules", "dropped"), [("-P FORWARD DROP\n-N X\n", True), ("-P FORWARD ACCEPT\n", False), ("", False)]
)
def test_a_drop_policy_is_seen(rules: str, dropped: bool) -> None:
    assert firewall.drops(rules) is dropped


@pytest.mark.parametrize(
    ("version", "slow"),
    [("wireguard-go v0.0.20220316\n", True), ("wireguard-go v0.0.20230223\n", False), ("wireguard-go v1.2\n", False)],
)
def test_an_old_wireguard_go_is_known_to_be_slow(version: str, slow: bool) -> None:
    assert host.is_slow(version) is slow


@pytest.mark.real
def test_the_kernel_is_tried_without_leaving_a_trace() -> None:
    before = {link.name for link in _links()}
    seen = host.try_kernel()
    assert seen.error == ""
    assert seen.missing == ()
    assert seen.bridge
    assert {link.name for link in _links()} == before


def _links() -> tuple[rtnetlink.Link, ...]:
    with rtnetlink.open_here() as kernel_here:
        return rtnetlink.links(kernel_here)
