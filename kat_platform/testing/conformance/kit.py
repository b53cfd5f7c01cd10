"""What all conformance kits share: a check is a named coroutine against a driver, a kit a list of them.

Kits are plain objects, so that they run under pytest (one test a check) and from ``katcall plugin check`` alike.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

D = TypeVar("D")

Subject = Callable[[], AbstractAsyncContextManager[D]]
"""Makes a fresh, started driver for one check, and takes everything it made away again at the end."""


class CheckFailed(AssertionError):
    """The driver broke a rule of its contract; the message names the rule."""


@dataclass(frozen=True, slots=True)
class Check(Generic[D]):
    """One rule of a contract and the coroutine that tries it; ``timeout`` in seconds."""

    name: str
    rule: str
    run: Callable[[D], Awaitable[None]]
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check went; ``failure`` is empty when it passed."""

    check: str
    rule: str
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether the driver kept the rule."""
        return not self.failure


@dataclass(slots=True)
class Kit(Generic[D]):
    """The checks of one contract. Add one with :meth:`check` as a decorator."""

    contract: str
    checks: list[Check[D]] = field(default_factory=list)

    def check(self, rule: str, *, timeout: float = 30.0) -> Callable[[Callable[[D], Awaitable[None]]], Check[D]]:
        """Register a coroutine as the check of ``rule``; its name is the function's."""

        def register(run: Callable[[D], Awaitable[None]]) -> Check[D]:
            made = Check(getattr(run, "__name__", rule), rule, run, timeout)
            self.checks.append(made)
            return made

        return register

    async def run_one(self, check: Check[D], subject: Subject[D]) -> Outcome:
        """Run one check against a fresh driver. Whatever goes wrong is the outcome's failure."""
        try:
            async with asyncio.timeout(check.timeout), subject() as driver:
                await check.run(driver)
        except CheckFailed as failed:
            return Outcome(check.name, check.rule, str(failed) or "failed")
        except TimeoutError:
            return Outcome(check.name, check.rule, f"did not end within {check.timeout:g} s")
        except Exception as error:  # a driver under test may raise anything; all of it is a failed check
            where = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {error} (line {where.lineno} of {where.name})"
            return Outcome(check.name, check.rule, told)
        return Outcome(check.name, check.rule)

    async def run(self, subject: Subject[D]) -> tuple[Outcome, ...]:
        """Run every check in order, each against a fresh driver."""
        return tuple([await self.run_one(check, subject) for check in self.checks])


def require(condition: object, message: str) -> None:
    """Fail the running check with ``message`` unless ``condition`` holds."""
    if not condition:
        raise CheckFailed(message)
