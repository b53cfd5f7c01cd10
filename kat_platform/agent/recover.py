"""Recover: ``kat-agent recover``. A quorum is lost for good; one survivor goes on alone with its data.

Whatever only the lost members had acknowledged is gone. Workers and containers need nothing: they find the survivor by
the addresses they know.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

import structlog

from kat_platform.agent.daemon import plugins_for, refuse_unfinished
from kat_platform.agent.journal import Journal
from kat_platform.agent.local import AgentLock, LocalNode, Membership, Places, load_node
from kat_platform.agent.membership import peer_identity, ready_files
from kat_platform.backup.key import RecoveryKey, load_or_derive
from kat_platform.errors import Conflict, HostNotReady, NotSupportedYet
from kat_platform.interfaces.store import HasMembers, Store, SurvivesAlone
from kat_platform.model.node import NodeRecord, NodeRole
from kat_platform.model.view import NodeItem
from kat_platform.pki.keyring import Keyring
from kat_platform.state import keys

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a survivor has: its own name, the store's revision, and the control-plane nodes it goes on without."""

    node: str
    revision: int
    lost: tuple[str, ...]


def refuse_unfit(node: LocalNode) -> None:
    """Raise ``Conflict`` on a node that has no copy of the state to go on with."""
    if node.role is not NodeRole.CONTROL_PLANE:
        raise Conflict(
            f"node '{node.node_name}' is a worker: it has no copy of the state",
            hint="run this on a control-plane node that survived",
        )
    if node.membership is not Membership.VOTER:
        raise Conflict(
            f"node '{node.node_name}' had not become a full member of the store: its copy may have holes",
            hint="run this on another control-plane node that survived",
        )


def recovery_key(node: LocalNode, places: Places) -> RecoveryKey:
    """Give the key that opens the cluster's backups; raises ``Conflict`` on a worker, which has none."""
    if node.role is not NodeRole.CONTROL_PLANE:
        raise Conflict(
            f"node '{node.node_name}' is a worker: it has no recovery key", hint="run this on a control-plane node"
        )
    return load_or_derive(places.pki, Keyring.load(places.pki))


async def recover(places: Places) -> Recovered:
    """Make this node the only member of the store, keeping its data. The agent must not run. Safe to repeat."""
    node = load_node(places)
    refuse_unfit(node)
    lock = AgentLock(places)
    lock.acquire()
    try:
        refuse_unfinished(places)
        store = plugins_for(node, places).drivers.store
        if not isinstance(store, SurvivesAlone):
            raise NotSupportedYet(
                f"the store '{store.info.name}' has no members of its own that could be lost",
                hint="mend it with its own tools",
            )
        if isinstance(store, HasMembers):
            ready_files(places)
            store.configure_peers(peer_identity(node, places, _address(node, places), reachable=False))
        await store.forget_members()
        await store.start()
        try:
            return await _look(store, node)
        finally:
            await store.stop()
    finally:
        lock.release()


def _address(node: LocalNode, places: Places) -> IPv4Address:
    own = Journal(places.journal).load_view().get(f"node/{node.node_name}")
    subnet = NodeItem.from_peer(own).subnet if own is not None else None
    if subnet is None:
        raise HostNotReady(
            f"{places.journal} does not say which subnet this node has", hint="recover on another control-plane node"
        )
    return subnet.network_address + 1


async def _look(store: Store, node: LocalNode) -> Recovered:
    """See for oneself that the state is there."""
    if await store.get(keys.IDENTITY) is None:
        raise Conflict("the store is empty", hint="recover on another control-plane node, or restore a backup")
    page = await store.list(keys.NODES)
    records = [NodeRecord.from_json(entry.value) for entry in page.entries]
    lost = [r.name for r in records if r.role is NodeRole.CONTROL_PLANE and r.name != node.node_name]
    log.info("recovered", node=node.node_name, revision=page.revision, lost=lost)
    return Recovered(node.node_name, page.revision, tuple(sorted(lost)))
