"""Restore: ``kat-agent recover --from-backup``. A control plane is made again from an archive, on one machine.

Either on a control-plane node whose store is lost (it keeps what it has, and its store is moved aside), or on an empty
machine, which takes the place of a node that is lost. Nothing is changed before the whole archive was read.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import aiohttp
import structlog
from cryptography import x509
from pydantic import ValidationError

from kat_platform.agent import facts
from kat_platform.agent.bootstrap import (
    NewCluster,
    admin_of,
    check_host,
    issue_own,
    new_tag,
    refuse_failed,
    undone_on_error,
)
from kat_platform.agent.daemon import plugins_for
from kat_platform.agent.journal import Journal
from kat_platform.agent.local import AgentLock, LocalNode, Membership, Places, load_node, save_node
from kat_platform.agent.membership import peer_identity, ready_files
from kat_platform.agent.restored_state import Settled, Survivor, settle
from kat_platform.backup.archive import Checked, check
from kat_platform.backup.keeper import snapshot_of
from kat_platform.backup.key import KEY_FILE, RecoveryKey
from kat_platform.errors import BackupUnusable, Conflict, NotFound, NotSupportedYet, UsageError
from kat_platform.interfaces.driver import Capability
from kat_platform.interfaces.network import MovesKey, Network
from kat_platform.interfaces.store import HasMembers, Restores, Store, peer_url
from kat_platform.model.node import NodeRole
from kat_platform.model.view import ClusterItem, NodeItem
from kat_platform.pki import certificates
from kat_platform.pki.authority import CERTIFICATE_FILE, Authority
from kat_platform.pki.files import PUBLIC, private_folder, read_public, write_whole
from kat_platform.pki.keyring import Keyring
from kat_platform.pki.tls import client_context
from kat_platform.pki.trust import Trust

log = structlog.get_logger(__name__)

ASK_SECONDS: Final = 3.0
"""How long another control-plane node may take to say that the cluster runs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, decided before anything is changed."""

    archive: Path
    key: RecoveryKey
    checked: Checked
    node: LocalNode
    address: IPv4Address
    """Of the node in the overlay."""
    took_place: bool
    """Whether this machine was empty, and takes the place of a node that is lost."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made: the node, the state's revision, who is lost, and where the old store was moved to."""

    node: LocalNode
    settled: Settled
    aside: Path | None
    access: NewCluster | None
    """For katcall, on a machine that was empty."""


async def plan(places: Places, archive: Path, key: RecoveryKey | None, name: str | None) -> Plan:
    """Read the whole archive and decide who this machine is to be. Changes nothing.

    Raises ``BackupUnusable`` for an archive that does not open or is damaged, ``Conflict`` where it does not belong or
    the cluster runs elsewhere, ``UsageError`` without a key.
    """
    key = key or _own_key(places)
    checked = await asyncio.to_thread(check, archive, key)
    try:
        existing = load_node(places)
    except NotFound:
        existing = None
    if existing is not None:
        _refuse_foreign(existing, checked, name)
        _refuse_former(places, checked)
    wanted = existing.node_name if existing is not None else name or checked.header.node
    item, cluster = _known(checked, wanted)
    assert item.subnet is not None  # _known() has looked
    node = existing or LocalNode(
        cluster_id=checked.header.cluster_id,
        node_name=wanted,
        role=NodeRole.CONTROL_PLANE,
        tag=new_tag(),
        configuration=cluster.configuration,
        api_endpoints=(f"https://127.0.0.1:{cluster.configuration.spec.api_port}",),
        created_at=time.time(),
    )
    await _refuse_running(checked, {*cluster.api_endpoints, *node.api_endpoints})
    empty = existing is None or _began_empty(places)
    return Plan(archive, key, checked, node, item.subnet.network_address + 1, empty)


def _began_empty(places: Places) -> bool:
    """Tell whether an interrupted recovery had begun on an empty machine."""
    with suppress(OSError, ValueError):
        return bool(json.loads(places.unfinished.read_bytes()).get("empty"))
    return False


def _own_key(places: Places) -> RecoveryKey:
    try:
        return RecoveryKey.load(places.pki)
    except NotFound:
        raise UsageError(
            f"there is no recovery key in {places.pki}",
            hint="give the one that 'kat-agent backup-key' printed, in a file: --key-file FILE (- for stdin)",
        ) from None


