"""The few words of shell a fake container understands, enough to say what its command prints and how it ends."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

_STATEMENT: Final = re.compile(r"""(?:[^;'"]|'[^']*'|"[^"]*")+""")
_APPLETS: Final = frozenset({"sh", "echo", "true", "false", "sleep", "cat", "exit", "trap"})
RUN_FOREVER: Final = 10_000_000.0
"""Seconds a program the shell does not know is taken to run: it stands for a server."""


@dataclass(slots=True)
class Process:
    """A command under way: feed its standard input, and read from ``exit_code`` how it ended."""

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    exit_code: int | None = None
    on_term: int | None = None
    """Exit code upon SIGTERM; ``None``: the default, 143."""
    ignores_term: bool = False

    async def run(self, *, unknown: int | None = 127) -> AsyncIterator[tuple[str, bytes]]:
        """Give the output as ``(stream, bytes)``; ``unknown`` ends programs not known, ``None`` lets them run."""
        words = [word.rsplit("/", 1)[-1] if at == 0 else word for at, word in enumerate(self.command)]
        if words[:1] == ["busybox"]:
            words = words[1:]
        statements = [words]
        if words[:2] == ["sh", "-c"]:
            statements = [shlex.split(text, posix=True) for text in _STATEMENT.findall(words[2])]
        for statement in statements:
            async for chunk in self._one(statement, unknown):
                yield chunk
            if self.exit_code is not None:
                return
        self.exit_code = 0

    async def _one(self, words: list[str], unknown: int | None) -> AsyncIterator[tuple[str, bytes]]:
        match words:
            case [] | ["true"]:
                return
            case ["false"]:
                self.exit_code = 1
            case ["exit", code]:
                self.exit_code = int(code)
            case ["trap", "", "TERM"]:
                self.ignores_term = True
            case ["trap", action, "TERM"]:
                self.on_term = int(action.split()[-1])
            case ["sleep", seconds]:
                await asyncio.sleep(float(seconds))
            case ["while", *_]:
                await asyncio.sleep(RUN_FOREVER)
            case ["echo", *rest]:
                stream = "stderr" if rest[-1:] == [">&2"] else "stdout"
                said = [self.env.get(word[1:], "") if word[:1] == "$" else word for word in rest if word != ">&2"]
                yield stream, (" ".join(said) + "\n").encode()
            case ["cat"]:
                while (data := await self.stdin.get()) is not None:
                    yield "stdout", data
            case [program, *_] if unknown is not None and program not in _APPLETS:
                yield "stderr", f"{program}: not found\n".encode()
                self.exit_code = unknown
            case _:
                await asyncio.sleep(RUN_FOREVER)
