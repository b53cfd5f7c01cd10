"""Does a class keep the form of its contract? Looked at without constructing anything. Pure.

A Protocol says which methods there are, which of them are coroutines and what they are called with. A class that merely
inherits a Protocol has its empty methods, which answer ``None`` to everything: those count as missing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from kat_platform.interfaces import API_VERSION, CONTRACTS, Capability, DriverInfo


def api_version_problem(version: object) -> str | None:
    """Tell why a plugin made for ``version`` of the contracts cannot be used, or ``None``."""
    if not isinstance(version, str) or not re.fullmatch(r"\d+\.\d+", version):
        return f"its API version is {version!r}, which is not MAJOR.MINOR"
    if version.split(".")[0] != API_VERSION.split(".")[0]:
        return f"it is made for version {version} of the plugin API, and this KAT has {API_VERSION}"
    return None


def info_problems(plugin: Any, name: str, capability: Capability) -> Iterator[str]:
    """Tell what is wrong with what a driver says of itself (but for its API version)."""
    info = getattr(plugin, "info", None)
    if not isinstance(info, DriverInfo):
        yield f"its info is {type(info).__name__}, not a DriverInfo"
        return
    if info.name != name:
        yield f"its info.name is '{info.name}', its entry point's name '{name}'"
    if info.capability != capability:
        yield f"its info.capability is '{info.capability}', its group is that of '{capability}'"


def config_problems(plugin: Any) -> Iterator[str]:
    """Tell what is wrong with the schema of a plugin's configuration."""
    schema = getattr(plugin, "Config", None)
    if not (inspect.isclass(schema) and issubclass(schema, BaseModel)):
        yield "its Config is not a pydantic model"
        return
    if schema.model_config.get("extra") != "forbid":
        yield 'its Config does not refuse unknown keys: set model_config = ConfigDict(extra="forbid")'
    required = [name for name, field in schema.model_fields.items() if field.is_required()]
    if required:
        yield f"its Config has fields without a default: {', '.join(required)}"


def method_problems(plugin: type, capability: Capability) -> Iterator[str]:
    """Tell which operations of the contract a class lacks or has in another form."""
    for name, wanted in operations(CONTRACTS[capability]).items():
        given = _own_attribute(plugin, name)
        if given is None:
            yield f"it has no {name}()"
        elif not callable(_function(given)):
            yield f"its {name} is not a method"
        else:
            yield from _form_problems(name, wanted, given)
    missing = sorted(getattr(plugin, "__abstractmethods__", ()))
    if missing:
        yield f"it is abstract: {', '.join(missing)}"


def operations(contract: type) -> dict[str, Any]:
    """Every method a contract names, its constructor aside, by name."""
    found: dict[str, Any] = {}
    for layer in reversed(contract.__mro__):
        if getattr(layer, "_is_protocol", False):
            methods = {name: _function(value) for name, value in vars(layer).items() if not name.startswith("_")}
            found.update({name: method for name, method in methods.items() if inspect.isfunction(method)})
    return found


def _function(value: Any) -> Any:
    return value.__func__ if isinstance(value, (staticmethod, classmethod)) else value


def _own_attribute(plugin: type, name: str) -> Any:
    for layer in plugin.__mro__:
        if name in vars(layer):
            return None if getattr(layer, "_is_protocol", False) else vars(layer)[name]
    return None


def _form_problems(name: str, wanted: Any, attribute: Any) -> Iterator[str]:
    given = _function(attribute)
    streams = re.match(r"(collections\.abc\.)?Async(Iterator|Iterable|Generator)\b", _returns(wanted)) is not None
    is_coroutine = _is(inspect.iscoroutinefunction, given)
    if inspect.iscoroutinefunction(wanted) and not is_coroutine:
        yield f"its {name}() must be async"
    elif not inspect.iscoroutinefunction(wanted) and is_coroutine:
        yield f"its {name}() must be a plain function{' that gives an async iterator' if streams else ''}, not async"
    elif not streams and _is(inspect.isasyncgenfunction, given):
        yield f"its {name}() must not be an async generator"
    try:
        parameters = list(inspect.signature(given).parameters.values())
    except (TypeError, ValueError):  # made by an extension module that tells no signature
        return
    mine = parameters if isinstance(attribute, staticmethod) else parameters[1:]
    theirs = list(inspect.signature(wanted).parameters.values())[1:]
    yield from _parameter_problems(name, {each.name: each for each in theirs}, {each.name: each for each in mine})


def _is(kind: Any, function: Any) -> bool:
    # A decorator may wrap a coroutine function in a plain one that hands on its coroutine.
    return bool(kind(function) or (callable(function) and kind(inspect.unwrap(function))))


def _returns(function: Any) -> str:
    return str(getattr(function, "__annotations__", {}).get("return", ""))


def _parameter_problems(
    name: str, wanted: dict[str, inspect.Parameter], given: dict[str, inspect.Parameter]
) -> Iterator[str]:
    kinds = {parameter.kind for parameter in given.values()}
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    for parameter in wanted.values():
        mine = given.get(parameter.name)
        if mine is None and not takes_any:
            yield f"its {name}() does not take '{parameter.name}'"
        elif (
            mine is not None
            and parameter.default is not inspect.Parameter.empty
            and mine.default is inspect.Parameter.empty
        ):
            yield f"its {name}() needs '{parameter.name}', which the contract makes optional"
        elif mine is not None and (
            mine.kind is inspect.Parameter.KEYWORD_ONLY and parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        ):
            yield f"its {name}() takes '{parameter.name}' by keyword only"
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for mine in given.values():
        if mine.name not in wanted and mine.default is inspect.Parameter.empty and mine.kind not in variadic:
            yield f"its {name}() needs '{mine.name}', which the contract does not have"
