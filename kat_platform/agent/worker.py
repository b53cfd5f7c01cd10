"""Worker: carries out the steps of one instance, one after the other, and remembers what came of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address
from math import inf
from typing import Any, Final

import structlog

from kat_platform.agent import volumes
from kat_platform.agent.addresses import interface
from kat_platform.agent.containers import container_name, container_spec
from kat_platform.agent.converge import Action, Step, backoff, judge_exit, next_step
from kat_platform.agent.drain import drain
from kat_platform.agent.memory import InstanceMemory
from kat_platform.agent.probes import Health, Prober
from kat_platform.agent.workshop import Workshop
from kat_platform.errors import Conflict, ImageNotFound, InvalidInput, KatError, NotFound
from kat_platform.interfaces.network import Attachment
from kat_platform.interfaces.runtime import Container, ContainerState, RuntimeEvent
from kat_platform.model.event import EventType
from kat_platform.model.instance import Desired, InstanceStatus, Phase
from kat_platform.model.view import AssignmentItem

log = structlog.get_logger(__name__)

REASONS: Final = {
    "image-not-found": "ImageNotFound",
    "image-pull-failed": "ImagePullFailed",
    "invalid": "VolumeError",
    "network": "NetworkError",
}

UNSAVED_SECONDS: Final = 2.0  # between two attempts to write to a disk that takes nothing


class InstanceWorker:
    """One instance on this node. :meth:`run` ends when nothing of it is left and nobody wants it."""

    def __init__(self, shop: Workshop, memory: InstanceMemory, container: Container | None) -> None:
        self._shop = shop
        self.memory = memory
        self.container = container
        self.assignment = memory.assignment
        self.name = container_name(memory.key)
        self._wake = asyncio.Event()
        self._retry_at = 0.0
        self._tries = 0
        self._failing = False
        self._saved = True
        self._watched_pid: int | None = None
        self._prober: asyncio.Task[None] | None = None
        self._told: InstanceStatus | None = None
        running = container is not None and container.state is ContainerState.RUNNING
        if not (running and container is not None and container.pid == memory.attached_pid):
            self._remember(ready=False, ready_since=None)

    # --- what others tell it ---------------------------------------------------------------------------

    def assign(self, assignment: AssignmentItem | None) -> None:
        """Take the control plane's newest word; ``None``: it knows nothing of this instance."""
        if assignment == self.assignment:
            return
        turned = assignment is None or assignment.record.desired is Desired.STOP
        self.assignment = assignment
        if assignment is not None:
            self._remember(assignment=assignment)
        if turned:
            self._retry_at = 0.0
            self._set_ready(False)
        self._wake.set()

    def observe(self, event: RuntimeEvent) -> None:
        """Take an event of this instance's container."""
        box = self.container
        if box is None or box.state not in (ContainerState.RUNNING, ContainerState.INITIALIZED):
            return
        started = self.memory.started_at
        if started is not None and event.at and event.at < started - 1.0:
            return  # of an earlier run of the same container
        self.container = replace(
            box,
            state=ContainerState.EXITED,
            pid=None,
            netns=None,
            exit_code=event.exit_code,
            oom_killed=event.oom_killed,
            finished_at=event.at or self._shop.clock(),
        )
        self._set_ready(False)
        self._wake.set()

    def found(self, container: Container | None) -> None:
        """Take what the runtime lists now, after events may have been missed."""
        if container != self.container:
            self.container = container
            if container is None or container.state is not ContainerState.RUNNING:
                self._set_ready(False)
            self._wake.set()

    def status(self) -> InstanceStatus:
        """Give the status to report."""
        return self.memory.status(
            node=self._shop.node,
            pid=self.container.pid if self.container is not None else None,
        )

    # --- the loop ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take step after step until the instance is forgotten; cancelling leaves container and journal as they are."""
        try:
            while True:
                self._wake.clear()
                self._adopt_running()
                now = self._shop.clock()
                step = next_step(self.assignment, self.memory, self.container, now=now, boot_id=self._shop.boot_id)
                if step.action is Action.FORGET:
                    self._shop.return_address(self.memory.key)
                    self._shop.journal.forget(self.memory.key)
                    return
                if now < self._retry_at:
                    step = Step(Action.WAIT, "an error", self._retry_at)
                if step.action is Action.WAIT:
                    await self._wait(step.until)
                else:
                    await self._take(step)
                self._tell()
        finally:
            await self._end_prober()

    async def _wait(self, until: float | None) -> None:
        self._tell()
        self._saved = self._saved or self._shop.journal.keep(self.memory)
        if not self._saved:
            until = min(until or inf, self._shop.clock() + UNSAVED_SECONDS)
        timeout = None if until is None else max(0.0, until - self._shop.clock())
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _take(self, step: Step) -> None:
        log.info("step", instance=self.memory.key, step=str(step))
        metrics, name, began = self._shop.metrics, step.action.name.lower(), time.perf_counter()
        try:
            await self._actions()[step.action]()
        except (KatError, OSError) as error:  # a disk that is full now may have room later
            self._tries += 1
            metrics.count("kat_agent_step_failures_total", name)
            self._trouble(step, error)
        else:
            self._tries = 0
            self._retry_at = 0.0
            metrics.observe("kat_agent_step_seconds", time.perf_counter() - began, name)
        self._saved = self._shop.journal.keep(self.memory)

    def _actions(self) -> dict[Action, Callable[[], Awaitable[None]]]:
        return {
            Action.ENSURE_IMAGE: self._ensure_image,
            Action.CREATE: self._create,
            Action.INIT: self._init,
            Action.ATTACH: self._attach,
            Action.START: self._start,
            Action.RESTART: self._restart,
            Action.FINISH: self._finish,
            Action.DRAIN: self._drain,
            Action.STOP: self._stop,
            Action.RELEASE: self._release,
            Action.REMOVE: self._remove,
            Action.NOTE_STOPPED: self._note_stopped,
        }

    def _trouble(self, step: Step, error: KatError | OSError) -> None:
        delay = max(0.5, backoff(self._tries))
        self._retry_at = self._shop.clock() + delay
        reason = REASONS.get(getattr(error, "code", ""), f"{step.action.name.title().replace('_', '')}Failed")
        self._remember(reason=reason, message=f"could not {step.action.value}: {error}")
        log.warning("step failed", instance=self.memory.key, step=str(step), error=str(error), retry_in=delay)
        self._shop.on_event(self.memory.key, reason, self.memory.message, EventType.WARNING)

    # --- steps towards running ---------------------------------------------------------------------------

    async def _ensure_image(self) -> None:
        self._remember(phase=Phase.PREPARING)
        self._tell()
        assert self.assignment is not None
        image = await self._shop.runtime.ensure_image(self.assignment.document.spec.source.image or "")
        self._remember(image_id=image.id, reason="", message="")

    async def _create(self) -> None:
        assert self.assignment is not None
        shop = self._shop
        try:
            mounts = await asyncio.to_thread(volumes.prepare, self.assignment, shop.volume_base)
        except OSError as error:
            raise InvalidInput(f"a volume cannot be made: {error}") from error
        gateway = IPv4Address(int(shop.subnet.network_address) + 1)
        address = shop.take_address(self.memory.key)
        spec = container_spec(self.assignment, mounts, node=shop.node, address=address, dns=gateway, domain=shop.domain)
        self._remember(phase=Phase.PREPARING, address=address)
        async with shop.slots:
            try:
                self.container = await shop.runtime.create(spec)
            except Conflict:
                # Left by an earlier try with another spec, and not running (or it would have been adopted).
                await shop.runtime.remove(self.name)
                self.container = await shop.runtime.create(spec)
            except ImageNotFound:
                self._remember(image_id="")  # it was removed since: get it again
                raise

    async def _init(self) -> None:
        async with self._shop.slots:
            self.container = await self._shop.runtime.init(self.name)
        self._remember(attached_pid=None, finished_at=None, next_try_at=None, network_released=False)

    async def _attach(self) -> None:
        box = self.container
        assert box is not None
        assert self.assignment is not None
        if box.netns is None:
            raise NotFound(f"container {self.name} has no network namespace")
        address = self._shop.take_address(self.memory.key)
        attachment = Attachment(
            self.memory.key, box.netns, interface(self._shop.subnet, address), self.assignment.record.namespace
        )
        await self._shop.network.attach(attachment)
        self._remember(address=address, attached_pid=box.pid, network_released=False)

    async def _start(self) -> None:
        shop = self._shop
        try:
            async with shop.slots:
                self.container = await shop.runtime.start_container(self.name)
        except KatError:
            await shop.runtime.remove(self.name)  # whatever half-started is of no more use; the next try makes it anew
            self.container = None
            self._remember(attached_pid=None)
            raise
        self._remember(
            phase=Phase.RUNNING,
            started_at=shop.clock(),
            boot_id=shop.boot_id,
            finished_at=None,
            next_try_at=None,
            reason="",
            message="",
            unhealthy=False,
        )
        self._begin_running()
        shop.on_event(self.memory.key, "Started", "the command runs", EventType.NORMAL)

    async def _restart(self) -> None:
        self._remember(restarts=self.memory.restarts + 1, unhealthy=False)
        await self._init()
        self._shop.metrics.count("kat_agent_restarts_total")
        text = f"restart {self.memory.restarts}: {self.memory.message}"
        self._shop.on_event(self.memory.key, "Restarted", text, EventType.WARNING)

    def _adopt_running(self) -> None:
        """Catch up with a container that runs although this process did not start it."""
        box = self.container
        if box is None or box.state is not ContainerState.RUNNING or self.assignment is None:
            return
        if self._watched_pid == box.pid or self.memory.attached_pid != box.pid:
            return
        if self.assignment.record.desired is Desired.RUN and not self.memory.unhealthy:
            self._remember(
                phase=Phase.RUNNING,
                started_at=box.started_at or self.memory.started_at or self._shop.clock(),
                boot_id=self._shop.boot_id,
                finished_at=None,
                next_try_at=None,
                reason="",
                message="",
            )
            self._begin_running()

    def _begin_running(self) -> None:
        assert self.assignment is not None
        assert self.container is not None
        self._failing = False
        self._watched_pid = self.container.pid
        balancer = self.assignment.health_check_from
        check = None if balancer is None else balancer.health_check
        if check is None:
            self._set_ready(True)
            return
        if self._prober is not None:
            self._prober.cancel()

        def heard(health: Health) -> None:
            self._on_health(health, failed=health.failed(check), restart=check.on_failure == "Restart")

        address, ready = self.memory.address or "", self.memory.ready
        prober = Prober(check, self.name, address, self._shop.runtime, heard, ready=ready)
        self._prober = asyncio.create_task(prober.run(), name=f"probe {self.memory.key}")

    def _on_health(self, health: Health, *, failed: bool, restart: bool) -> None:
        if self.container is None or self.container.state is not ContainerState.RUNNING:
            return
        if health.ready and not self.memory.ready:
            self._shop.on_event(self.memory.key, "Ready", "the health check succeeds", EventType.NORMAL)
        elif failed and not self._failing:
            self._shop.on_event(self.memory.key, "Unhealthy", health.message, EventType.WARNING)
        self._failing = failed
        bad = health.message and not health.ready
        self._remember(reason="Unhealthy" if bad else "", message=health.message if bad else "")
        if failed and restart:
            self._remember(unhealthy=True)
            self._wake.set()
        self._set_ready(health.ready, keep_probing=True)
        self._tell()

    # --- steps after an end, and towards gone ------------------------------------------------------------

    async def _finish(self) -> None:
        box = self.container
        assert box is not None
        assert self.assignment is not None
        code = box.exit_code if box.exit_code is not None else -1
        now = self._shop.clock()
        policy = self.assignment.document.spec.restart_policy
        verdict = judge_exit(policy, self.memory, exit_code=code, oom_killed=box.oom_killed, now=now)
        self._set_ready(False)
        self._remember(
            phase=verdict.phase,
            next_try_at=verdict.next_try_at,
            failures=verdict.failures,
            reason=verdict.reason,
            message=verdict.message,
            exit_code=code,
            finished_at=box.finished_at or now,
            attached_pid=None,
        )
        quiet = code == 0 and verdict.phase is Phase.SUCCEEDED
        type_ = EventType.NORMAL if quiet else EventType.WARNING
        self._shop.on_event(self.memory.key, "Exited", verdict.message, type_)

    async def _drain(self) -> None:
        shop, memory = self._shop, self.memory
        limit = float(self.assignment.document.spec.container.stop_timeout_seconds) if self.assignment else 10.0
        self._remember(phase=Phase.STOPPING, stop_began_at=memory.stop_began_at or shop.clock())
        self._tell()
        await drain(shop, memory.key, memory.address, limit)
        self._remember(drained=True)

    async def _stop(self) -> None:
        await self._end_prober()
        grace = float(self.assignment.document.spec.container.stop_timeout_seconds) if self.assignment else 10.0
        self._set_ready(False)
        self.container = await self._shop.runtime.stop_container(self.name, grace=grace)
        self._remember(finished_at=None)  # this end has not been judged yet

    async def _release(self) -> None:
        await self._shop.network.detach(self.memory.key)
        if self.memory.address is not None:
            await self._shop.network.reset_connections(frozenset({IPv4Address(self.memory.address)}))
        self._remember(network_released=True, attached_pid=None)

    async def _remove(self) -> None:
        await self._shop.runtime.remove(self.name)
        self.container = None
        self._remember(attached_pid=None)

    async def _note_stopped(self) -> None:
        self._remember(phase=Phase.STOPPED, reason="", message="", finished_at=self._shop.clock())

    # --- small things --------------------------------------------------------------------------------------

    def _remember(self, **changes: Any) -> None:
        self.memory = self.memory.model_copy(update=changes)

    def _set_ready(self, ready: bool, *, keep_probing: bool = False) -> None:
        if not ready and not keep_probing and self._prober is not None:
            self._prober.cancel()
            self._prober = None
        if ready != self.memory.ready:
            self._remember(ready=ready, ready_since=self._shop.clock() if ready else None)
            self._saved = self._shop.journal.keep(self.memory)
        self._tell()

    async def _end_prober(self) -> None:
        prober, self._prober = self._prober, None
        if prober is not None:
            prober.cancel()
            await asyncio.gather(prober, return_exceptions=True)

    def _tell(self) -> None:
        status = self.status()
        if status != self._told:
            self._told = status
            self._shop.on_status(self.memory.key, status)
