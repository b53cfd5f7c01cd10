"""Membership: how a control-plane node becomes a member of the store, and stays one.

Asked for by the running agent, not by ``kat-agent join``: members meet in the overlay, which only the agent brings up.
Each step may be repeated after a crash, and goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from typing import Any, Final, Protocol, TypeVar

import structlog

from kat_platform.agent.local import LocalNode, Membership, Places
from kat_platform.backup.key import RecoveryKey
from kat_platform.errors import Conflict, InvalidInput, KatError
from kat_platform.interfaces.store import HasMembers, Member, PeerIdentity, Store
from kat_platform.pki import certificates
from kat_platform.pki.authority import CERTIFICATE_FILE, KEY_FILE
from kat_platform.pki.files import read_public, write_whole
from kat_platform.pki.keyring import Keyring, matching
from kat_platform.pki.revocations import REVOCATIONS_FILE, ensure_revocations

log = structlog.get_logger(__name__)

PAUSES: Final = (0.3, 5.0)
"""Shortest and longest pause before something is asked again, in seconds."""

T = TypeVar("T")


class AsksForMembership(Protocol):
    """The part of the agent's link that is needed here; ``agent.link.ApiLink``."""

    async def enrol(self) -> dict[str, Any]:
        """Have this node's member announced; gives the members and what the control plane keeps secret."""

    async def promote(self) -> None:
        """Have this node's member given its vote; raises ``Unavailable`` while it is behind."""


def peer_identity(node: LocalNode, places: Places, address: IPv4Address, *, reachable: bool = True) -> PeerIdentity:
    """Tell where this node's member of the store meets the others, and by what they know each other.

    Before the store starts :func:`ready_files` has to see to it that all these files are there.
    """
    return PeerIdentity(
        address=address,
        port=node.configuration.spec.etcd_peer_port,
        ca=places.pki / CERTIFICATE_FILE,
        certificate=places.certificate,
        key=places.key,
        required_name=certificates.API_SERVER_NAME,
        revoked=places.pki / REVOCATIONS_FILE,
        reachable=reachable,
    )


def ready_files(places: Places) -> None:
    """Make what a member needs beside its certificate: the list of those it must refuse."""
    ensure_revocations(places.pki, Keyring.load(places.pki).first)


class StoreMember:
    """This node's member of the store: ``prepare`` before the store starts, ``complete`` afterwards."""

    def __init__(
        self,
        node: LocalNode,
        places: Places,
        store: Store,
        link: AsksForMembership,
        address: IPv4Address,
        keep: Callable[[Membership], None],
    ) -> None:
        self._node, self._places, self._store, self._link = node, places, store, link
        self._address, self._keep = address, keep
        self._state = node.membership

    async def prepare(self) -> None:
        """Make the store ready to start; waits until the control plane takes this node in, if it has not yet."""
        store = self._store
        if not isinstance(store, HasMembers):
            return
        peer = peer_identity(self._node, self._places, self._address)
        store.configure_peers(peer)
        if self._state is not Membership.ABSENT:
            ready_files(self._places)
            return
        answer = await insist("joining the control plane", self._link.enrol)
        self._take_secrets(answer)
        ready_files(self._places)
        await store.join(self._node.node_name, peer.url, tuple(map(_member, answer["members"])))
        self._now(Membership.LEARNER)

    async def complete(self) -> None:
        """Wait until the started member has its vote."""
        if self._state is Membership.LEARNER:
            await insist("vote in the control plane", self._link.promote)
            self._now(Membership.VOTER)

    def _now(self, state: Membership) -> None:
        self._state = state
        self._keep(state)
        log.info("store member", state=state.value, address=str(self._address))

    def _take_secrets(self, answer: dict[str, Any]) -> None:
        """Keep the CA's key (all of them, while it changes), after seeing that this node trusts that CA; and that of
        backups, which a control plane of an older version does not have.
        """
        keys = str(answer["caKey"]).encode()
        matching(read_public(self._places.pki / CERTIFICATE_FILE), keys)
        write_whole(self._places.pki / KEY_FILE, keys)
        if "backupKey" in answer:
            RecoveryKey.decode(str(answer["backupKey"])).save(self._places.pki)


def _member(found: Any) -> Member:
    try:
        return Member(str(found["id"]), str(found["name"]), tuple(found["peerUrls"]), bool(found["learner"]))
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"the API described a member of the store in a way that cannot be read: {error}") from error


async def insist(what: str, ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until it is granted; says once why not yet, and again whenever the reason changes."""
    pause, said = PAUSES[0], ""
    while True:
        try:
            return await ask()
        except KatError as error:
            if str(error) != said:
                said = str(error)
                (log.error if isinstance(error, Conflict) else log.warning)(f"{what}: not yet", reason=said)
        await asyncio.sleep(pause)
        pause = min(PAUSES[1], pause * 1.5)
