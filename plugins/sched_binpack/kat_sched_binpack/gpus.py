"""Which GPUs of one node are still to be had."""

from __future__ import annotations

from collections.abc import Mapping, Set

from kat_platform.interfaces.scheduler import Gpu, GpuRequest


def suits(gpu: Gpu, request: GpuRequest) -> bool:
    """Tell whether ``gpu`` is of the kind and size that ``request`` asks for."""
    return request.driver in ("any", gpu.driver) and gpu.vram_mb >= request.min_vram_mb


def available(gpus: tuple[Gpu, ...], holders: Mapping[str, GpuRequest], evicted: Set[str], request: GpuRequest) -> int:
    """Count the GPUs that suit ``request`` once every holder has its own.

    A holder that a GPU names has that one. One that no GPU names yet (it was only just assigned) is given the
    least GPU that suits it, the most demanding holder first. What an ``evicted`` instance held is free.
    """
    loose = [gpu for gpu in gpus if gpu.used_by is None or gpu.used_by in evicted]
    free = sorted(loose, key=lambda gpu: (gpu.vram_mb, gpu.id))
    named: dict[str, int] = {}
    for gpu in gpus:
        if gpu.used_by is not None and gpu.used_by in holders:
            named[gpu.used_by] = named.get(gpu.used_by, 0) + 1
    waiting = [(held.driver == "any", -held.min_vram_mb, key, held) for key, held in holders.items()]
    for _, _, key, held in sorted(waiting, key=lambda entry: entry[:3]):
        for _ in range(held.count - named.get(key, 0)):
            taken = next((gpu for gpu in free if suits(gpu, held)), None)
            if taken is not None:
                free.remove(taken)
    return sum(suits(gpu, request) for gpu in free)
