"""Files the driver writes while containers run: a disk that takes nothing is a failure of the contract's kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kat_platform.errors import RuntimeFailure


@contextmanager
def writing(what: str, path: Path, *, container: str) -> Iterator[None]:
    """Raise ``RuntimeFailure``, naming what, where and why, for an ``OSError`` in the block."""
    try:
        yield
    except OSError as error:
        raise RuntimeFailure(
            f"cannot write {what} to {path}: {error.strerror or error}", container=container
        ) from error
