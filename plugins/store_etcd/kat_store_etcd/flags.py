"""How etcd is called: pure functions from the configuration to arguments and environment.

Flags changed their names over etcd's versions (``--experimental-X`` became ``--X``), so what an installed etcd
knows is read from its own ``--help`` and each setting takes the first of its names that is known.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kat_platform.interfaces.store import PeerIdentity
from kat_store_etcd.config import EtcdConfig

SOCKET_NAME = "client.sock:0"
"""The client socket, in etcd's working folder. etcd wants a port in the URL and makes it part of the name."""

UNREACHABLE_PEER = "unix://peer.sock:0"
"""Where a first member listens for peers while its address is not up: nobody knows of it yet."""

MAX_OPERATIONS = 10_000
MAX_REQUEST_BYTES = 10 * 1024 * 1024

COMMIT_MILLISECONDS = 500
"""How long changes gather before etcd writes its database. They are safe in its log at once; to look for some ten times
a second, as it does by itself, costs a quarter of what a member does at rest.
"""

CATCH_UP_ENTRIES = 1000
PROGRESS_SECONDS = 30

_ARCHITECTURES = {"aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "riscv64": "riscv64"}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this member is; kept beside the data, since the data belong to it."""

    name: str
    peer_url: str
    initial_cluster: str
    state: str = "new"
    token: str = "kat"
    alone: bool = False
    """Whether there is no other member, so that nobody is waited for. Without effect on what etcd stores."""


def known_flags(help_text: str) -> frozenset[str]:
    """Find the names of all flags in etcd's ``--help``."""
    return frozenset(re.findall(r"^\s+--([a-z0-9-]+)", help_text, re.MULTILINE))


def arguments(
    config: EtcdConfig,
    identity: Identity,
    data_dir: str,
    known: frozenset[str],
    peer: PeerIdentity | None = None,
    *,
    alone: bool = False,
) -> list[str]:
    """Make etcd's arguments: clients on a Unix socket in the working folder only, peers on the peer URL only.

    ``alone``: it forgets the other members, and is not reachable for them meanwhile.
    """
    hidden = alone or (peer is not None and not peer.reachable)
    flags: dict[str, str] = {
        "name": identity.name,
        "data-dir": data_dir,
        "listen-client-urls": f"unix://{SOCKET_NAME}",
        "advertise-client-urls": f"unix://{SOCKET_NAME}",
        "listen-peer-urls": UNREACHABLE_PEER if hidden else config.peer_listen_url or identity.peer_url,
        "initial-advertise-peer-urls": identity.peer_url,
        "initial-cluster": identity.initial_cluster,
        "initial-cluster-state": identity.state,
        "initial-cluster-token": identity.token,
        "heartbeat-interval": str(config.heartbeat_interval_ms),
        "election-timeout": str(election_timeout(config, identity)),
        "auto-compaction-mode": config.compaction_mode,
        "auto-compaction-retention": config.compaction_retention,
        "quota-backend-bytes": str(config.quota_mib * 1024 * 1024),
        "snapshot-count": str(config.snapshot_count),
        "max-snapshots": "2",
        "max-wals": "2",
        "max-txn-ops": str(MAX_OPERATIONS),
        "max-request-bytes": str(MAX_REQUEST_BYTES),
        "logger": "zap",
        "log-outputs": "stderr",
        "log-level": "warn",
    }
    if not hidden:
        flags |= _peer_tls(config, peer)
    if alone:
        flags["force-new-cluster"] = "true"
    flags |= _first_known(
        known,
        ("true", ("pre-vote",)),
        ("false", ("enable-grpc-gateway",)),
        (f"{COMMIT_MILLISECONDS}ms", ("backend-batch-interval",)),
        (f"{PROGRESS_SECONDS}s", ("watch-progress-notify-interval", "experimental-watch-progress-notify-interval")),
        (str(CATCH_UP_ENTRIES), ("snapshot-catchup-entries", "experimental-snapshot-catchup-entries")),
    )
    return [f"--{name}={value}" for name, value in flags.items()]


def _peer_tls(config: EtcdConfig, peer: PeerIdentity | None) -> dict[str, str]:
    """Give the flags for mutual TLS between members; the operator's own files go before the node's."""
    if config.peer_cert_file:
        certificate, key, ca, name = config.peer_cert_file, config.peer_key_file, config.peer_ca_file, ""
    elif peer is not None:
        certificate, key, ca, name = str(peer.certificate), str(peer.key), str(peer.ca), peer.required_name
    else:
        return {}
    flags = {"peer-cert-file": certificate, "peer-key-file": key, "peer-trusted-ca-file": ca}
    flags["peer-client-cert-auth"] = "true"
    if not config.peer_cert_file and peer is not None and peer.revoked is not None:
        flags["peer-crl-file"] = str(peer.revoked)
    if name:  # a worker has a certificate of the same CA
        flags["peer-cert-allowed-hostname"] = name
    return flags


def election_timeout(config: EtcdConfig, identity: Identity) -> int:
    """Choose the election timeout in ms. A lone member waits one to two of them at every start, for nobody: it gets
    the least that etcd takes. One that gets company keeps that until its next start, which does no harm: it would
    only stand for election earlier than the others, and asks them first (pre-vote)."""
    return min(config.election_timeout_ms, 5 * config.heartbeat_interval_ms if identity.alone else 50_000)


def _first_known(known: frozenset[str], *settings: tuple[str, Iterable[str]]) -> Mapping[str, str]:
    chosen: dict[str, str] = {}
    for value, names in settings:
        name = next((name for name in names if name in known), None)
        if name is not None:
            chosen[name] = value
    return chosen


def base_environment() -> dict[str, str]:
    """Make the environment for any of etcd's programs: nothing of the agent's, since they read every ``ETCD_*``."""
    made = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "ETCDCTL_API": "3"}
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is not None:
        made["ETCD_UNSUPPORTED_ARCH"] = architecture  # etcd 3.4 starts on these only when told that one knows
    return made


def environment(config: EtcdConfig) -> dict[str, str]:
    """Make the environment of the server."""
    made = base_environment() | {"GOGC": str(config.gc_percent)}
    made.pop("ETCDCTL_API")
    if config.memory_limit_mib:
        made["GOMEMLIMIT"] = f"{config.memory_limit_mib}MiB"
    return made
