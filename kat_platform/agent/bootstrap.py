"""Bootstrap: ``kat-agent init``. Makes a cluster of one node, or leaves the host as it was."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

import structlog
from cryptography import x509

from kat_platform.agent import facts
from kat_platform.agent.daemon import chosen_drivers, plugins_for
from kat_platform.agent.journal import Journal
from kat_platform.agent.local import LocalNode, Places, load_node, remove_places, save_node
from kat_platform.agent.membership import peer_identity
from kat_platform.backup.key import RecoveryKey
from kat_platform.errors import Conflict, HostNotReady, KatError, NotFound
from kat_platform.interfaces.driver import CheckResult, ChecksHost
from kat_platform.interfaces.store import Compare, HasMembers, Put, Store
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.identity import NodeName, UserName
from kat_platform.model.meta import Metadata
from kat_platform.model.namespace import Namespace
from kat_platform.model.node import NodeRecord, NodeRole
from kat_platform.model.view import ClusterItem, NodeItem
from kat_platform.pki import certificates
from kat_platform.pki.authority import CERTIFICATE_FILE, Authority
from kat_platform.pki.files import PUBLIC, read_public, write_whole
from kat_platform.pki.keyring import Keyring
from kat_platform.pki.revocations import ensure_revocations
from kat_platform.pki.trust import Trust
from kat_platform.registry.catalog import Catalog
from kat_platform.registry.drivers import examine
from kat_platform.server.joining import Claim, note_certificate
from kat_platform.state import keys

log = structlog.get_logger(__name__)

TAG_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


@dataclass(frozen=True, slots=True)
class NewCluster:
    """What ``init`` made: the node, and what ``katcall`` needs to reach it as administrator."""

    node: LocalNode
    ca: str
    certificate: str
    key: str
    server: str


async def check_host(configuration: ClusterConfiguration) -> tuple[CheckResult, ...]:
    """Ask every chosen driver whether this host will do; changes nothing."""
    results: list[CheckResult] = [_check_root()]
    catalog = Catalog.read()
    plugin_config = configuration.spec.plugin_config
    for capability, name in chosen_drivers(configuration).items():
        examined = examine(capability, name, plugin_config, catalog)
        for fault in examined.faults:
            results.append(CheckResult(f"{capability.value} plugin '{name}'", False, str(fault)))
        if examined.usable is None:
            continue
        driver = examined.usable.driver_class
        results.append(CheckResult(f"{capability.value} plugin", True, examined.usable.entry.origin))
        if isinstance(driver, ChecksHost):
            try:
                async with asyncio.timeout(10.0):
                    results.extend(await driver.check_host(examined.usable.config))
            except (KatError, TimeoutError) as error:
                results.append(CheckResult(f"{capability.value}", False, f"the check failed: {error}"))
    return tuple(results)


def _check_root() -> CheckResult:
    root = os.geteuid() == 0
    text = "running as root" if root else "not running as root"
    return CheckResult("privileges", root, text, "" if root else "run kat-agent with sudo")


def refuse_failed(results: tuple[CheckResult, ...]) -> None:
    """Raise ``HostNotReady`` naming every required check that failed."""
    failed = [result for result in results if result.required and not result.ok]
    if failed:
        lines = "; ".join(f"{r.name}: {r.message}" + (f" — {r.remedy}" if r.remedy else "") for r in failed)
        raise HostNotReady(f"this host is not ready: {lines}")


async def init(places: Places, configuration: ClusterConfiguration, node_name: str) -> NewCluster:
    """Make the first node of a new cluster. On any error everything made so far is removed again.

    Raises ``Conflict`` when the host is initialised already: then nothing is changed.
    """
    refuse_initialised(places)
    refuse_failed(await check_host(configuration))
    tag = new_tag()
    with undone_on_error(places, tag):
        cluster_id = f"kat-{secrets.token_hex(6)}"
        node = LocalNode(
            cluster_id=cluster_id,
            node_name=node_name,
            role=NodeRole.CONTROL_PLANE,
            tag=tag,
            configuration=configuration,
            api_endpoints=(f"https://127.0.0.1:{configuration.spec.api_port}",),
            created_at=time.time(),
        )
        authority = Authority.create(cluster_id)
        authority.save(places.pki)
        ensure_revocations(places.pki, authority)
        RecoveryKey.create().save(places.pki)
        certificate = issue_own(authority, node, places, _first_address(node))
        admin = admin_of(authority, node)
        await _first_state(node, places, certificate)
        save_node(places, node)  # last: from here on the host counts as initialised
    return NewCluster(node, authority.pem().decode(), admin[0], admin[1], node.api_endpoints[0])


def new_tag() -> str:
    """Make the short token that sets this node's interfaces, cgroups and tables apart on its machine."""
    return "".join(secrets.choice(TAG_ALPHABET) for _ in range(5))


def refuse_initialised(places: Places) -> None:
    """Raise ``Conflict`` when this data path holds a node already."""
    if places.node_file.exists():
        node = load_node(places)
        raise Conflict(
            f"this host is initialised already: {places.data} holds node '{node.node_name}' of '{node.cluster_id}'",
            hint="nothing was changed; to begin anew run 'kat-agent reset' first",
        )


