"""Journal: what an agent keeps on disk so that it can go on after a crash, a reboot, or alone. Blocking, but small.

One file for each instance, one for the last view of the cluster. Files are replaced whole, so a crash of the agent
leaves the
old one or the new one. They are not flushed to the disk one by one: after a power cut the newest may be missing, and
then
the control plane and the runtime tell what they held.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from kat_platform.agent.memory import InstanceMemory
from kat_platform.pki.files import private_folder, write_whole

log = structlog.get_logger(__name__)


MESH: Final = ("cluster", "node/")
"""Items without which a node cannot reach the others: they are flushed to the disk, and survive a power cut."""


class Journal:
    """The agent's own files below ``folder`` (0700). Writes only what differs from what it wrote last."""

    def __init__(self, folder: Path) -> None:
        self._instances = private_folder(private_folder(folder) / "instances")
        self._view, self._mesh = folder / "view.json", folder / "mesh.json"
        self._written: dict[str, bytes] = {}

    def load(self) -> dict[str, InstanceMemory]:
        """Read all memories by key.

        A file that cannot be read is logged and left out: the container is then found anew.
        """
        found = {}
        for path in sorted(self._instances.glob("*.json")):
            try:
                data = path.read_bytes()
                memory = InstanceMemory.from_json(data)
            except (OSError, ValueError) as error:
                log.error("unreadable journal entry", file=path.name, error=str(error)[:200])
                continue
            self._written[memory.key] = data
            found[memory.key] = memory
        return found

    def save(self, memory: InstanceMemory) -> None:
        """Write one memory, if it changed; secrets are left out."""
        assignment = memory.assignment
        if assignment is not None and assignment.secrets:
            memory = memory.model_copy(update={"assignment": assignment.model_copy(update={"secrets": {}})})
        data = memory.to_json()
        if self._written.get(memory.key) != data:
            _replace(self._path(memory.key), data)
            self._written[memory.key] = data

    def keep(self, memory: InstanceMemory) -> bool:
        """As ``save``, but a disk that takes nothing is logged and told with ``False``: the agent goes on."""
        try:
            self.save(memory)
        except OSError as error:
            log.warning("not journalled", instance=memory.key, error=str(error))
            return False
        return True

    def forget(self, key: str) -> None:
        """Remove one memory. One that is gone is no error."""
        self._written.pop(key, None)
        self._path(key).unlink(missing_ok=True)

    def save_view(self, items: Mapping[str, Any]) -> None:
        """Write the last view, without the assignments: those are in their own files."""
        mesh = {key: body for key, body in items.items() if key.startswith(MESH)}
        rest = {key: body for key, body in items.items() if key not in mesh and not key.startswith("instance/")}
        for path, kept, write in ((self._mesh, mesh, write_whole), (self._view, rest, _replace)):
            data = json.dumps(kept, sort_keys=True).encode()
            if self._written.get(path.name) != data:
                write(path, data)
                self._written[path.name] = data

    def load_view(self) -> dict[str, Any]:
        """Read the last view; empty when there is none or it cannot be read."""
        items: dict[str, Any] = {}
        for path in (self._view, self._mesh):
            try:
                found = json.loads(path.read_bytes())
            except (OSError, ValueError):
                continue
            items |= found if isinstance(found, dict) else {}
        return items

    def _path(self, key: str) -> Path:
        return self._instances / (key.replace("/", ".", 1) + ".json")


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(data)
    draft.chmod(0o600)
    draft.replace(path)
