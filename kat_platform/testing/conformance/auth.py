"""What any auth driver must do, tried with bearer tokens: certificates differ from driver to driver."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from kat_platform.errors import Unauthenticated
from kat_platform.interfaces.auth import Auth, Credentials, Identity, Request, Role, TokenRecord, Verb
from kat_platform.interfaces.driver import Driver, DriverContext
from kat_platform.model.identity import join_bearer
from kat_platform.testing.conformance.kit import CheckFailed, Kit, Subject, require
from kat_platform.testing.conformance.started import started

KIT: Final[Kit[Auth]] = Kit("auth")

_SECRET: Final = "0123456789abcdef" * 3
_TOKEN: Final = join_bearer("abcdef012345", _SECRET)


def subject(factory: Callable[[DriverContext], Driver]) -> Subject[Auth]:
    """Make the kit's subject out of a driver's factory."""

    def checked(context: DriverContext) -> Auth:
        driver = factory(context)
        require(isinstance(driver, Auth), "the driver does not have every operation of the auth contract")
        assert isinstance(driver, Auth)
        return driver

    return started(checked)


def _record(role: Role = Role.EDIT, *, expires_at: float | None = 1000.0) -> TokenRecord:
    return TokenRecord("abcdef012345", hashlib.sha256(_SECRET.encode()).hexdigest(), "ada", {"shop": role}, expires_at)


def _refused(driver: Auth, credentials: Credentials, *, now: float = 1.0) -> str:
    try:
        identity = driver.authenticate(credentials, now=now)
    except Unauthenticated as error:
        return error.message
    raise CheckFailed(f"let somebody in as {identity.name} who should have been refused")


@KIT.check("a known bearer token gives the identity and bindings of its record")
async def known_token(driver: Auth) -> None:
    await driver.load((_record(),), frozenset())
    found = driver.authenticate(Credentials(bearer=_TOKEN), now=1.0)
    require(found.name == "ada", f"the identity is {found.name!r}, not the record's 'ada'")
    require(dict(found.bindings) == {"shop": Role.EDIT}, "the bindings are not the record's")
    require(found.node is None, "a bearer token made somebody a node")


@KIT.check("nothing, garbage, a wrong secret and an expired token are refused, and the secret is not repeated")
async def refusals(driver: Auth) -> None:
    await driver.load((_record(),), frozenset())
    _refused(driver, Credentials())
    wrong = join_bearer("abcdef012345", "f" * 48)
    for text in ("", "garbage", wrong, _TOKEN + "x", _TOKEN.upper(), join_bearer("000000000000", _SECRET)):
        require(text == "" or text not in _refused(driver, Credentials(bearer=text)), "the error repeats the token")
    require(_SECRET not in _refused(driver, Credentials(bearer=_TOKEN), now=1000.0), "the error repeats the secret")
    for der in (b"", b"garbage", b"0" * 5000):
        _refused(driver, Credentials(certificate=der))


@KIT.check("load replaces: a withdrawn token is refused from then on")
async def withdrawal(driver: Auth) -> None:
    await driver.load((_record(),), frozenset())
    driver.authenticate(Credentials(bearer=_TOKEN), now=1.0)
    await driver.load((), frozenset())
    _refused(driver, Credentials(bearer=_TOKEN))


def _allowed(driver: Auth, role: Role, verb: Verb, resource: str, namespace: str | None, name: str = "") -> bool:
    identity = Identity("ada", {"shop": role} if namespace == "shop" else {"*": role})
    decision = driver.authorize(identity, Request(verb, resource, namespace, name))
    require(decision.reason, "a decision has no reason: the caller and the audit record need one")
    return decision.allowed


@KIT.check("each role may do what SPEC section 7 gives it, and no more")
async def matrix(driver: Auth) -> None:
    for role, verb, resource, namespace, expected in (
        (Role.ADMIN, Verb.WRITE, "tokens", None, True),
        (Role.EDIT, Verb.WRITE, "workloads", "shop", True),
        (Role.EDIT, Verb.WRITE, "tokens", None, False),
        (Role.EDIT, Verb.WRITE, "nodes", None, False),
        (Role.VIEW, Verb.READ, "workloads", "shop", True),
        (Role.VIEW, Verb.READ, "secrets", "shop", False),
        (Role.VIEW, Verb.WRITE, "workloads", "shop", False),
        (Role.VIEW, Verb.EXEC, "instances", "shop", False),
    ):
        found = _allowed(driver, role, verb, resource, namespace)
        require(found is expected, f"{role.value} {verb.value} {resource}: allowed is {found}, not {expected}")


@KIT.check("a binding in one namespace gives nothing in another, nor for the cluster")
async def namespaces_are_apart(driver: Auth) -> None:
    identity = Identity("ada", {"shop": Role.ADMIN})
    for request in (
        Request(Verb.READ, "workloads", "bank"),
        Request(Verb.READ, "workloads", None),
        Request(Verb.READ, "tokens", None),
        Request(Verb.WRITE, "namespaces", None, "shop"),
    ):
        require(not driver.authorize(identity, request).allowed, f"allowed {request} to an admin of 'shop' only")


@KIT.check("a node reports only about itself and changes nothing else")
async def nodes_speak_for_themselves(driver: Auth) -> None:
    node = Identity("node:n1", {"*": Role.NODE}, node="n1")
    require(driver.authorize(node, Request(Verb.REPORT, "nodes", None, "n1")).allowed, "a node may not report")
    for request in (
        Request(Verb.REPORT, "nodes", None, "n2"),
        Request(Verb.REPORT, "nodes", None),
        Request(Verb.WRITE, "workloads", "shop", "web"),
        Request(Verb.READ, "secrets", "shop", "key"),
        Request(Verb.READ, "tokens", None),
        Request(Verb.DELETE, "nodes", None, "n1"),
    ):
        require(not driver.authorize(node, request).allowed, f"allowed {request} to node n1")