def _refuse_foreign(node: LocalNode, checked: Checked, name: str | None) -> None:
    if node.cluster_id != checked.header.cluster_id:
        raise Conflict(
            f"the archive is of cluster '{checked.header.cluster_id}', and this is a node of '{node.cluster_id}'",
            hint="nothing was changed; to make this machine a node of the other cluster run 'kat-agent reset' first",
        )
    if node.role is not NodeRole.CONTROL_PLANE:
        raise Conflict(
            f"node '{node.node_name}' is a worker",
            hint="run this on a control-plane node, or on an empty machine; workers find it by themselves",
        )
    if name not in (None, node.node_name):
        raise UsageError(f"this machine is node '{node.node_name}' already: leave --name away")


def _refuse_former(places: Places, checked: Checked) -> None:
    """Raise ``Conflict`` when the archive is of a time before the CA was changed: what it knows nobody trusts now."""
    try:
        trusted = read_public(places.pki / CERTIFICATE_FILE)
    except NotFound:
        return  # it comes from the archive
    then = Trust.read(checked.manifest.ca_files[CERTIFICATE_FILE].encode()).fingerprints
    if not set(then) & set(Trust.read(trusted).fingerprints):
        raise Conflict(
            "the archive was made before the cluster's CA was changed, and this node trusts only the new one",
            hint="take a later archive; to go back to the former CA all the same, run 'kat-agent reset' and restore on"
            " the empty machine: every other node then has to be reset and joined anew",
        )


def _known(checked: Checked, name: str) -> tuple[NodeItem, ClusterItem]:
    """Find a node and the cluster in the manifest; raises ``Conflict`` for a node that cannot go on with it."""
    try:
        cluster = ClusterItem.model_validate(checked.manifest.view["cluster"])
        items = [NodeItem.model_validate(v) for k, v in checked.manifest.view.items() if k.startswith("node/")]
    except (ValidationError, KeyError):
        made_by = checked.header.version
        raise BackupUnusable(
            f"this version of KAT cannot read what version {made_by} wrote of the cluster",
            hint=f"install version {made_by}, or a newer one",
        ) from None
    fit = {item.name: item for item in items if item.control_plane and item.subnet is not None}
    if name not in fit:
        raise Conflict(
            f"when the backup was made, '{name}' was no control-plane node: those were {', '.join(sorted(fit))}",
            hint="nothing was changed; on an empty machine choose one of them with --name",
        )
    return fit[name], cluster


async def _refuse_running(checked: Checked, endpoints: set[str]) -> None:
    """Raise ``Conflict`` when a control-plane node of this cluster serves: there would be two clusters."""
    own = {"127.0.0.1", *(str(address) for address in facts.underlay_addresses(frozenset()))}
    others = sorted(e for e in endpoints if e.removeprefix("https://").rpartition(":")[0] not in own)
    tls = client_context(checked.manifest.ca_files[CERTIFICATE_FILE].encode())
    timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=tls)) as session:

        async def serves(url: str) -> str:
            with suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError):
                async with session.get(f"{url}/readyz", server_hostname=certificates.API_SERVER_NAME) as answer:
                    if answer.status == 200:
                        return f"{url} serves it, at revision {(await answer.json()).get('revision')}"
            return ""

        found = [text for text in await asyncio.gather(*map(serves, others)) if text]
    if found:
        raise Conflict(
            f"the cluster runs: {found[0]}; the archive has revision {checked.header.revision}",
            hint="nothing was changed. To add this machine use 'kat-agent join'; to go back to the archive all the"
            " same, stop the agents of all control-plane nodes first",
        )


