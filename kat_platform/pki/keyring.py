"""Keyring: the CAs whose keys a control-plane node has; two while the cluster changes its CA.

On disk they lie one behind the other in ``ca.pem`` and ``ca.key``, and belong together by their keys, so that no crash
between the two files can mix them up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Self

from kat_platform.errors import InvalidInput, NotFound
from kat_platform.pki import certificates
from kat_platform.pki.authority import CERTIFICATE_FILE, KEY_FILE, Authority
from kat_platform.pki.files import read_private, read_public, write_whole
from kat_platform.pki.trust import Trust

_KEYS: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----\n?", re.DOTALL)


class Keyring:
    """The CAs this node can sign with, by fingerprint, the oldest first."""

    def __init__(self, authorities: Iterable[Authority], folder: Path | None = None) -> None:
        self._held = {each.fingerprint: each for each in authorities}
        self._folder = folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the CAs of a node; raises ``NotFound``, ``HostNotReady``, or ``InvalidInput`` when no key fits."""
        found = matching(read_public(folder / CERTIFICATE_FILE), read_private(folder / KEY_FILE))
        return cls(found, folder)

    def get(self, fingerprint: str = "") -> Authority | None:
        """Give a CA by fingerprint, without one the oldest; ``None`` when its key is not here."""
        if not fingerprint:
            return next(iter(self._held.values()), None)
        return self._held.get(fingerprint)

    @property
    def first(self) -> Authority:
        """The oldest CA whose key is here; raises ``NotFound`` when there is none."""
        found = self.get()
        if found is None:
            raise NotFound("there is no CA's key on this node")
        return found

    @property
    def held(self) -> tuple[str, ...]:
        """The fingerprints of the CAs whose keys are here."""
        return tuple(self._held)

    def key_pem(self) -> bytes:
        """Give all keys as PEM: for another control-plane node, and for nobody else."""
        return _pem(self._held)

    def add(self, authority: Authority) -> None:
        """Keep a further CA's key."""
        self._hold({**self._held, authority.fingerprint: authority})

    def keep_only(self, fingerprints: Iterable[str]) -> None:
        """Forget the keys of all other CAs; the last one is kept in any case."""
        kept = {each: self._held[each] for each in fingerprints if each in self._held}
        if kept and kept.keys() != self._held.keys():
            self._hold(kept)

    def _hold(self, held: dict[str, Authority]) -> None:
        """Write the keys down, then use them: what a full disk did not take is not there."""
        if self._folder is not None:
            write_whole(self._folder / KEY_FILE, _pem(held))
        self._held = held


def matching(bundle: bytes, keys: bytes) -> tuple[Authority, ...]:
    """Give each CA of a bundle (PEM) whose key is among ``keys`` (PEM); raises ``InvalidInput`` when none is."""
    private = [certificates.load_key(pem) for pem in _KEYS.findall(keys)]
    found = []
    for certificate in Trust.read(bundle).authorities:
        key = next((one for one in private if one.public_key() == certificate.public_key()), None)
        if key is not None:
            found.append(Authority(certificates.cluster_of(certificate), certificate, key))
    if not found:
        raise InvalidInput("the CA's certificate and private key do not belong together")
    return tuple(found)


def _pem(held: Mapping[str, Authority]) -> bytes:
    return b"".join(certificates.key_pem(each.key) for each in held.values())
