"""Trust: this node's part in what the cluster says of its CAs and of revoked certificates.

Takes it from the node's view, keeps it on disk for the next start, and reports how far this node has come. What lies
on disk is written before it is reported: whoever decides on the report may rely on it through any crash.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Final

import structlog

from kat_platform.agent.identity import OwnTls
from kat_platform.agent.local import Places
from kat_platform.errors import InvalidInput, KatError
from kat_platform.interfaces.store import Store, TrustsAnew
from kat_platform.model.trust import NodeTrust, TrustRecord
from kat_platform.model.view import TrustItem
from kat_platform.pki.keyring import Keyring
from kat_platform.pki.revocations import write_revocations
from kat_platform.pki.sealing import unseal
from kat_platform.pki.trust import serials

log = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 1.0


class NodeTrustKeeper:
    """Keeps one node's trust. ``changed`` is called after every change that is worth a report."""

    def __init__(self, node: str, places: Places, own: OwnTls) -> None:
        self._node, self._places, self._own = node, places, own
        self._keyring: Keyring | None = None
        self._store_trusts: tuple[str, ...] | None = None
        self._listed: tuple[str, frozenset[int]] | None = None
        self._item = TrustItem()
        self._record: TrustRecord | None = None
        self._heard = self._behind = False
        self._moved = asyncio.Event()
        self.listeners: list[Callable[[], None]] = []

    # --- what the cluster says ----------------------------------------------------------------------------------

    def take(self, item: TrustItem, *, complete: bool) -> None:
        """Take what the view says. One that was read from disk may be older than what lies beside it in ``pki``: it
        only tells which certificates were revoked.
        """
        self._heard = True
        changed = self._own.refuse(serials(item.revoked))
        if complete:
            changed = item != self._item or changed
            self._item = item
        self._settle()
        if changed:
            self._tell()

    def _settle(self) -> None:
        """Bring to disk what was said. What a full disk does not take is tried again before each report."""
        try:
            if self._item.authorities:
                self._trust("".join(self._item.authorities).encode())
            self._list_revoked()
            self._take_key()
            self._behind = False
        except OSError as error:
            self._behind = True
            log.error("what the cluster says of its CAs cannot be kept yet", error=str(error))

    def _trust(self, bundle: bytes) -> None:
        try:
            self._own.trust_only(bundle)
        except InvalidInput as error:
            log.error("the cluster's CAs cannot be read: nothing was changed", error=str(error))
            return
        if self._keyring is not None:
            self._keyring.keep_only(self._own.trust.fingerprints)

    def _list_revoked(self) -> None:
        """Write the list of revoked certificates for the store's member."""
        if not self._heard:
            return  # the list of the last run is better than an empty one
        ring, revoked = self._keyring, self._own.trust.revoked
        authority = None if ring is None else ring.get(self._item.signer) or ring.get()
        if authority is not None and (authority.fingerprint, revoked) != self._listed:
            write_revocations(self._places.pki, authority, revoked)
            self._listed = authority.fingerprint, revoked

    def _tell(self) -> None:
        self._moved.set()
        for listener in self.listeners:
            listener()

    # --- the certificate ----------------------------------------------------------------------------------------

    def stale(self) -> bool:
        """Tell whether the node's certificate is of another CA than the one that signs."""
        return bool(self._item.signer) and self._own.issuer() != self._item.signer

    def told(self) -> None:
        """Report anew: the certificate was replaced."""
        self._tell()

    def facts(self) -> NodeTrust:
        """Give how far this node has come."""
        if self._behind:
            self._settle()
        return NodeTrust(
            trusts=self._own.trust.fingerprints,
            holds=self._keyring.held if self._keyring is not None else (),
            store_trusts=self._store_trusts,
            issuer=self._own.issuer(),
        )

    # --- the control plane --------------------------------------------------------------------------------------

    def use_keyring(self, keyring: Keyring) -> None:
        """Take the CAs' keys, once this control-plane node has them."""
        self._keyring = keyring
        self._settle()
        self._tell()

    def hold(self, record: TrustRecord) -> None:
        """Take the new CA's key out of the store, where it lies sealed with the former's."""
        before = self.facts().holds
        self._record = record
        self._settle()
        if self.facts().holds != before:
            self._tell()

    def _take_key(self) -> None:
        ring, record = self._keyring, self._record
        if ring is None or record is None or not record.sealed_key or record.newest in ring.held:
            return
        former = ring.get(record.authorities[0].fingerprint)
        try:
            if former is None:
                raise InvalidInput("this node does not have the former CA's key")
            certificate = record.authorities[-1].certificate.encode()
            ring.add(unseal(base64.b64decode(record.sealed_key), certificate, former))
        except (KatError, ValueError) as error:
            hint = "remove this node, and join it anew"
            log.error("the new CA's key cannot be had", ca=record.newest[:16], error=str(error), hint=hint)
            return
        log.info("new CA's key taken", ca=record.newest[:16])

    def store_starts(self, store: Store) -> None:
        """Note which CAs the store's member begins with. It may read the file a moment later, and then trusts no less
        than what is noted: while CAs are added, its turn comes all the same; while one is dropped, too.
        """
        if isinstance(store, TrustsAnew):
            self._store_trusts = self._own.trust.fingerprints
            self._tell()

    async def follow_turns(self, store: Store) -> None:
        """Have the store's member trust what this node trusts whenever it is its turn, until cancelled."""
        while isinstance(store, TrustsAnew):
            await self._moved.wait()
            self._moved.clear()
            wanted = self._own.trust.fingerprints
            if self._item.store_turn != self._node or self._store_trusts == wanted:
                continue
            log.info("store member starts anew", trusts=[each[:16] for each in wanted])
            try:
                await store.renew_trust()
            except KatError as error:
                log.warning("store member not started anew", error=str(error), retry_in=RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)
                self._moved.set()
                continue
            self._store_trusts = wanted
            self._tell()
