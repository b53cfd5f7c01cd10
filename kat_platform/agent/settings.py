"""Settings: which parts of a cluster's configuration can change after ``init``. Pure."""

from __future__ import annotations

from typing import Final

from kat_platform.errors import Conflict
from kat_platform.model.cluster import ClusterConfiguration

FIXED: Final = {
    "cluster_cidr": "every instance's address comes from it",
    "service_cidr": "every virtual IP comes from it",
    "node_subnet_bits": "every node's subnet is cut by it",
    "cluster_domain": "it is in certificates and in running containers",
    "api_port": "every node and user knows the API by it",
    "agent_port": "the API knows every agent by it",
    "etcd_peer_port": "the store's members know each other by it",
    "wireguard_port": "the nodes know each other by it",
    "data_path": "everything lies there",
    "volume_base_path": "the volumes lie there",
}
"""Fields that cannot change while the cluster exists, and why."""

FIXED_PLUGINS: Final = ("store", "runtime", "network")
"""Capabilities whose driver holds state that another one could not take over."""


def refuse_fixed_changes(old: ClusterConfiguration, new: ClusterConfiguration) -> None:
    """Raise one ``Conflict`` naming every field that differs although it cannot change."""
    faults = []
    for name, why in FIXED.items():
        before, after = getattr(old.spec, name), getattr(new.spec, name)
        if before != after:
            wire = type(old.spec).model_fields[name].alias or name
            faults.append(f"{wire} is {before} and cannot become {after}: {why}")
    for name in FIXED_PLUGINS:
        before, after = getattr(old.spec.plugins, name), getattr(new.spec.plugins, name)
        if before != after:
            faults.append(f"plugins.{name} is '{before}' and cannot become '{after}': its state would be left behind")
    if faults:
        raise Conflict("; ".join(faults), hint="to change this, make a new cluster")
