"""Template: what of a revision makes a container what it is. Instances with the same template need not be replaced."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Final

from kat_platform.model.revision import Revision

_LIVE: Final = frozenset({"replicas", "updateStrategy", "priority"})
"""Fields of a workload's spec that take effect without a new container."""

_CACHE_LIMIT: Final = 4096
_cache: dict[int, tuple[Revision, str]] = {}
"""By the object's identity: revisions never change, and one that is kept here cannot lose its identity to another."""


def template_digest(revision: Revision) -> str:
    """Give the same text for revisions whose containers would be the same.

    The health check belongs to it: a new check must prove itself on new instances, and must not
    take running ones of an older revision out of service.
    """
    found = _cache.get(id(revision))
    if found is None:
        if len(_cache) >= _CACHE_LIMIT:
            _cache.clear()
        found = _cache[id(revision)] = (revision, _compute(revision))
    return found[1]


def _compute(revision: Revision) -> str:
    spec = revision.document.spec.to_wire()
    parts = {
        "spec": {key: value for key, value in spec.items() if key not in _LIVE},
        "labels": dict(revision.document.metadata.labels),
        "image": revision.image_digest,
        "secrets": revision.secret_versions,
        "check": None,
    }
    balancer = revision.load_balancer
    if balancer is not None and balancer.spec.health_check is not None:
        parts["check"] = balancer.spec.health_check.to_wire()
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
