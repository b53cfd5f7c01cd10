"""Amounts as people read them in reasons: memory to a tenth of a mebibyte, CPU in cores or millicores."""

from __future__ import annotations

from kat_platform.model.quantity import format_cpu, format_memory

_MEBI = 1024 * 1024


def memory(size: int) -> str:
    """Write a size in bytes, rounded down to a tenth of a mebibyte where it is not a round figure; below 0 is 0."""
    size = max(size, 0)
    if size % _MEBI == 0 or size < _MEBI:
        return format_memory(size)
    return f"{size * 10 // _MEBI / 10:g}Mi"


def memory_up(size: int) -> str:
    """Write a size in bytes, rounded up to whole mebibytes, so that following the advice is always enough."""
    return format_memory(-(-size // _MEBI) * _MEBI)


def cpu(millicores: int) -> str:
    """Write an amount of CPU; below 0 is 0."""
    return format_cpu(max(millicores, 0))
