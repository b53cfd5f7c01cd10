"""The tree of errors every part of KAT raises.

Each class has a stable ``code`` (it appears in problem documents, events and logs, and never changes its
meaning), says whether trying the same thing again may help (``retryable``), and knows the HTTP status and
the exit code of ``katcall`` that stand for it. Errors carry data, not only prose: ``details`` is JSON.
"""

from __future__ import annotations

from typing import Any, ClassVar


class KatError(Exception):
    """Base of all of KAT's errors: a message for a person, a stable code and JSON details for a program."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: dict[str, Any] = details

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({self.hint})"


# --- what the caller got wrong -------------------------------------------------------------------------


class InvalidInput(KatError):
    """The input is malformed or out of range; nothing was changed."""

    code = "invalid"
    http_status = 422
    exit_code = 1


class InvalidValue(InvalidInput, ValueError):
    """A text is not a valid value of its type (a quantity, a name, an image reference, a schedule).

    Also a ``ValueError``, so that a model's validator may raise it and the value's place is reported with it.
    """

    code = "invalid-value"


class UsageError(KatError):
    """The command line or the request itself is wrong (not the document it carries)."""

    code = "usage"
    http_status = 400
    exit_code = 2


class NotSupportedYet(InvalidInput):
    """The field or operation is part of the specification but this version does not act on it."""

    code = "not-supported-yet"


class NotFound(KatError):
    """The named object does not exist."""

    code = "not-found"
    http_status = 404
    exit_code = 3


class Conflict(KatError):
    """The object changed in between, exists already, or another object stands in the way."""

    code = "conflict"
    http_status = 409
    exit_code = 4


class PreconditionFailed(Conflict):
    """``If-Match`` named another version of the object than the current one."""

    code = "precondition-failed"
    http_status = 412


class Unauthenticated(KatError):
    """No credential, or one that is malformed, expired, revoked or signed by somebody else."""

    code = "unauthenticated"
    http_status = 401
    exit_code = 5


class Denied(KatError):
    """The caller is known but may not do this."""

    code = "denied"
    http_status = 403
    exit_code = 5


class TooLarge(InvalidInput):
    """The input exceeds a hard limit; ``details`` names the limit."""

    code = "too-large"
    http_status = 413


class BackupUnusable(InvalidInput):
    """A backup that cannot be used: damaged, sealed with another key, or of a format this version does not know."""

    code = "backup-unusable"


class Rejected(InvalidInput):
    """An admission hook refused the change."""

    code = "rejected"


# --- what went wrong around us -------------------------------------------------------------------------


class Unavailable(KatError):
    """A part that is needed does not answer now; trying again later may help."""

    code = "unavailable"
    retryable = True
    http_status = 503


class TimedOut(Unavailable):
    """The deadline passed before the answer came."""

    code = "timed-out"
    http_status = 504
    exit_code = 6


class CutOff(Unavailable):
    """This server cannot learn from the store what was written elsewhere; nothing was done.

    Another server may be able to, so the same request may be sent to it, whatever it does.
    """

    code = "cut-off"


class HostNotReady(KatError):
    """The host lacks something KAT needs; the message says what to install or change."""

    code = "host-not-ready"


class InternalError(KatError):
    """A bug in KAT: an invariant did not hold."""

    code = "internal"


# --- store ----------------------------------------------------------------------------------------------


class StoreError(Unavailable):
    """The store could not carry the operation out; it may or may not have been applied."""

    code = "store"


class Compacted(KatError):
    """A watch asked for a revision the store has already compacted: list again and watch from there."""

    code = "compacted"
    http_status = 410


class StoreFull(KatError):
    """The store refuses writes because its space is used up; reads and removals still work."""

    code = "store-full"
    http_status = 507


class LeadershipLost(Conflict):
    """A fenced write was refused because the writer is no longer leader; nothing was written."""

    code = "leadership-lost"


# --- drivers --------------------------------------------------------------------------------------------


class DriverError(KatError):
    """A driver failed to do its work; ``details`` names driver, operation and object."""

    code = "driver"


class RuntimeFailure(DriverError):
    """The container runtime refused or failed an operation."""

    code = "runtime"


class ImageNotFound(RuntimeFailure):
    """The image is neither present nor to be had from its registry."""

    code = "image-not-found"


class ImagePullFailed(RuntimeFailure):
    """The registry did not answer or refused; trying again may help."""

    code = "image-pull-failed"
    retryable = True


class NetworkFailure(DriverError):
    """An interface, address, route or rule could not be made."""

    code = "network"


class BuildFailed(DriverError):
    """An image could not be built; ``details`` carries the end of the build's output."""

    code = "build-failed"


# --- plugins --------------------------------------------------------------------------------------------


class PluginError(KatError):
    """A plugin is missing, broken, duplicated, of another API version, or misconfigured.

    ``details["faults"]`` lists every fault found, not only the first.
    """

    code = "plugin"
