"""Key: what a cluster's backups are sealed with. Every control-plane node has it; a copy is kept elsewhere."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kat_platform.errors import InvalidInput, NotFound
from kat_platform.pki.authority import Authority
from kat_platform.pki.files import private_folder, read_private, write_whole
from kat_platform.pki.keyring import Keyring

KEY_FILE: Final = "backup.key"
PREFIX: Final = "katbackup1_"
KEY_BYTES: Final = 32
_CHECK_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class RecoveryKey:
    """32 secret bytes, written as one word with a check against slips."""

    secret: bytes = field(repr=False)

    @classmethod
    def create(cls) -> Self:
        """Make a new key, for a new cluster."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def of_authority(cls, authority: Authority) -> Self:
        """Give the key of a cluster that was made before there were backups: every control-plane node finds the same.

        It comes from the CA's key, by a way that does not lead back, and is then kept in a file of its own.
        """
        private = authority.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        derived = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"KAT recovery key 1").derive(private)
        return cls(derived)

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read :attr:`text`; raises ``InvalidInput``, never with the text in it."""
        word = text.strip().lower()
        body = word.removeprefix(PREFIX).upper()
        try:
            data = base64.b32decode(body + "=" * (-len(body) % 8))
        except binascii.Error:
            data = b""
        key = cls(data[:KEY_BYTES])
        if not hmac.compare_digest(key.text.encode(), word.encode()):
            raise InvalidInput(
                "this is no recovery key: one begins with katbackup1_, and a slip in it is found",
                hint="'kat-agent backup-key' prints it on a control-plane node",
            )
        return key

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the key of this node's pki folder; raises ``NotFound``, or ``HostNotReady`` when others can read it."""
        return cls.decode(read_private(folder / KEY_FILE).decode(errors="replace"))

    def save(self, folder: Path) -> None:
        """Write the key into the pki folder, readable by its owner only."""
        write_whole(private_folder(folder) / KEY_FILE, self.text.encode() + b"\n")

    @property
    def text(self) -> str:
        """The key as one word, for a person to keep."""
        return PREFIX + base64.b32encode(self.secret + _checksum(self.secret)).decode("ascii").rstrip("=").lower()

    @property
    def id(self) -> str:
        """Tells keys apart without saying anything of them: eight hexadecimal digits."""
        return sha256(b"KAT recovery key id\0" + self.secret).hexdigest()[:8]


def load_or_derive(folder: Path, keyring: Keyring) -> RecoveryKey:
    """Give the node's recovery key; a node of a cluster that is older than backups gets it from the first CA's key."""
    try:
        return RecoveryKey.load(folder)
    except NotFound:
        key = RecoveryKey.of_authority(keyring.first)
        key.save(folder)
        return key


def _checksum(secret: bytes) -> bytes:
    return sha256(b"KAT recovery key check\0" + secret).digest()[:_CHECK_BYTES]
