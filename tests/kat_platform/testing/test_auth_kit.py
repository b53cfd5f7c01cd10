"""The auth kit passes the fake, and fails drivers that are broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from kat_platform.errors import Unauthenticated
from kat_platform.interfaces.auth import Auth, Credentials, Decision, Identity, Request, Role, TokenRecord, Verb
from kat_platform.interfaces.driver import DriverContext
from kat_platform.testing.conformance.auth import KIT, subject
from kat_platform.testing.conformance.kit import Check
from kat_platform.testing.fakes.auth import FakeAuth


@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
async def test_the_fake_keeps_the_contract(check: Check[Auth]) -> None:
    outcome = await KIT.run_one(check, subject(lambda context: FakeAuth(None, context)))
    assert outcome.passed, outcome.failure


class Generous(FakeAuth):
    """Makes everybody an administrator."""

    def authenticate(self, credentials: Credentials, *, now: float) -> Identity:
        return replace(super().authenticate(credentials, now=now), bindings={"*": Role.ADMIN})


class Timeless(FakeAuth):
    """Never looks at the date."""

    def authenticate(self, credentials: Credentials, *, now: float) -> Identity:
        return super().authenticate(credentials, now=0.0)


class Loose(FakeAuth):
    """Repeats the credential in its error."""

    def authenticate(self, credentials: Credentials, *, now: float) -> Identity:
        try:
            return super().authenticate(credentials, now=now)
        except Unauthenticated as error:
            raise Unauthenticated(f"{credentials.bearer} is wrong") from error


class Hoarding(FakeAuth):
    """Adds tokens and never forgets one."""

    async def load(self, tokens: tuple[TokenRecord, ...], revoked_serials: frozenset[int]) -> None:
        self.tokens += tokens


class Curious(FakeAuth):
    """Lets view read secrets."""

    def may(self, role: Role | None, identity: Identity, request: Request) -> bool:
        return (role is Role.VIEW and request.verb is Verb.READ) or super().may(role, identity, request)


class Silent(FakeAuth):
    """Gives no reasons."""

    def authorize(self, identity: Identity, request: Request) -> Decision:
        return replace(super().authorize(identity, request), reason="")


class Sprawling(FakeAuth):
    """Lets a binding in one namespace count everywhere."""

    def authorize(self, identity: Identity, request: Request) -> Decision:
        everywhere = dict.fromkeys(["*"], next(iter(identity.bindings.values())))
        return super().authorize(replace(identity, bindings=everywhere), request)


class Trusting(FakeAuth):
    """Lets a node report about any other."""

    def may(self, role: Role | None, identity: Identity, request: Request) -> bool:
        return request.verb is Verb.REPORT or super().may(role, identity, request)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Generous, "known_token"),
        (Timeless, "refusals"),
        (Loose, "refusals"),
        (Hoarding, "withdrawal"),
        (Curious, "matrix"),
        (Silent, "matrix"),
        (Sprawling, "namespaces_are_apart"),
        (Trusting, "nodes_speak_for_themselves"),
    ],
)
async def test_the_kit_notices(broken: Callable[[None, DriverContext], FakeAuth], check: str) -> None:
    one = next(one for one in KIT.checks if one.name == check)
    outcome = await KIT.run_one(one, subject(lambda context: broken(None, context)))
    assert not outcome.passed
