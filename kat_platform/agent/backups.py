"""Backups: what a control-plane node puts into them, and where they lie on it."""

from __future__ import annotations

import base64
from ipaddress import IPv4Address
from pathlib import Path

from kat_platform.agent.local import LocalNode, Places
from kat_platform.agent.membership import peer_identity
from kat_platform.backup.archive import Manifest
from kat_platform.backup.keeper import BackupKeeper, Surroundings
from kat_platform.backup.key import RecoveryKey
from kat_platform.errors import NotSupportedYet, Unavailable
from kat_platform.interfaces.driver import Capability, DriverContext
from kat_platform.interfaces.network import MovesKey, Network
from kat_platform.interfaces.store import HasMembers, Store
from kat_platform.model.cluster import ClusterConfiguration, ClusterConfigurationSpec
from kat_platform.pki.files import private_folder, read_public
from kat_platform.registry.catalog import Catalog
from kat_platform.registry.drivers import Drivers, examine
from kat_platform.server.node_view import cluster_item, node_item
from kat_platform.state.cache import StateCache
from kat_platform.state.cluster import ClusterState

CA_FILES = ("ca.*", "ca-*")
"""Which files of the pki folder are the CA's: the certificates that are trusted, and the keys that sign."""


def ca_files(pki: Path) -> dict[str, str]:
    """Read every file of the CA, by its name."""
    found = {path for pattern in CA_FILES for path in pki.glob(pattern) if path.is_file()}
    return {path.name: read_public(path).decode("ascii") for path in sorted(found)}


def view_of(state: ClusterState) -> dict[str, object]:
    """Give what a control-plane node must know to come up: the cluster, and every node's place in the overlay."""
    cluster = cluster_item(state)
    if cluster is None:
        raise Unavailable("the cluster's configuration is not known yet")
    nodes = {name: node_item(state, name) for name in sorted(state.nodes)}
    return {
        "cluster": cluster.to_wire(),
        **{f"node/{name}": item.to_wire() for name, item in nodes.items() if item is not None},
    }


async def manifest_of(places: Places, network: Network, state: ClusterState) -> Manifest:
    """Put together what makes this node, beside the store."""
    secret = await network.secret() if isinstance(network, MovesKey) else b""
    return Manifest(
        ca_files=ca_files(places.pki), network_secret=base64.b64encode(secret).decode("ascii"), view=view_of(state)
    )


def backup_folder(places: Places, configuration: ClusterConfiguration | None) -> Path:
    """Give where this node's backups go."""
    spec = configuration.spec if configuration is not None else ClusterConfigurationSpec()
    return places.rebased(spec.backup_path, spec.data_path)


def scratch_store(node: LocalNode, places: Places, folder: Path) -> Store:
    """Make a store like this node's own, not started, in a folder of its own, which no other member can reach."""
    name, settings = node.configuration.spec.plugins.store, node.configuration.spec.plugin_config
    found = examine(Capability.STORE, name, settings, Catalog.read()).usable
    if found is None:
        raise NotSupportedYet(f"the store '{name}' cannot be loaded a second time")
    data, run = private_folder(folder / "d"), private_folder(folder / "r")
    store = found.driver_class(found.config, DriverContext(node.node_name, data, run, node.tag))
    assert isinstance(store, Store)  # examine() has compared it with the contract
    if isinstance(store, HasMembers):
        store.configure_peers(peer_identity(node, places, IPv4Address("127.0.0.1"), reachable=False))
    return store


def keeper_of(node: LocalNode, places: Places, drivers: Drivers, cache: StateCache, key: RecoveryKey) -> BackupKeeper:
    """Make the keeper of this node's backups."""

    def retention() -> int:
        known = cache.state.configuration
        return (known.spec if known is not None else node.configuration.spec).backup_retention

    return BackupKeeper(
        Surroundings(
            node=node.node_name,
            cluster_id=node.cluster_id,
            store=drivers.store,
            key=key,
            folder=lambda: backup_folder(places, cache.state.configuration or node.configuration),
            retention=retention,
            manifest=lambda: manifest_of(places, drivers.network, cache.state),
            scratch=lambda folder: scratch_store(node, places, folder),
        )
    )
