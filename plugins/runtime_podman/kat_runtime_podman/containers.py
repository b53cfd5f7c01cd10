"""The life of containers: create, init, start, stop, remove; few calls to Podman for each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal as signals
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import structlog

from kat_platform.errors import Conflict, ImageNotFound, NotFound, RuntimeFailure, TimedOut
from kat_platform.interfaces.runtime import (
    Container,
    ContainerSpec,
    ContainerState,
    RuntimeEvent,
    RuntimeEventType,
)
from kat_runtime_podman import translate
from kat_runtime_podman.client import Answer, PodmanClient
from kat_runtime_podman.events import Hub
from kat_runtime_podman.files import writing
from kat_runtime_podman.images import Images
from kat_runtime_podman.layout import Layout
from kat_runtime_podman.lives import Live, Lives

_LOG: Final = structlog.get_logger(__name__)
_SETTLE_SECONDS: Final = 30.0
_EXIT_FIRST_SECONDS: Final = 2.0
_KILL_SECONDS: Final = 15.0
_SIGTERM: Final = int(signals.SIGTERM)
_SIGKILL: Final = int(signals.SIGKILL)


@dataclass(frozen=True, slots=True)
class Settings:
    """What every container of this driver gets."""

    tag: str
    cgroup_parent: str
    log_max_bytes: int


class Containers:
    """Carries the contract's container operations out."""

    def __init__(
        self,
        layout: Layout,
        settings: Settings,
        client: PodmanClient,
        images: Images,
        hub: Hub,
        limits: Callable[[], dict[str, int]],
    ) -> None:
        self._layout = layout
        self._settings = settings
        self._client = client
        self._images = images
        self._hub = hub
        self._limits = limits
        self._ids: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._removed: set[str] = set()
        self.lives = Lives(layout, self._ended, self.inspect)

    async def adopt(self) -> int:
        """Watch what runs already, left by an earlier process of this node; gives how many."""
        for found in await self._listed():
            view = translate.from_list(found)
            self._ids[view.name] = str(found["Id"])
            if view.pid is not None and self.lives.get(view.name) is None:
                await self._adopt_one(view.name)
        return len(self.lives.all())

    async def _adopt_one(self, name: str) -> None:
        found = await self._inspect_raw(name)
        if found is not None and translate.from_inspect(found).pid is not None:
            self._watch(found)

    # --- operations of the contract -----------------------------------------------------------------------

    async def create(self, spec: ContainerSpec) -> Container:
        """Create, or give the one there is when it was made from the same spec."""
        translate.check_name(spec.name)
        async with self._lock(spec.name):
            image = await self._images.resolve(spec.image)
            entrypoint = None
            if spec.command is None and spec.args == ():
                entrypoint = await self._images.entrypoint(image.id)
            around = translate.Surroundings(
                image=image.id.removeprefix("sha256:"),
                tag=self._settings.tag,
                cgroup_parent=self._settings.cgroup_parent,
                log_max_bytes=self._settings.log_max_bytes,
                limits=self._limits(),
                resolv_conf=self._write_resolv_conf(spec),
                image_entrypoint=entrypoint,
            )
            body = translate.create_request(spec, around)
            answer = await self._client.call("POST", "/containers/create", json_body=body)
            if answer.status == 201:
                self._ids[spec.name] = str(answer.body["Id"])
                return Container(spec.name, ContainerState.CREATED, labels=dict(spec.labels), spec_digest=spec.digest())
            return await self._existing(spec, answer)

    async def _existing(self, spec: ContainerSpec, answer: Answer) -> Container:
        """Make sense of a refused create: the container exists, the image is gone, or the request is bad."""
        found = await self.inspect(spec.name)
        if found is not None:
            if found.spec_digest == spec.digest():
                return found
            raise Conflict(
                f"container '{spec.name}' exists already, made from another spec",
                hint="remove it first",
                container=spec.name,
            )
        shutil.rmtree(self._layout.files / spec.name, ignore_errors=True)
        if "no such image" in answer.message.lower() or "image not known" in answer.message.lower():
            raise ImageNotFound(f"image '{spec.image}' is not on this node any more", image=spec.image)
        raise self._failure("create", spec.name, answer)

    async def init(self, name: str) -> Container:
        """Bring to INITIALIZED, waiting first for the clean-up of an earlier run."""
        translate.check_name(name)
        async with self._lock(name):
            if self.lives.get(name) is not None:
                found = await self._inspect_raw(name)
                if found is None:
                    raise NotFound(f"there is no container '{name}'", container=name)
                return translate.from_inspect(found)
            container_id = await self._id(name)
            await self.lives.settled(container_id, timeout=_SETTLE_SECONDS)
            (self._layout.exits / container_id).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                (self._layout.container(container_id) / "oom").unlink(missing_ok=True)
            answer = await self._client.call("POST", f"/containers/{quote(name)}/init")
            found = await self._inspect_raw(name)
            if found is None:
                self._ids.pop(name, None)
                raise NotFound(f"there is no container '{name}'", container=name)
            view = translate.from_inspect(found)
            if view.pid is None:
                raise self._failure("init", name, answer)
            self._watch(found)
            return view

    async def start_container(self, name: str) -> Container:
        """Run the command of an initialised container, and make sure it is the process that was initialised."""
        async with self._lock(name):
            live = self.lives.get(name)
            if live is None:
                return await self._start_unknown(name)
            if live.started:
                return live.view
            began = time.time()  # it may print before Podman answers: what is older is of an earlier run
            answer = await self._client.call("POST", f"/containers/{quote(name)}/start")
            if answer.status >= 400:
                raise self._failure("start", name, answer)
            pid = self.lives.pid_now(live.id)
            if pid is not None and pid != live.pid:
                # it died in between and Podman made it anew, without what the network driver attached
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, _SIGKILL)
                raise RuntimeFailure(f"container '{name}' died before it was started; init it again", container=name)
            live.started = True
            live.view = replace(live.view, state=ContainerState.RUNNING, started_at=began)
            self._hub.emit(RuntimeEvent(RuntimeEventType.STARTED, name, at=time.time()))
            return live.view

    async def _start_unknown(self, name: str) -> Container:
        found = await self._inspect_raw(name)
        if found is None:
            raise NotFound(f"there is no container '{name}'", container=name)
        view = translate.from_inspect(found)
        if view.state is not ContainerState.RUNNING:
            raise RuntimeFailure(f"container '{name}' is {view.state}; init it before it is started", container=name)
        self._watch(found)
        return view

    async def stop_container(self, name: str, *, grace: float) -> Container:
        """Send the stop signal, then SIGKILL; straight to the process, so it works while the service is down."""
        live = self.lives.get(name)
        if live is None:
            return await self.inspect(name) or Container(name, ContainerState.UNKNOWN)
        if live.started and grace > 0:
            self._send(live, live.stop_signal)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(live.over.wait(), grace)
        await self._kill(live)
        return replace(
            live.view,
            state=ContainerState.EXITED,
            pid=None,
            netns=None,
            exit_code=live.exit_code,
            oom_killed=live.oom_killed,
            finished_at=time.time(),
        )

    async def signal(self, name: str, signal: str) -> None:
        """Send a signal to the first process."""
        number = translate.signal_number(signal)
        live = self.lives.get(name)
        if live is None or not self._send(live, number):
            raise NotFound(f"container '{name}' does not run", container=name)

    async def remove(self, name: str) -> None:
        """Kill, wait for Podman's clean-up so as not to fight with it, and remove."""
        translate.check_name(name)
        async with self._lock(name):
            live = self.lives.get(name)
            if live is not None:
                await self._kill(live)
            container_id = self._ids.get(name)
            if container_id is not None:
                await self.lives.settled(container_id, timeout=_SETTLE_SECONDS)
            params = {"force": "true", "v": "true", "timeout": "0"}
            for pause in (0.1, 0.4, 0.0):
                answer = await self._client.call("DELETE", f"/containers/{quote(name)}", params=params)
                if answer.status < 400 or answer.absent:
                    break
                await asyncio.sleep(pause)
            else:
                raise self._failure("remove", name, answer)
            self._forget(name, existed=not answer.absent)

    async def inspect(self, name: str) -> Container | None:
        """Tell what Podman knows of one of KAT's containers."""
        found = await self._inspect_raw(name)
        return translate.from_inspect(found) if found is not None else None

    async def list_containers(self) -> tuple[Container, ...]:
        """List; those that ended by SIGKILL are looked at again, for a list does not tell of OOM kills."""
        views = []
        for found in await self._listed():
            view = translate.from_list(found)
            self._ids[view.name] = str(found["Id"])
            if view.exit_code == 128 + _SIGKILL:
                view = await self.inspect(view.name) or view
            views.append(view)
        return tuple(views)

    async def collect(self, valid: frozenset[str]) -> frozenset[str]:
        """Remove containers not in ``valid``, and files of containers that are gone."""
        present = {view.name for view in await self.list_containers()}
        dropped = frozenset(present - valid)
        for name in sorted(dropped):
            await self.remove(name)
        if self._layout.files.is_dir():
            for folder in self._layout.files.iterdir():
                if folder.name not in present and folder.name not in valid:
                    shutil.rmtree(folder, ignore_errors=True)
        return dropped

    def running_id(self, name: str) -> str:
        """Give a running container's id; raises ``NotFound``."""
        live = self.lives.get(name)
        if live is None or not live.started:
            raise NotFound(f"container '{name}' does not run", container=name)
        return live.id

    async def identify(self, name: str) -> str:
        """Give a container's id; raises ``NotFound``."""
        translate.check_name(name)
        return await self._id(name)

    # --- what others did ----------------------------------------------------------------------------------

    async def foreign(self, event: dict[str, Any]) -> None:
        """Take note of an event of Podman's stream that this driver did not cause itself."""
        attributes = (event.get("Actor") or {}).get("Attributes") or {}
        name, container_id = str(attributes.get("name", "")), str(event.get("id", ""))
        at = float(event.get("timeNano", 0)) / 1e9
        match event.get("status"):
            case "remove" if container_id in self._removed:
                self._removed.discard(container_id)
            case "died":
                live = self.lives.get(name)
                if live is not None and live.id == container_id:
                    live.told_code = int(attributes.get("containerExitCode") or 0)
            case "remove":
                live = self.lives.get(name)
                if live is not None and live.id == container_id:  # its exit is told of first
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(live.over.wait(), _EXIT_FIRST_SECONDS)
                self._ids.pop(name, None)
                self._hub.emit(RuntimeEvent(RuntimeEventType.REMOVED, name, at=at))
            case "start":
                live = self.lives.get(name)
                if live is None or not live.started:
                    await self._adopt_one(name)
                    live = self.lives.get(name)
                    if live is not None and live.started:
                        self._hub.emit(RuntimeEvent(RuntimeEventType.STARTED, name, at=at))

    # --- inside -------------------------------------------------------------------------------------------

    def _ended(self, live: Live) -> None:
        _LOG.info("container-exited", container=live.name, exit_code=live.exit_code, oom_killed=live.oom_killed)
        self._hub.emit(
            RuntimeEvent(RuntimeEventType.EXITED, live.name, live.exit_code, live.oom_killed, at=time.time())
        )

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _forget(self, name: str, *, existed: bool) -> None:
        container_id = self._ids.pop(name, None)
        shutil.rmtree(self._layout.files / name, ignore_errors=True)
        lock = self._locks.get(name)
        if lock is not None and not getattr(lock, "_waiters", None):
            del self._locks[name]
        if existed:
            if container_id is not None:
                self._removed.add(container_id)
            self._hub.emit(RuntimeEvent(RuntimeEventType.REMOVED, name, at=time.time()))

    def _send(self, live: Live, number: int) -> bool:
        return live.process is not None and live.process.signal(number)

    async def _kill(self, live: Live) -> None:
        if not live.over.is_set():
            self._send(live, _SIGKILL)
            try:
                await asyncio.wait_for(live.over.wait(), _KILL_SECONDS)
            except TimeoutError:
                raise TimedOut(
                    f"container '{live.name}' does not die of SIGKILL (process {live.pid})", container=live.name
                ) from None

    def _watch(self, found: dict[str, Any]) -> None:
        view = translate.from_inspect(found)
        assert view.pid is not None
        self._ids[view.name] = str(found["Id"])
        stop_signal = (found.get("Config") or {}).get("StopSignal") or _SIGTERM
        started = view.state is ContainerState.RUNNING
        self.lives.watch(
            Live(view.name, str(found["Id"]), view.pid, view, translate.signal_number(stop_signal), started)
        )

    def _write_resolv_conf(self, spec: ContainerSpec) -> Path | None:
        text = translate.resolv_conf(spec)
        if text is None:
            return None
        path = self._layout.files / spec.name / "resolv.conf"
        with writing("the name servers", path, container=spec.name):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            path.write_text(text)
            path.chmod(0o644)
        return path

    async def _id(self, name: str) -> str:
        known = self._ids.get(name)
        if known is None:
            found = await self._inspect_raw(name)
            if found is None:
                raise NotFound(f"there is no container '{name}'", container=name)
            known = self._ids[name] = str(found["Id"])
        return known

    async def _inspect_raw(self, name: str) -> dict[str, Any] | None:
        translate.check_name(name)
        answer = await self._client.call("GET", f"/containers/{quote(name)}/json")
        if answer.absent:
            return None
        if answer.status >= 400 or not isinstance(answer.body, dict):
            raise self._failure("inspect", name, answer)
        labels = (answer.body.get("Config") or {}).get("Labels") or {}
        if labels.get(translate.TAG_LABEL) != self._settings.tag or answer.body.get("Name") != name:
            return None  # somebody else's, or found by the beginning of an id
        return answer.body

    async def _listed(self) -> list[dict[str, Any]]:
        filters = json.dumps({"label": [f"{translate.TAG_LABEL}={self._settings.tag}"]})
        answer = await self._client.call("GET", "/containers/json", params={"all": "true", "filters": filters})
        if answer.status >= 400:
            raise self._failure("list", "", answer)
        return list(answer.body or [])

    def _failure(self, operation: str, name: str, answer: Answer) -> RuntimeFailure:
        about = f" '{name}'" if name else ""
        return RuntimeFailure(
            f"podman could not {operation} container{about}: {answer.message}",
            driver="podman",
            operation=operation,
            container=name,
            status=answer.status,
        )
