"""Image builds with ``podman build``, into the driver's own storage."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from kat_platform.errors import BuildFailed
from kat_runtime_podman import command
from kat_runtime_podman.images import require_local_name


def arguments(
    context_dir: str,
    *,
    dockerfile: str,
    tag: str,
    build_args: Mapping[str, str],
    target: str | None,
    platform: str | None,
) -> list[str]:
    """Give the arguments of ``podman build``; values are joined to their options, so a dash in front is harmless."""
    given = [f"--build-arg={key}={value}" for key, value in build_args.items()]
    if target is not None:
        given.append(f"--target={target}")
    if platform is not None:
        given.append(f"--platform={platform}")
    # host network: steps may fetch packages, and KAT sets up no network of Podman's
    fixed = ["build", "--layers", "--network=host", "--pull=missing", f"--file={Path(context_dir, dockerfile)}"]
    return [*fixed, f"--tag={tag}", *given, "--", context_dir]


async def build(
    context_dir: str,
    *,
    environment: Mapping[str, str],
    policy: list[str],
    dockerfile: str,
    tag: str,
    build_args: Mapping[str, str],
    target: str | None,
    platform: str | None,
    timeout: float,
) -> AsyncIterator[str]:
    """Build, giving the output's lines; ``BuildFailed`` carries the last fifty."""
    require_local_name(tag)
    given = arguments(
        context_dir, dockerfile=dockerfile, tag=tag, build_args=build_args, target=target, platform=platform
    )
    last: deque[str] = deque(maxlen=50)
    deadline = asyncio.get_running_loop().time() + timeout
    both = asyncio.subprocess.STDOUT
    async with command.started([given[0], *policy, *given[1:]], environment, stderr=both) as builder:
        assert builder.stdout is not None
        while True:
            left = deadline - asyncio.get_running_loop().time()
            try:
                line = await asyncio.wait_for(builder.stdout.readline(), max(0.0, left))
            except TimeoutError:
                raise BuildFailed(
                    f"the build of '{tag}' did not end within {timeout:g} s", image=tag, output=list(last)
                ) from None
            if not line:
                break
            text = line.decode(errors="replace").rstrip("\n")
            last.append(text)
            yield text
        if await builder.wait() != 0:
            raise BuildFailed(
                f"the build of '{tag}' failed: {last[-1] if last else 'no output'}", image=tag, output=list(last)
            )
