"""The member's folder: who it is, its data, its socket."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from kat_platform.errors import Conflict, DriverError
from kat_store_etcd.flags import SOCKET_NAME, UNREACHABLE_PEER, Identity


class MemberFolder:
    """The parts of ``data_dir``; all of it is 0700, so whoever can reach the socket may as well read the data."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "etcd"
        self.socket = root / SOCKET_NAME
        self.peer_socket = root / UNREACHABLE_PEER.removeprefix("unix://")
        self._identity = root / "member.json"

    def prepare(self) -> None:
        """Make the folders, and make them private."""
        for folder in (self.root, self.data):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)

    def identity(self) -> Identity:
        """Read who this member is; raises ``DriverError`` when it is nobody yet."""
        try:
            return Identity(**json.loads(self._identity.read_text()))
        except FileNotFoundError:
            raise DriverError(
                f"this node has no store yet: {self._identity} does not exist",
                hint="make a cluster with `kat-agent init`, or join one",
                driver="etcd",
                operation="start",
            ) from None
        except (ValueError, TypeError) as error:
            raise DriverError(
                f"{self._identity} cannot be read: {error}",
                hint="restore the store from a backup",
                driver="etcd",
                operation="start",
            ) from error

    def adopt(self, identity: Identity) -> None:
        """Write down who this member is, so that a crash leaves all of it or nothing."""
        self.prepare()
        draft = self._identity.with_suffix(".new")
        with open(draft, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(asdict(identity), file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._identity)

    def ensure_empty(self) -> None:
        """Raise ``Conflict`` when there are data already, which nothing here may overwrite."""
        if self.has_data:
            raise Conflict(
                f"there is a store in {self.data} already", hint="`kat-agent reset` removes it, with everything in it"
            )

    @property
    def has_data(self) -> bool:
        """Whether etcd has written anything here."""
        return (self.data / "member").exists()

    def clear(self) -> None:
        """Remove everything; what is gone already is no error."""
        shutil.rmtree(self.data, ignore_errors=True)
        for path in (self._identity, self._identity.with_suffix(".new"), self.socket, self.peer_socket):
            path.unlink(missing_ok=True)
