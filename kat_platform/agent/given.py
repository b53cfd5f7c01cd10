"""Given: one endpoint of the cluster, told by a person to a node that knows only addresses that are out of date.

The node tries it first for the API, and every tunnel of its leads there. Only the node that really is there answers,
since each tunnel is bound to a key, and it learns where this one is. So the store's members can meet again before any
API serves. A node says nothing of others this way, so it can mislead nobody. It is forgotten once the cluster has told
its addresses.
"""

from __future__ import annotations

from kat_platform.agent.local import Places
from kat_platform.model.base import Model
from kat_platform.pki.files import write_whole


class Given(Model):
    """Where a control-plane node is: a host, and its API's port."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The API there."""
        return f"https://{self.host}:{self.port}"


def give(places: Places, endpoint: Given) -> None:
    """Write an endpoint down; a running agent takes it into use within a second or two."""
    write_whole(places.given, endpoint.to_json())


def read(places: Places) -> Given | None:
    """Read the endpoint that was given; ``None`` when there is none, or none that can be read."""
    try:
        return Given.from_json(places.given.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def forget(places: Places) -> None:
    """Forget it. Idempotent."""
    places.given.unlink(missing_ok=True)
