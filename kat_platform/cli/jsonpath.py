"""JSONPath, the part people use in ``-o jsonpath=``: fields, indexes and ``[*]``, with text around.

``{.items[*].name}``, ``{.metadata.labels['a.b/c']}``, ``{.items[0].name}{"\\n"}``; without braces the whole is one
path. Anything else (filters, slices, recursion) is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from kat_platform.errors import UsageError

_STEP: Final = re.compile(
    r"\.?\[\s*(?:(?P<index>-?\d+)|(?P<all>\*)|'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\")\s*\]"
    r"|\.(?P<star>\*)"
    r"|\.(?P<field>(?:\\.|[A-Za-z0-9_/-])+)"
)

Step = str | int | None
"""A field's name, an index, or ``None`` for every item."""


def compile_template(text: str) -> list[str | list[Step]]:
    """Split a template into texts and paths; raises ``UsageError`` for what is not supported."""
    if "{" not in text:
        return [parse_path(text)]
    parts: list[str | list[Step]] = []
    rest = text
    while rest:
        before, brace, rest = rest.partition("{")
        if before:
            parts.append(_unescape(before))
        if not brace:
            break
        literal = re.match(r"\s*(\"(?:[^\"\\]|\\.)*\")\s*}", rest)
        if literal:
            parts.append(str(json.loads(literal[1])))
            rest = rest[literal.end() :]
            continue
        inside, brace, rest = rest.partition("}")
        if not brace:
            raise UsageError(f"jsonpath '{text}': a '{{' is never closed")
        parts.append(parse_path(inside.strip()))
    return parts


def parse_path(text: str) -> list[Step]:
    """Read one path, such as ``.items[*].name``."""
    rest = text.removeprefix("$").removeprefix("@")
    if rest in ("", "."):
        return []
    if not rest.startswith((".", "[")):
        rest = f".{rest}"
    steps: list[Step] = []
    while rest:
        match = _STEP.match(rest)
        if match is None:
            raise UsageError(
                f"jsonpath '{text}': '{rest}' is not supported",
                hint="fields (.a.b), indexes ([0]), all items ([*]) and quoted names (['a.b']) are",
            )
        found = match.groupdict()
        if found["index"] is not None:
            steps.append(int(found["index"]))
        elif found["all"] or found["star"]:
            steps.append(None)
        else:
            name = found["single"] if found["single"] is not None else found["double"]
            steps.append(name if name is not None else re.sub(r"\\(.)", r"\1", str(found["field"])))
        rest = rest[match.end() :]
    return steps


def evaluate(template: str, data: Any) -> str:
    """Fill a template; the values of one path are separated by spaces, and what is absent gives nothing."""
    out: list[str] = []
    for part in compile_template(template):
        out.append(part if isinstance(part, str) else " ".join(_shown(value) for value in _walk(data, part)))
    return "".join(out)


def _walk(value: Any, steps: list[Step]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    step, rest = steps[0], steps[1:]
    if step is None:
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from _walk(item, rest)
    elif isinstance(step, int):
        if isinstance(value, list) and -len(value) <= step < len(value):
            yield from _walk(value[step], rest)
    elif isinstance(value, dict) and step in value:
        yield from _walk(value[step], rest)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _unescape(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t")