@contextmanager
def undone_on_error(places: Places, tag: str) -> Iterator[None]:
    """Remove what was made meanwhile when the work inside fails; what lay there before stays."""
    before = set(places.data.iterdir()) if places.data.exists() else None
    try:
        yield
    except BaseException:
        keep = tuple(before or ())
        remove_places(places, tag, keep)
        if before is None and places.data.exists():
            shutil.rmtree(places.data, ignore_errors=True)
        raise


def issue_own(authority: Authority, node: LocalNode, places: Places, overlay: IPv4Address) -> x509.Certificate:
    """Make a control-plane node's own key and certificate, where the CA's key is at hand, and write both down."""
    key = certificates.make_key()
    name = NodeName(node.cluster_id, node.node_name, node.role)
    addresses = [IPv4Address("127.0.0.1"), *(IPv4Address(a) for a in facts.underlay_addresses(frozenset()))]
    addresses.append(overlay)  # by which the store's other members will know this one
    domain = node.configuration.spec.cluster_domain
    certificate = authority.issue_node(key.public_key(), name, domain=domain, addresses=addresses)
    write_whole(places.key, certificates.key_pem(key))
    write_whole(places.certificate, certificates.certificate_pem(certificate), mode=PUBLIC)
    return certificate


def _first_address(node: LocalNode) -> IPv4Address:
    """Give the overlay address of a cluster's first node: that of subnet 0."""
    return node.configuration.spec.node_subnet(0).network_address + 1


def administrator(places: Places) -> NewCluster:
    """Make a new administrator's certificate with the CA's key that a control-plane node has, as ``init`` does.

    Raises ``Conflict`` on a worker.
    """
    node = load_node(places)
    if node.role is not NodeRole.CONTROL_PLANE:
        raise Conflict(
            f"node '{node.node_name}' is a worker: it does not have the CA's key",
            hint="run this on a control-plane node",
        )
    trust, ring = Trust.read(read_public(places.pki / CERTIFICATE_FILE)), Keyring.load(places.pki)
    signer = trust.issuer(
        certificates.load_certificate(read_public(places.certificate))
    )  # it signed for this node as well
    authority = ring.get(signer)
    if authority is None:
        raise NotFound(f"{places.pki} has no key of the CA that signs", hint="run this on another control-plane node")
    admin = admin_of(authority, node)
    return NewCluster(node, trust.pem().decode(), admin[0], admin[1], node.api_endpoints[0])


def admin_of(authority: Authority, node: LocalNode) -> tuple[str, str]:
    """Make an administrator's certificate and key (PEM)."""
    key = certificates.make_key()
    user = UserName(node.cluster_id, "admin", {"*": "admin"})
    certificate = authority.issue_user(key.public_key(), user)
    return certificates.certificate_pem(certificate).decode(), certificates.key_pem(key).decode()


async def _first_state(node: LocalNode, places: Places, certificate: x509.Certificate) -> None:
    """Start the store, write the cluster's first state in one transaction, stop the store."""
    drivers = plugins_for(node, places).drivers
    store, public_key = drivers.store, await drivers.network.public_key()
    if isinstance(store, HasMembers):
        peer = peer_identity(node, places, _first_address(node), reachable=False)
        await store.bootstrap(node.node_name, peer.url)
        store.configure_peers(peer)
    try:
        await store.start()
        await _write(store, node, public_key, certificate)
    finally:
        await store.stop()
    _remember_mesh(node, places, public_key)


def _remember_mesh(node: LocalNode, places: Places, public_key: str) -> None:
    """Write down the node's place in the overlay: the store starts only once its address is up."""
    spec = node.configuration.spec
    own = NodeItem(
        name=node.node_name,
        subnet=spec.node_subnet(0),
        public_key=public_key,
        listen_port=spec.wireguard_port,
        control_plane=True,
    )
    cluster = ClusterItem(configuration=node.configuration, api_endpoints=node.api_endpoints)
    Journal(places.journal).save_view({"cluster": cluster.to_wire(), f"node/{own.name}": own.to_wire()})


async def _write(store: Store, node: LocalNode, public_key: str, certificate: x509.Certificate) -> None:
    name, spec = node.node_name, node.configuration.spec
    subnet = spec.node_subnet(0)
    record = NodeRecord(name=name, role=node.role, subnet=subnet, public_key=public_key, created_at=node.created_at)
    claim = Claim(node=name)
    default = Namespace(metadata=Metadata(name="default"))
    identity = json.dumps({"clusterId": node.cluster_id, "format": 1, "createdAt": node.created_at}).encode()
    result = await store.transaction(
        (Compare.absent(keys.IDENTITY),),
        (
            Put(keys.IDENTITY, identity),
            Put(keys.CLUSTER, node.configuration.to_json()),
            Put(keys.node(name), record.to_json()),
            claim.put(keys.subnet_claim(subnet)),
            claim.put(keys.public_key_claim(public_key)),
            note_certificate(name, certificate),
            Put(keys.namespace("default"), default.to_json()),
        ),
    )
    if not result.succeeded:
        raise Conflict("the store holds a cluster already", hint="nothing was changed; use an empty store")
