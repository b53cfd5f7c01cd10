"""What a hook plugin imports: the marker ``hookimpl`` and the types its hooks take and give."""

from kat_platform.hooks.specs import GROUP, hookimpl
from kat_platform.hooks.types import (
    AdmissionReply,
    AdmissionRequest,
    ApiRoute,
    Document,
    EventRecord,
    HookInfo,
    InstanceChange,
    LeadershipChange,
    NodeChange,
    NodeFacts,
    Operation,
)

__all__ = [
    "GROUP",
    "AdmissionReply",
    "AdmissionRequest",
    "ApiRoute",
    "Document",
    "EventRecord",
    "HookInfo",
    "InstanceChange",
    "LeadershipChange",
    "NodeChange",
    "NodeFacts",
    "Operation",
    "hookimpl",
]
