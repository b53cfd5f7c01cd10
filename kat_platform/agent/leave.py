"""Leave: ``kat-agent leave``. A node takes itself out of its cluster and clears its machine.

Drained, removed, agent ended, machine cleared: after a crash between any two of these the command goes on where it was.
A note on disk says how far it had come, because the certificate is refused once the node has been removed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

from kat_platform.agent import facts
from kat_platform.agent.local import AgentLock, LocalNode, Places
from kat_platform.cli.client import Client
from kat_platform.cli.context import Context
from kat_platform.errors import Conflict, KatError, NotFound, TimedOut, Unauthenticated, Unavailable
from kat_platform.pki.authority import CERTIFICATE_FILE
from kat_platform.pki.files import read_private, read_public, write_whole

REMOVE_SECONDS: Final = 40.0
"""How long the control plane is asked again that does not answer: it may just be changing its leader."""
END_SECONDS: Final = 40.0
PAUSE: Final = 0.5


class Stage(StrEnum):
    """How far a node has come in leaving."""

    STAYING = ""
    REMOVING = "removing"
    """It may be out already: the answer to its request may have been lost."""
    REMOVED = "removed"
    """It is out; its machine remains to be cleared."""


def stage(places: Places) -> Stage:
    """Read how far this node has come."""
    try:
        return Stage(places.leaving.read_text().strip())
    except (FileNotFoundError, ValueError):
        return Stage.STAYING


def _note(places: Places, now: Stage) -> None:
    write_whole(places.leaving, now.value.encode())


def refuse_left(places: Places) -> None:
    """Raise ``Conflict`` when this node is no member any more: its agent must not start again."""
    if stage(places) is Stage.REMOVED:
        raise Conflict(
            "this node has left its cluster, and its machine is not cleared yet", hint="run 'kat-agent leave' again"
        )


def refuse_stopped(places: Places) -> None:
    """Raise ``Conflict`` when no agent runs here: nobody would end the instances in order."""
    lock = AgentLock(places)
    try:
        lock.acquire()
    except Conflict:
        return
    lock.release()
    raise Conflict(
        "kat-agent does not run here, so nothing can be drained",
        hint="start it, or use --force: what is here is then ended at once and made anew elsewhere",
    )


def other_servers(node: LocalNode) -> tuple[str, ...]:
    """Give where this node asks to leave: not on itself, as a server cannot take out its own member of the store."""
    own = {address for _, address in facts.interface_addresses()}
    hosts = [(endpoint, urlsplit(endpoint).hostname or "") for endpoint in node.api_endpoints]
    return tuple(endpoint for endpoint, host in hosts if host not in own and not host.startswith("127."))


class Departure:
    """Speaks for the node that leaves, with its own certificate."""

    def __init__(self, places: Places, node: LocalNode) -> None:
        self._places, self.node = places, node
        self.servers = other_servers(node)
        if not self.servers:
            raise Conflict(
                f"node '{node.node_name}' knows no control-plane node but itself: without it there is no cluster",
                hint="'kat-agent reset' ends the cluster with all that is in it",
            )
        self._client = Client(
            Context(
                name=node.cluster_id,
                servers=self.servers,
                ca=read_public(places.pki / CERTIFICATE_FILE).decode(),
                certificate=read_public(places.certificate).decode(),
                key=read_private(places.key).decode(),
            )
        )

    def drain(self) -> dict[str, Any] | None:
        """Ask for the node to be emptied, and give how far that is; ``None`` when it is no member any more.

        Raises ``Conflict`` when it may not leave.
        """
        try:
            found: dict[str, Any] = self._ask({})["progress"]
            return found
        except (Unauthenticated, NotFound) as error:
            if stage(self._places) is not Stage.REMOVING:
                error.hint = "was it removed by somebody else? Then 'kat-agent reset' clears this machine"
                raise
            _note(self._places, Stage.REMOVED)
            return None

    def look(self) -> dict[str, Any]:
        """Tell how far the drain is."""
        found: dict[str, Any] = self._client.get("nodes", self.node.node_name, "drain")
        return found

    def remove(self, *, force: bool) -> None:
        """Have the node removed; asked again while nobody answers. Raises ``Conflict`` when it may not go."""
        deadline = time.monotonic() + REMOVE_SECONDS
        before = stage(self._places)
        _note(self._places, Stage.REMOVING)  # from here on a refused certificate means that it is out
        asked = before is Stage.REMOVING
        while True:
            try:
                self._ask({"remove": True, "force": force})
                break
            except (Unauthenticated, NotFound):
                if not asked:
                    self._places.leaving.unlink()
                    raise
                break
            except (Unavailable, TimedOut):
                asked = True
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE)
            except KatError:
                self._places.leaving.unlink()
                raise
        _note(self._places, Stage.REMOVED)

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._client.post("nodes", self.node.node_name, "leave", body=body)
        return found


def unreachable(node: LocalNode, error: KatError) -> KatError:
    """Say what to do on a node whose control plane does not answer."""
    name = node.node_name
    hint = (
        f"the node stays as it is. To give it up: 'kat-agent reset' here, and 'katcall node remove {name} --force' "
        "where the cluster answers"
    )
    return Unavailable(f"node '{name}' cannot leave: {error.message}", hint=hint)


def take_over(places: Places, say: Callable[[str], None]) -> AgentLock:
    """End the agent that runs here, and keep another from starting; gives the lock that does so.

    Whoever supervises the agent may start it again meanwhile: the new one is ended as well. Raises ``TimedOut``.
    """
    lock, asked = AgentLock(places), 0
    deadline = time.monotonic() + END_SECONDS
    while True:
        try:
            lock.acquire()
            return lock
        except Conflict as error:
            holder = lock.holder()
            if holder is not None and holder != asked:
                say(f"stopping the agent (process {holder})")
                _end(holder)
                asked = holder
            if time.monotonic() > deadline:
                raise TimedOut(f"the agent does not end: {error.message}", hint="stop it, and run this again") from None
        time.sleep(0.05)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGTERM)
