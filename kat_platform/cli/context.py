"""Contexts of ``katcall``: which cluster, as whom, in which namespace. One file, readable by its owner only."""

from __future__ import annotations

import json
import os
import secrets
import stat
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from kat_platform.errors import InvalidInput, NotFound, UsageError

VARIABLE: Final = "KAT_CONFIG"
DEFAULT_NAMESPACE: Final = "default"


@dataclass(frozen=True, slots=True)
class Context:
    """A cluster and how to speak with it; certificates and keys as PEM text."""

    name: str
    servers: tuple[str, ...]
    ca: str
    certificate: str | None = None
    key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    namespace: str = DEFAULT_NAMESPACE


def path() -> Path:
    """Tell where the contexts are kept: ``$KAT_CONFIG``, else ``~/.config/kat/config.json``."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "kat" / "config.json"


def load_all() -> tuple[str | None, dict[str, Context]]:
    """Read every context, and the name of the current one. No file is no context; a broken file is an error."""
    where = path()
    try:
        data = json.loads(where.read_text())
        contexts = {name: _read(name, value) for name, value in data["contexts"].items()}
        current = data.get("current")
    except FileNotFoundError:
        return None, {}
    except PermissionError as error:
        raise InvalidInput(
            f"{where} cannot be read: {error.strerror}", hint="who ran kat-agent init may read it"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{where} is no file of contexts: {error}", hint="mend it or move it away") from None
    return current if isinstance(current, str) else None, contexts


def load(name: str | None = None) -> Context:
    """Give a context by name, or the current one; says what there is when there is none such."""
    current, contexts = load_all()
    wanted = name or current
    if wanted is None:
        raise UsageError(
            f"there is no context in {path()}, so there is no cluster to talk to",
            hint="'kat-agent init' makes one; on another machine copy that file, or set KAT_CONFIG",
        )
    if wanted not in contexts:
        raise NotFound(
            f"there is no context '{wanted}' in {path()}", hint=f"there are: {', '.join(contexts) or 'none'}"
        )
    return contexts[wanted]


def plugin_config() -> dict[str, dict[str, Any]]:
    """Give the settings of the plugins that bring commands to ``katcall`` on this machine: ``pluginConfig`` there.

    The cluster's own ``pluginConfig`` is for its agents; it may be another machine's, and out of reach.
    """
    where = path()
    try:
        found = json.loads(where.read_text()).get("pluginConfig", {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{where} cannot be read: {error}", hint="mend it or move it away") from None
    if not isinstance(found, dict) or not all(isinstance(section, dict) for section in found.values()):
        raise InvalidInput(f"pluginConfig in {where} must give settings by plugin", hint='{"NAME": {"enabled": false}}')
    return found


def add_context(name: str, *, server: str, ca: str, certificate: str, key: str) -> Path:
    """Add an administrator's context (PEM texts) and make it the current one; gives the file."""
    return save(Context(name, (server,), ca, certificate, key), current=True)


def remove_context(name: str) -> None:
    """Remove a context. One that is not there is no error."""
    current, contexts = load_all()
    if contexts.pop(name, None) is not None:
        _write(None if current == name else current, contexts)


def save(context: Context, *, current: bool = False) -> Path:
    """Write a context, replacing one of the same name."""
    chosen, contexts = load_all()
    contexts[context.name] = context
    return _write(context.name if current or chosen is None else chosen, contexts)


def use(name: str, namespace: str | None = None) -> Context:
    """Make a context the current one, and ``namespace`` the one it begins with."""
    _, contexts = load_all()
    context = load(name)
    if namespace is not None:
        context = replace(context, namespace=namespace)
    contexts[name] = context
    _write(name, contexts)
    return context


def _read(name: str, value: dict[str, Any]) -> Context:
    servers = tuple(dict.fromkeys(_server(name, str(server)) for server in value["servers"]))
    if not servers:
        raise ValueError(f"context '{name}' has no servers")
    known = {key: value.get(key) for key in ("certificate", "key", "token")}
    return Context(name, servers, str(value["ca"]), namespace=str(value.get("namespace") or DEFAULT_NAMESPACE), **known)


def _server(name: str, text: str) -> str:
    """Refuse what is no server: these are written by hand, too, and half an address leads to another machine."""
    try:
        parts = urlsplit(text)
        good = parts.scheme == "https" and parts.hostname and parts.port != 0 and parts.path in ("", "/")
    except ValueError:  # a port out of range, a bracket that is not closed
        good = False
    if not good:
        raise ValueError(f"server '{text}' of context '{name}' is not https://HOST:PORT")
    return text


def _write(current: str | None, contexts: dict[str, Context]) -> Path:
    where = path()
    where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = {name: {key: value for key, value in asdict(c).items() if key != "name"} for name, c in contexts.items()}
    data = {**_others(where), "current": current, "contexts": kept}
    draft = where.with_name(f".{where.name}.{secrets.token_hex(4)}")
    # It holds private keys: readable by its owner only, from the first byte.
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(data, file, indent=2)
        draft.replace(where)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return where


def _others(where: Path) -> dict[str, Any]:
    """What else is in the file stays in it."""
    try:
        found = json.loads(where.read_text())
    except (OSError, ValueError):
        return {}  # none yet: what cannot be read was refused before anything is written
    return found if isinstance(found, dict) else {}
