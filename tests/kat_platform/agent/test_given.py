"""An endpoint that was given: what is tried first, and where the tunnels lead meanwhile."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from kat_platform.agent import given as endpoints
from kat_platform.agent.given import Given
from kat_platform.agent.link import ApiLink
from kat_platform.agent.local import LocalNode, Places, save_node
from kat_platform.agent.tables import NodeView, fold, peers
from kat_platform.cli.agent_main import cli
from kat_platform.errors import UsageError
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.meta import Metadata
from kat_platform.model.node import NodeRole
from kat_platform.model.view import NodeItem
from kat_platform.pki.tls import unverified_context

NAMES = ("n1", "n2", "n3", "n4")


def item(name: str, *addresses: str) -> NodeItem:
    number = int(name[1:])
    return NodeItem(
        name=name,
        subnet=IPv4Network(f"10.100.{2 * number}.0/23"),
        public_key=f"key-of-{name}",
        addresses=addresses,
        listen_port=51820 + number,
    )


@given(st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES), st.ip_addresses(v=4).map(str))
def test_tunnels_lead_to_the_given_place_with_the_keys_they_had(known: set[str], own: str, place: str) -> None:
    nodes = {name: item(name, f"192.0.2.{name[1:]}") if name in known else item(name) for name in NAMES}
    usual = peers(NodeView(own, nodes=nodes))
    led = peers(NodeView(own, nodes=nodes, given=place))
    assert [(p.node_name, p.subnet, p.public_key) for p in led] == [
        (p.node_name, p.subnet, p.public_key) for p in usual
    ]
    assert own not in {peer.node_name for peer in led}
    for peer in led:
        assert peer.endpoint == (place, nodes[peer.node_name].listen_port)
    for peer in usual:
        assert (peer.endpoint is not None) == (peer.node_name in known)
    again = fold(NodeView(own, nodes=nodes, given=place), {"node/n1": item("n1", "198.51.100.1").to_wire()})
    assert again.given == place, "what the cluster tells meanwhile does not end it by itself"


def test_the_given_endpoint_is_asked_first_and_the_others_are_kept() -> None:
    link = ApiLink("n2", ["https://a:1", "https://b:1"], unverified_context())
    link.prefer("https://c:1")
    assert link._endpoints == ["https://c:1", "https://a:1", "https://b:1"]
    link.prefer("https://b:1")
    assert link._endpoints == ["https://b:1", "https://c:1", "https://a:1"]
    link.set_endpoints(["https://b:1", "https://d:1"])
    assert link._endpoints == ["https://b:1", "https://d:1"]


@pytest.fixture
def places(tmp_path):
    places = Places(tmp_path / "data")
    node = LocalNode(
        cluster_id="kt-cluster",
        node_name="n2",
        role=NodeRole.WORKER,
        tag="kttst",
        configuration=ClusterConfiguration(metadata=Metadata(name="cluster")),
    )
    save_node(places, node)
    return places


def test_it_is_given_kept_and_forgotten(places) -> None:
    assert endpoints.read(places) is None
    for text, port in (("192.0.2.9", 9115), ("host.example:9200", 9200)):
        done = CliRunner().invoke(cli, ["endpoint", text, "--data-path", str(places.data)])
        assert done.exit_code == 0, done.exception
        assert endpoints.read(places) == Given(host=text.partition(":")[0], port=port)
    places.given.write_text("{")
    assert endpoints.read(places) is None, "a broken file is no reason not to start"
    endpoints.forget(places)
    endpoints.forget(places)
    assert not places.given.exists()


@pytest.mark.parametrize("text", ["", "https://", "host:port", "a/b", "host:0", "host:99999"])
def test_what_is_no_address_is_refused(places, text) -> None:
    assert isinstance(
        CliRunner().invoke(cli, ["endpoint", text, "--data-path", str(places.data)]).exception, UsageError
    )
    assert endpoints.read(places) is None