async def carry_out(places: Places, plan: Plan) -> Restored:
    """Make the node from the archive. The agent must not run. On an error everything is as it was."""
    node, half_done = plan.node, places.unfinished.exists()
    refuse_failed(await check_host(node.configuration))
    store = places.driver_data(Capability.STORE, node.configuration.spec.plugins.store)
    try:
        if plan.took_place:
            with undone_on_error(places, node.tag), _moved_aside(store, places.data / "aside") as aside:
                return await _make(places, plan, aside)
        lock = AgentLock(places)
        lock.acquire()
        try:
            with _moved_aside(store, places.data / "aside") as aside:
                return await _make(places, plan, aside)
        finally:
            lock.release()
    except BaseException:
        if not half_done:  # by an earlier try that was interrupted; what this one did was undone
            places.unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def _moved_aside(folder: Path, aside: Path) -> Iterator[Path | None]:
    """Move a folder away for the work inside, and back when that fails."""
    if not folder.exists():
        yield None
        return
    target = private_folder(aside) / f"{folder.name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    folder.rename(target)
    try:
        yield target
    except BaseException:
        if folder.exists():
            folder.rename(target.with_name(target.name + ".failed"))
        target.rename(folder)
        raise


async def _make(places: Places, plan: Plan, aside: Path | None) -> Restored:
    private_folder(places.data)
    begun = {"empty": plan.took_place, "archive": plan.checked.header.to_wire()}
    write_whole(places.unfinished, json.dumps(begun).encode())
    node = plan.node.model_copy(update={"membership": Membership.VOTER})
    if plan.took_place:
        save_node(places, node)  # so that 'kat-agent reset' knows what is here, should this be interrupted
    authority, certificate = _write_pki(places, plan, node)
    drivers = plugins_for(node, places).drivers
    public_key = await _take_network_key(drivers.network, plan)
    survivor = Survivor(node.node_name, public_key, certificate, plan.took_place)
    settled = await _restore_store(drivers.store, places, plan, survivor)
    if plan.took_place:
        view = dict(plan.checked.manifest.view)
        own = NodeItem.model_validate(view[f"node/{node.node_name}"]).model_copy(update={"public_key": public_key})
        view[f"node/{own.name}"] = own.to_wire()
        Journal(places.journal).save_view(view)  # so that the overlay comes up before the store is asked
    save_node(places, node)
    places.unfinished.unlink()
    log.info("restored", node=node.node_name, revision=settled.revision, lost=settled.lost)
    access = None
    if plan.took_place:
        user, key = admin_of(authority, node)
        trusted = read_public(places.pki / CERTIFICATE_FILE).decode()
        access = NewCluster(node, trusted, user, key, node.api_endpoints[0])
    return Restored(node, settled, aside, access)


def _write_pki(places: Places, plan: Plan, node: LocalNode) -> tuple[Authority, x509.Certificate]:
    """Write what is not there of the CA, the recovery key and the node's own certificate; what is there stays."""
    private_folder(places.pki)
    for name, text in plan.checked.manifest.ca_files.items():
        if Path(name).name == name and not (places.pki / name).exists():
            write_whole(places.pki / name, text.encode(), mode=PUBLIC if name.endswith(".pem") else 0o600)
    if not (places.pki / KEY_FILE).exists():
        plan.key.save(places.pki)
    authority = Keyring.load(places.pki).first
    if authority.cluster_id != node.cluster_id:
        raise Conflict(f"{places.pki} holds the CA of another cluster, '{authority.cluster_id}'")
    if places.certificate.exists() and places.key.exists():
        return authority, certificates.load_certificate(read_public(places.certificate))
    return authority, issue_own(authority, node, places, plan.address)


async def _take_network_key(network: Network, plan: Plan) -> str:
    """Take over the lost node's overlay key, so that its peers know this machine; gives the public key."""
    secret = b64decode(plan.checked.manifest.network_secret)
    same = plan.node.node_name == plan.checked.header.node
    if plan.took_place and same and secret and isinstance(network, MovesKey):
        await network.take_secret(secret)
    return await network.public_key()


async def _restore_store(store: Store, places: Places, plan: Plan, survivor: Survivor) -> Settled:
    if not isinstance(store, Restores):
        raise NotSupportedYet(
            f"the store '{store.info.name}' cannot be made anew from a snapshot", hint="restore it with its own tools"
        )
    if isinstance(store, HasMembers):
        ready_files(places)
        store.configure_peers(peer_identity(plan.node, places, plan.address, reachable=False))
    url = peer_url(plan.address, plan.node.configuration.spec.etcd_peer_port)
    await store.restore(snapshot_of(plan.archive, plan.key), survivor.name, url)
    try:
        await store.start()
        return await settle(store, plan.checked.header, survivor)
    finally:
        await store.stop()
