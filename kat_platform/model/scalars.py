"""The small checked types that fields are made of: names, labels, paths, ports and strict numbers.

Syntax of names and labels: RFC 1123 labels and the Kubernetes object metadata conventions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Final

from pydantic import AfterValidator, Field, WithJsonSchema

from kat_platform.errors import InvalidValue

NAME_LIMIT: Final = 63
LABEL_VALUE_LIMIT: Final = 63
ANNOTATIONS_LIMIT: Final = 256 * 1024
PATH_LIMIT: Final = 4096

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_QUALIFIED: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_PLUGIN: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")


def check_name(text: str) -> str:
    """Check a DNS-1123 label: 1 to 63 of ``a-z 0-9 -``, starting and ending with a letter or digit."""
    if len(text) <= NAME_LIMIT and _LABEL.fullmatch(text):
        return text
    if len(text) > NAME_LIMIT:
        raise InvalidValue(f"'{text[:20]}...' has {len(text)} characters: a name has at most {NAME_LIMIT}")
    better = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
    raise InvalidValue(
        f"'{text}' is not a valid name: use lower-case letters, digits and '-', a letter or digit first and last",
        hint=f"did you mean '{better}'?" if better and better != text else None,
    )


def check_domain(text: str) -> str:
    """Check a DNS name of one or more DNS-1123 labels, at most 253 characters, without a final dot."""
    if len(text) > 253 or not all(len(part) <= 63 and _LABEL.fullmatch(part) for part in text.split(".")):
        raise InvalidValue(f"'{text[:80]}' is not a valid DNS name, such as kat.cluster.local")
    return text


def check_label_key(text: str) -> str:
    """Check a label's key: ``[domain/]name``, the name at most 63 characters (Kubernetes syntax)."""
    prefix, slash, name = text.rpartition("/")
    if slash:
        check_domain(prefix)
    if not (len(name) <= LABEL_VALUE_LIMIT and _QUALIFIED.fullmatch(name)):
        raise InvalidValue(f"'{text[:80]}' is not a valid key: [domain/]name, the name of at most 63 of A-Za-z0-9._-")
    return text


def check_label_value(text: str) -> str:
    """Check a label's value: empty, or at most 63 characters of ``A-Za-z0-9._-`` (Kubernetes syntax)."""
    if text and not (len(text) <= LABEL_VALUE_LIMIT and _QUALIFIED.fullmatch(text)):
        raise InvalidValue(f"'{text[:80]}' is not a valid label value: at most 63 of A-Za-z0-9._-, or empty")
    return text


def check_annotations(values: Mapping[str, str]) -> Mapping[str, str]:
    """Check that all annotations together have at most 256 KiB."""
    size = sum(len(key.encode()) + len(value.encode()) for key, value in values.items())
    if size > ANNOTATIONS_LIMIT:
        raise InvalidValue(f"the annotations have {size} bytes together: at most {ANNOTATIONS_LIMIT} are allowed")
    return values


def check_env_name(text: str) -> str:
    """Check the name of an environment variable."""
    if len(text) > 255 or not _ENV_NAME.fullmatch(text):
        raise InvalidValue(f"'{text[:80]}' is not a valid variable name: letters, digits, _ . -, no digit first")
    return text


def check_plugin_name(text: str) -> str:
    """Check the name by which a driver is chosen."""
    if len(text) > 128 or not _PLUGIN.fullmatch(text):
        raise InvalidValue(f"'{text[:80]}' is not a valid driver name: lower-case letters, digits and . _ -")
    return text


def check_text(text: str) -> str:
    """Check that a text has no NUL: neither the kernel nor a file can carry one."""
    if "\0" in text:
        raise InvalidValue("the text contains a NUL character")
    return text


def check_absolute(text: str) -> str:
    """Check an absolute path without ``..`` and give it normalised (no ``//``, no ``.``, no final ``/``)."""
    check_text(text)
    if len(text.encode()) > PATH_LIMIT:
        raise InvalidValue(f"the path has more than {PATH_LIMIT} bytes")
    path = PurePosixPath(text)
    if not path.is_absolute():
        raise InvalidValue(f"'{text}' is not an absolute path: start it with '/'")
    if ".." in path.parts:
        raise InvalidValue(f"'{text}' contains '..': write the path it stands for")
    return "/" + str(path).lstrip("/")


def check_relative(text: str) -> str:
    """Check a path that stays below its base folder, and give it normalised (``.`` for the base itself)."""
    check_text(text)
    if len(text.encode()) > PATH_LIMIT:
        raise InvalidValue(f"the path has more than {PATH_LIMIT} bytes")
    path = PurePosixPath(text)
    if not text or path.is_absolute():
        raise InvalidValue(f"'{text}' is not a relative path: it must not be empty nor start with '/'")
    if ".." in path.parts:
        raise InvalidValue(f"'{text}' contains '..': the path must stay below its base folder")
    return str(path)


def check_mount_path(text: str) -> str:
    """Check where a volume appears in a container: absolute, not ``/`` itself, without ``:`` and ``,``."""
    path = check_absolute(text)
    if path == "/":
        raise InvalidValue("a volume cannot be mounted over '/'")
    if ":" in path or "," in path:
        raise InvalidValue(f"'{text}' contains ':' or ',', which mount options do not allow")
    return path


_NAME_SCHEMA: Final = {"type": "string", "pattern": f"^{_LABEL.pattern}$", "minLength": 1, "maxLength": NAME_LIMIT}

Name = Annotated[str, AfterValidator(check_name), WithJsonSchema(_NAME_SCHEMA)]
Domain = Annotated[str, AfterValidator(check_domain)]
LabelKey = Annotated[str, AfterValidator(check_label_key)]
LabelValue = Annotated[str, AfterValidator(check_label_value)]
Labels = Mapping[LabelKey, LabelValue]
Annotations = Annotated[Mapping[LabelKey, str], AfterValidator(check_annotations)]
EnvName = Annotated[str, AfterValidator(check_env_name)]
PluginName = Annotated[str, AfterValidator(check_plugin_name)]
Text = Annotated[str, AfterValidator(check_text)]
WholeText = Annotated[str, Field(min_length=1), AfterValidator(check_text)]
AbsolutePath = Annotated[str, AfterValidator(check_absolute)]
RelativePath = Annotated[str, AfterValidator(check_relative)]
MountPath = Annotated[str, AfterValidator(check_mount_path)]

Flag = Annotated[bool, Field(strict=True)]
"""true or false; ``"yes"`` and ``1`` are refused."""
Whole = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
