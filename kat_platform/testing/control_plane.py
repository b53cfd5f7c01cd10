"""A control plane without a machine: store in memory, the real API over real TLS on loopback, real certificates.

For tests of whatever talks to the API. The caller gives the auth driver, because drivers are plugins.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from kat_platform.agent.backups import view_of
from kat_platform.backup.archive import Manifest
from kat_platform.backup.keeper import BackupKeeper, Surroundings
from kat_platform.backup.key import RecoveryKey
from kat_platform.interfaces.auth import Auth
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.identity import NodeName, UserName
from kat_platform.model.meta import Metadata
from kat_platform.model.node import Capacity, NodeRecord, NodeReport, NodeRole
from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority
from kat_platform.pki.files import write_whole
from kat_platform.pki.keyring import Keyring
from kat_platform.pki.tls import client_context, server_context
from kat_platform.server.app import ApiServer, ServerDeps
from kat_platform.state import keys
from kat_platform.state.cache import StateCache
from kat_platform.testing.fakes.store import MemoryStore

CLUSTER_ID = "kt-cluster"


class ControlPlane:
    """One API server on a port of its own. ``start`` and ``stop`` it on the loop it lives on."""

    def __init__(
        self, folder: Path, auth: Auth, *, store: MemoryStore | None = None, more: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.auth = folder, auth
        self.store = store or MemoryStore()
        self.cache = StateCache(self.store)
        self.authority = Authority.create(CLUSTER_ID)
        self.node = "n1"
        self._more = dict(more or {})
        self._following: asyncio.Task[None] | None = None
        self.server: ApiServer
        self.backups: BackupKeeper

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"https://127.0.0.1:{self.server.port}"

    async def start(self) -> None:
        """Start everything, with a configuration and one node that has reported."""
        await self.store.start()
        configuration = ClusterConfiguration(metadata=Metadata(name="cluster"))
        await self.store.put(keys.CLUSTER, configuration.to_json())
        await self.add_node(self.node, NodeRole.CONTROL_PLANE, "10.100.0.0/23")
        self._following = asyncio.create_task(self.cache.run(), name="control-plane-cache")
        node = NodeName(CLUSTER_ID, self.node, NodeRole.CONTROL_PLANE)
        certificate, key = self.issue_node(node)
        tls = server_context(self.authority.pem(), certificate, key)
        self.backups = self._keeper()
        deps = ServerDeps(
            store=self.store,
            cache=self.cache,
            auth=self.auth,
            node_name=self.node,
            tls=tls,
            keyring=Keyring((self.authority,)),
            leader_info=lambda: self.node,
            backups=self.backups,
        )
        self.server = ApiServer(replace(deps, **self._more))
        await self.server.start("127.0.0.1", 0)

    def _keeper(self) -> BackupKeeper:
        async def manifest() -> Manifest:
            files = {"ca.pem": self.authority.pem().decode(), "ca.key": "kept for the test's end"}
            return Manifest(ca_files=files, view=view_of(await self.cache.synced()))

        return BackupKeeper(
            Surroundings(
                node=self.node,
                cluster_id=CLUSTER_ID,
                store=self.store,
                key=RecoveryKey.create(),
                folder=lambda: self.folder / "backups",
                retention=lambda: 3,
                manifest=manifest,
                scratch=lambda _folder: MemoryStore(),
            )
        )

    async def stop(self) -> None:
        """Stop everything."""
        await self.server.stop()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self.store.stop()

    async def add_node(self, name: str, role: NodeRole, subnet: str, *, alive: bool = True) -> None:
        """Record a node that has joined and reported."""
        record = NodeRecord(name=name, role=role, subnet=IPv4Network(subnet), public_key=f"key-of-{name}")
        room = Capacity(cpu_millicores=4000, memory_bytes=8 << 30)
        report = NodeReport(capacity=room, allocatable=room, addresses=("192.0.2.1",), public_key=f"key-of-{name}")
        await self.store.put(keys.node(name), record.to_json())
        await self.store.put(keys.node_report(name), report.to_json())
        if alive:
            await self.store.put(keys.alive(name), b"{}")

    async def settled(self) -> None:
        """Wait until the API's state has everything that is in the store."""
        await self.cache.reached((await self.store.store_status()).revision)

    # --- credentials ---------------------------------------------------------------------------------------

    def issue_node(self, node: NodeName, authority: Authority | None = None) -> tuple[Path, Path]:
        """Make a node's certificate and key; gives their files."""
        key = certificates.make_key()
        made = (authority or self.authority).issue_node(key.public_key(), node, domain="kat.cluster.local")
        return self._save(f"node-{node.name}", certificates.certificate_pem(made), certificates.key_pem(key))

    def issue_user(self, name: str, role: str, namespace: str = "*") -> tuple[Path, Path]:
        """Make a user's certificate and key; gives their files."""
        key = certificates.make_key()
        made = self.authority.issue_user(key.public_key(), UserName(CLUSTER_ID, name, {namespace: role}))
        return self._save(f"user-{name}", certificates.certificate_pem(made), certificates.key_pem(key))

    def node_tls(self, name: str, role: NodeRole = NodeRole.WORKER) -> ssl.SSLContext:
        """Give a client context that speaks as a node."""
        return client_context(self.authority.pem(), *self.issue_node(NodeName(CLUSTER_ID, name, role)))

    def user_tls(self, name: str, role: str, namespace: str = "*") -> ssl.SSLContext:
        """Give a client context that speaks as a user."""
        return client_context(self.authority.pem(), *self.issue_user(name, role, namespace))

    def anonymous_tls(self) -> ssl.SSLContext:
        """Give a client context without a certificate."""
        return client_context(self.authority.pem())

    def _save(self, name: str, certificate: bytes, key: bytes) -> tuple[Path, Path]:
        paths = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        write_whole(paths[0], certificate)
        write_whole(paths[1], key)
        return paths
