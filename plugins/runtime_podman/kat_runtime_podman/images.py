"""Images on the node: found in KAT's own storage, copied from the host's, or pulled."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import structlog

from kat_platform.errors import ImageNotFound, ImagePullFailed, InvalidInput, NotFound, RuntimeFailure, TimedOut
from kat_platform.interfaces.runtime import Image
from kat_platform.model.image import ImageReference
from kat_runtime_podman import command, translate
from kat_runtime_podman.client import PodmanClient
from kat_runtime_podman.config import PodmanConfig
from kat_runtime_podman.layout import Layout, images_index

_LOG: Final = structlog.get_logger(__name__)
_LOCAL: Final = "localhost"
_COPY_SECONDS: Final = 300.0


def candidates(reference: str, default_registry: str) -> tuple[str, ...]:
    """Give the full names under which a reference may be found on the node, the best first."""
    parsed = ImageReference.parse(reference)
    if parsed.registry is not None:
        return (str(parsed),)
    inside = parsed.repository
    if default_registry == "docker.io" and "/" not in inside:
        inside = f"library/{inside}"
    tail = (f":{parsed.tag}" if parsed.tag else "") + (f"@{parsed.digest}" if parsed.digest else "")
    return (f"{_LOCAL}/{parsed.repository}{tail}", f"{default_registry}/{inside}{tail}")


def classify(reference: str, complaint: str) -> ImageNotFound | ImagePullFailed:
    """Turn Podman's words about a failed pull into the contract's errors: only "there is none" is final."""
    text = complaint.lower()
    if any(mark in text for mark in ("manifest unknown", "name unknown", "not found: manifest", "no such manifest")):
        return ImageNotFound(f"image '{reference}' is not in its registry", image=reference, said=complaint)
    if any(mark in text for mark in ("unauthorized", "authentication required", "denied", "403 (forbidden)", "401 ")):
        # Docker Hub answers so to a repository that does not exist, too
        hint = "does it exist, and are there credentials for it in pluginConfig.podman.authFile?"
        return ImagePullFailed(
            f"the registry refuses to give image '{reference}'",
            hint=hint,
            image=reference,
            reason="denied",
            said=complaint,
        )
    if "server gave http response to https client" in text:
        hint = "list it in pluginConfig.podman.insecureRegistries"
        return ImagePullFailed(
            f"the registry of '{reference}' does not speak TLS",
            hint=hint,
            image=reference,
            reason="no-tls",
            said=complaint,
        )
    return ImagePullFailed(f"image '{reference}' could not be pulled: {complaint}", image=reference, reason="failed")


class Images:
    """Finds and fetches images; each reference is fetched once however many ask."""

    def __init__(
        self, layout: Layout, config: PodmanConfig, client: PodmanClient, environment: Mapping[str, str]
    ) -> None:
        self._layout = layout
        self._config = config
        self._client = client
        self._environment = dict(environment)
        self._cache: dict[str, tuple[object, Image]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._pulls = asyncio.Semaphore(config.max_parallel_pulls)
        stores = [Path(store) for store in config.local_stores]
        self._stores = [store for store in stores if store != layout.root]

    async def ensure(self, reference: str, *, timeout: float) -> Image:
        """Have the image: from the host's storages if they have it newer or at all, else pulled."""
        names = self._candidates(reference)
        lock = self._locks.setdefault(reference, asyncio.Lock())
        try:
            async with asyncio.timeout(timeout), lock:
                state = self._state()
                cached = self._cache.get(reference)
                if cached is not None and cached[0] == state:
                    return cached[1]
                image = await self._find(reference, names)
                image = await self._from_stores(reference, names, image) or image
                if image is None:
                    image = await self._pull(reference, names[-1])
                self._cache[reference] = (self._state(), image)
                return image
        except TimeoutError:
            raise TimedOut(f"image '{reference}' was not there within {timeout:g} s", image=reference) from None

    async def find(self, reference: str) -> Image | None:
        """Look in KAT's own storage only."""
        return await self._find(reference, self._candidates(reference))

    async def resolve(self, reference: str) -> Image:
        """Give the image a container is to be made of, without a call when it was just ensured."""
        cached = self._cache.get(reference)
        if cached is not None and cached[0] == self._state():
            return cached[1]
        state = self._state()
        image = await self.find(reference)
        if image is None:
            raise ImageNotFound(f"image '{reference}' is not on this node", image=reference)
        self._cache[reference] = (state, image)
        return image

    async def entrypoint(self, image_id: str) -> tuple[str, ...]:
        """Give the image's ENTRYPOINT."""
        found = await self._inspect(image_id.removeprefix("sha256:"))
        return tuple(((found or {}).get("Config") or {}).get("Entrypoint") or ())

    async def export(self, reference: str) -> AsyncIterator[bytes]:
        """Stream ``podman save``: a docker archive."""
        for name in self._candidates(reference):
            if await self._inspect(name) is not None:
                break
        else:
            raise NotFound(f"image '{reference}' is not on this node", image=reference)
        async with command.started(["save", "--quiet", "--format", "docker-archive", name], self._environment) as saver:
            assert saver.stdout is not None
            assert saver.stderr is not None
            while chunk := await saver.stdout.read(1 << 18):
                yield chunk
            said = (await saver.stderr.read()).decode(errors="replace").strip()
            if await saver.wait() != 0:
                raise RuntimeFailure(f"image '{reference}' could not be exported: {said[-800:]}", image=reference)

    async def load(self, reference: str, archive: AsyncIterator[bytes]) -> Image:
        """Load an archive holding one image and give it this name; whatever names it had are dropped."""
        name = self._candidates(reference)[0]
        before = await self._ids()
        arguments = ["load", "--quiet", *self.policy()]
        pipe = asyncio.subprocess.PIPE
        async with command.started(arguments, self._environment, stdin=pipe) as loader:
            assert loader.stdin is not None
            try:
                async for chunk in archive:
                    loader.stdin.write(chunk)
                    await loader.stdin.drain()
            except ConnectionError:
                pass  # podman refused it half way; what it says is below
            finally:
                loader.stdin.close()
            out, err = await loader.communicate()
        finished = command.Finished(loader.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))
        loaded = [line.rsplit(": ", 1)[1].strip() for line in finished.stdout.splitlines() if ": " in line]
        if finished.exit_code != 0 or not loaded:
            await self._drop(await self._ids() - before)
            raise RuntimeFailure(
                f"the archive for image '{reference}' could not be loaded: {finished.complaint}", image=reference
            )
        return await self._named(reference, name, loaded)

    async def _named(self, reference: str, name: str, loaded: list[str]) -> Image:
        found = await self._inspect(loaded[0].removeprefix("sha256:"))
        if found is None:
            raise RuntimeFailure(f"image '{reference}' vanished while it was loaded", image=reference)
        repository, tag = name.rpartition(":")[::2]
        answer = await self._client.call("POST", f"/images/{found['Id']}/tag", params={"repo": repository, "tag": tag})
        if answer.status >= 400:
            raise RuntimeFailure(f"image '{reference}' could not be named: {answer.message}", image=reference)
        for other in loaded:
            if other != name and not other.startswith("sha256:"):
                parts = other.rpartition(":")
                params = {"repo": parts[0], "tag": parts[2]}
                await self._client.call("POST", f"/images/{found['Id']}/untag", params=params)
        return translate.from_image(reference, found)

    # --- inside -------------------------------------------------------------------------------------------

    def _candidates(self, reference: str) -> tuple[str, ...]:
        return candidates(reference, self._config.default_registry)

    def _state(self) -> object:
        """Give something that changes whenever any storage's set of images does; a few ``stat`` calls."""
        states = []
        for index in (self._layout.images_index, *(images_index(store) for store in self._stores)):
            try:
                found = os.stat(index)
                states.append((found.st_mtime_ns, found.st_ino, found.st_size))
            except OSError:
                states.append((0, 0, 0))
        return tuple(states)

    async def _find(self, reference: str, names: tuple[str, ...]) -> Image | None:
        for name in names:
            found = await self._inspect(name)
            if found is not None:
                return translate.from_image(reference, found)
        return None

    async def _inspect(self, name: str) -> dict[str, Any] | None:
        answer = await self._client.call("GET", f"/images/{quote(name, safe='/:@')}/json")
        if answer.status == 404:
            return None
        if answer.status >= 400 or not isinstance(answer.body, dict):
            raise RuntimeFailure(f"podman could not look for image '{name}': {answer.message}", image=name)
        return answer.body

    async def _ids(self) -> set[str]:
        answer = await self._client.call("GET", "/images/json", params={"all": "true"})
        return {str(found["Id"]) for found in answer.body or []} if answer.status < 400 else set()

    async def _drop(self, ids: set[str]) -> None:
        for one in ids:
            await self._client.call("DELETE", f"/images/{one}", params={"force": "true"})

    async def _from_stores(self, reference: str, names: tuple[str, ...], own: Image | None) -> Image | None:
        """Copy from a storage of the host: what is not here yet, or, of local names, what was built anew there."""
        for store in self._stores:
            index = await asyncio.to_thread(read_index, images_index(store))
            for name in names:
                theirs = index.get(name)
                if theirs is None or (own is not None and own.id == f"sha256:{theirs}"):
                    continue
                if own is not None and not name.startswith(f"{_LOCAL}/"):
                    continue
                copied = await self._copy(reference, name, store)
                if copied is not None:
                    return copied
        return None

    async def _copy(self, reference: str, name: str, store: Path) -> Image | None:
        """Copy an image between storages, so that removing it there does no harm here."""
        run = "/run/containers/storage" if str(store) == "/var/lib/containers/storage" else self._layout.run / "other"
        source = f"containers-storage:[overlay@{store}+{run}]{name}"
        finished = await command.run(
            ["pull", "--quiet", *self.policy(), source], self._environment, timeout=_COPY_SECONDS
        )
        if finished.exit_code != 0:
            _LOG.warning("image-not-copied", image=name, store=str(store), error=finished.complaint)
            return None
        _LOG.info("image-copied", image=name, store=str(store))
        return await self._find(reference, (name,))

    async def _pull(self, reference: str, name: str) -> Image:
        if name.startswith(f"{_LOCAL}/"):
            raise ImageNotFound(
                f"image '{reference}' is not on this node, and 'localhost/' images are in no registry",
                hint="build it with 'podman build' as root, or load it on each node",
                image=reference,
            )
        extra = ["--authfile", self._config.auth_file] if self._config.auth_file else []
        async with self._pulls:
            _LOG.info("image-pull", image=name)
            finished = await command.run(
                ["pull", "--quiet", *self.policy(), *extra, f"docker://{name}"], self._environment, timeout=86_400
            )
        if finished.exit_code != 0:
            raise classify(reference, finished.complaint)
        image = await self._find(reference, (name, finished.stdout.strip().splitlines()[-1]))
        if image is None:
            raise ImagePullFailed(f"image '{reference}' is gone right after it was pulled", image=reference)
        return image

    def policy(self) -> list[str]:
        """Name KAT's own signature policy where the host has none: without any, Podman refuses every image."""
        if Path("/etc/containers/policy.json").exists():
            return []
        return ["--signature-policy", str(self._layout.etc / "policy.json")]


def read_index(index: Path) -> dict[str, str]:
    """Read names and ids of a storage's images from its index; what cannot be read is as if it were not there."""
    try:
        entries = json.loads(index.read_bytes())
        return {name: str(entry["id"]) for entry in entries for name in entry.get("names") or ()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def require_local_name(tag: str) -> None:
    """Refuse a build tag that is no image reference."""
    if not tag or tag.startswith("-"):
        raise InvalidInput(f"'{tag}' is not a name for an image")
    ImageReference.parse(tag)
