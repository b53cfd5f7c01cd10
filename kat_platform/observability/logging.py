"""Logging: key=value on a terminal, one JSON object a line otherwise; secrets are taken out of both."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

HIDDEN: Final = "[hidden]"
"""What stands in a log where a secret was."""

_SECRET_KEYS: Final = re.compile(
    r"(^|[_.-])(token|tokens|secret|secrets|password|passwd|passphrase|authorization|bearer|cookie|private_?key|key_pem)$",
    re.IGNORECASE,
)
_SECRET_VALUES: Final = re.compile(
    r"kat_[a-z0-9]{8,32}_[A-Za-z0-9-]{32,128}"  # bearer tokens
    r"|katjoin1_[a-z2-7]+"  # join tokens
    r"|(?i:bearer)\s+[A-Za-z0-9._~+/=-]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)


def redact(value: Any, depth: int = 0) -> Any:
    """Give a value without what looks like a credential, in texts, lists and mappings alike."""
    if isinstance(value, str):
        return _SECRET_VALUES.sub(HIDDEN, value)
    if isinstance(value, bytes):
        return redact(value.decode("utf-8", "replace"), depth)
    if depth > 8:
        return HIDDEN  # deeper than anything we log on purpose
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if isinstance(key, str) and _SECRET_KEYS.search(key) and item else redact(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item, depth + 1) for item in value]
    return value


def redact_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Take secrets out of a log record: the last processor before it is written."""
    return {key: HIDDEN if _SECRET_KEYS.search(key) and value else redact(value) for key, value in event.items()}


def configure(*, level: str = "info", stream: TextIO | None = None, as_json: bool | None = None) -> None:
    """Set logging up for the whole process; libraries' own log records take the same way.

    ``as_json`` ``None`` decides by whether ``stream`` (standard error by default) is a terminal.
    """
    out = stream if stream is not None else sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    json_lines = not out.isatty() if as_json is None else as_json
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact_event,
    ]
    structlog.configure(
        processors=[*shared, _renderer(json_lines)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,  # loggers are made at import, before this runs, and in tests once more
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(json_lines)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # What libraries say at info is about themselves; of us it is about the cluster.
    root.setLevel(max(number, logging.WARNING))


def _renderer(json_lines: bool) -> Processor:
    if json_lines:
        return structlog.processors.JSONRenderer(default=str)
    return structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)
