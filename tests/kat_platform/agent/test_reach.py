"""What a node that is cut off counts on: whoever answers, and nobody else."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kat_platform.agent.reach import MISSES, Reach, counted, dial
from kat_platform.agent.tables import Away, NodeView, dns_view, service_table
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.load_balancer import BalancedPort, VirtualLoadBalancerSpec
from kat_platform.model.meta import Metadata
from kat_platform.model.view import ClusterItem, EndpointItem, ServiceItem

NODES = {"n2": IPv4Address("10.0.0.2"), "n3": IPv4Address("10.0.0.3")}


class Scene:
    """Two other nodes of which some answer, and what was told of it."""

    def __init__(self):
        self.dead = set()
        self.drop = 0
        self.knocks = 0
        self.told = []
        self.reach = Reach(lambda: NODES, 9116, self.told.append, knock=self.knock, pause=0.01)

    async def knock(self, address, port):
        assert port == 9116
        self.knocks += 1
        await asyncio.sleep(0)
        if self.drop and address == NODES["n3"]:
            self.drop -= 1
            return False
        return address not in self.dead

    async def until(self, told):
        async with asyncio.timeout(5):
            while not self.told or self.told[-1] != told:  # noqa: ASYNC110 - what is told is all there is to see
                await asyncio.sleep(0.005)


@pytest.fixture
async def scene():
    scene = Scene()
    task = asyncio.create_task(scene.reach.run())
    yield scene
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_who_does_not_answer_several_times_is_left_out_until_it_does(scene):
    scene.dead = {NODES["n3"]}
    await scene.until(Away(frozenset({"n3"})))
    scene.dead = set(NODES.values())
    await scene.until(Away(frozenset({"n2", "n3"})))
    scene.dead = set()
    await scene.until(Away())
    assert scene.told[0] == Away(frozenset({"n3"}))
    assert len(scene.told) <= 4, "only changes are told"


async def test_one_lost_answer_changes_nothing(scene):
    for _ in range(5):
        scene.drop = MISSES - 1
        knocks = scene.knocks
        async with asyncio.timeout(5):
            while scene.drop or scene.knocks < knocks + 3 * len(NODES) * MISSES:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.005)
    assert scene.told == []


async def test_that_the_control_plane_does_not_answer_is_told_at_once_and_starts_a_look(scene):
    scene.reach = Reach(lambda: NODES, 9116, scene.told.append, knock=scene.knock, pause=60)
    task = asyncio.create_task(scene.reach.run())
    await asyncio.sleep(0.05)
    scene.dead = {NODES["n2"]}
    scene.reach.doubt()
    assert scene.told[-1] == Away(cut_off=True)
    await scene.until(Away(frozenset({"n2"}), cut_off=True))
    scene.dead = set()
    scene.reach.trust()
    assert scene.told[-1] == Away(frozenset({"n2"}))
    await scene.until(Away())
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.booleans())))
def test_misses_are_counted_in_a_row_and_only_of_nodes_that_are_there(rounds):
    misses = {}
    for answers in rounds:
        misses = counted(misses, answers)
    last = rounds[-1] if rounds else {}
    assert set(misses) == set(last)
    for name, count in misses.items():
        row = [answers.get(name) for answers in rounds[len(rounds) - count :]]
        assert row == [False] * count, "each of the last ones missed"
        assert count == len(rounds) or rounds[len(rounds) - count - 1].get(name) is not False, "and none before"


async def test_a_refusal_is_an_answer():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await dial(IPv4Address("127.0.0.1"), port)
    server.close()
    await server.wait_closed()
    assert await dial(IPv4Address("127.0.0.1"), port)


def test_instances_on_nodes_out_of_reach_get_no_traffic_but_keep_their_names():
    spec = VirtualLoadBalancerSpec(ports=(BalancedPort(name="http", port=80, container_port=8080),))
    ends = tuple(
        EndpointItem(id=f"web-{node}", node=node, address=IPv4Address(f"10.100.{i}.2"), ready=True)
        for i, node in enumerate(("n1", "n2", "n3"))
    )
    service = ServiceItem(
        namespace="default", workload="web", virtual_ip=IPv4Address("10.101.0.1"), spec=spec, endpoints=ends
    )
    cluster = ClusterItem(configuration=ClusterConfiguration(metadata=Metadata(name="c")))
    view = NodeView("n1", cluster, {}, {"default/web": service})
    for cut_off in (True, False):
        table = service_table(view, {}, (), Away(frozenset({"n2", "n3"}), cut_off))
        assert [str(backend.address) for backend in table.ports[0].backends] == ["10.100.0.2"]
    nobody = frozenset({"n1", "n2", "n3"})
    assert not service_table(view, {}, (), Away(nobody, cut_off=True)).ports[0].backends, "refused at once"
    assert len(service_table(view, {}, (), Away(nobody)).ports[0].backends) == 3, "the control plane may know better"
    assert len(service_table(view, {}, ()).ports[0].backends) == 3
    names = dns_view(view, {}, 1, Away(frozenset({"n3"})))
    assert names is not None
    assert [(each.name, each.ready) for each in names.workloads[0].instances] == [
        ("web-n1", True),
        ("web-n2", True),
        ("web-n3", False),
    ]
