"""OpenAPI: the description of the API, made from the very table it is served from, and from the models' schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from pydantic.json_schema import models_json_schema

import kat_platform
from kat_platform.model.documents import json_schemas
from kat_platform.model.drain import DrainProgress
from kat_platform.model.trust import CaStatus
from kat_platform.model.view import AssignmentItem, ClusterItem, ReportBody, ServiceItem
from kat_platform.server import items
from kat_platform.server.apply import PlanEntry
from kat_platform.server.routes.ca import RotateBody, UserCertificateBody
from kat_platform.server.routes.join import JoinBody, JoinTokenBody, PrepareBody
from kat_platform.server.routes.node_api import HeartbeatBody, RenewBody
from kat_platform.server.routes.nodes import DrainBody, LeaveBody, NodePatch
from kat_platform.server.routes.tokens import TokenBody
from kat_platform.server.routes.workloads import RollbackBody, ScaleBody
from kat_platform.server.table import Query, Route

_REF: Final = "#/components/schemas/{model}"
_MODELS: Final = (
    items.WorkloadItem,
    items.RevisionItem,
    items.InstanceItem,
    items.NodeItem,
    items.NamespaceItem,
    items.EventItem,
    items.ConfigurationItem,
    PlanEntry,
    DrainProgress,
    CaStatus,
    ClusterItem,
    ServiceItem,
    AssignmentItem,
)
_BODIES: Final = (
    ReportBody,
    ScaleBody,
    RollbackBody,
    TokenBody,
    HeartbeatBody,
    RenewBody,
    JoinTokenBody,
    PrepareBody,
    JoinBody,
    DrainBody,
    LeaveBody,
    NodePatch,
    RotateBody,
    UserCertificateBody,
)
_STRING: Final = {"type": "string"}
_INTEGER: Final = {"type": "integer"}
_BOOLEAN: Final = {"type": "boolean"}


def _object(required: Iterable[str] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": sorted(required)}


def _array(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_PLACE: Final = _object(
    ("message",),
    file=_STRING,
    line=_INTEGER,
    column=_INTEGER,
    path=_STRING,
    message=_STRING,
    suggestion=_nullable(_STRING),
    severity=_STRING,
)
_TOKEN: Final[dict[str, Any]] = {
    "kind": _STRING,
    "name": _STRING,
    "id": _STRING,
    "identity": _STRING,
    "bindings": {"type": "object", "additionalProperties": _STRING},
    "createdAt": {"type": "number"},
    "createdBy": _STRING,
    "expiresAt": {"type": "number"},
}
_JOIN_TOKEN: Final[dict[str, Any]] = {
    "kind": _STRING,
    "name": _STRING,
    "id": _STRING,
    "role": _STRING,
    "createdAt": {"type": "number"},
    "createdBy": _STRING,
    "expiresAt": {"type": "number"},
    "usesLeft": _INTEGER,
    "former": _BOOLEAN,
    "usedBy": _array(_STRING),
}
_BACKUP: Final[dict[str, Any]] = {
    "kind": _STRING,
    "name": _STRING,
    "node": _STRING,
    "size": _INTEGER,
    "createdAt": {"type": "number"},
    "createdBy": _STRING,
    "revision": _INTEGER,
    "version": _STRING,
    "keyId": _STRING,
}
_VERDICT: Final = _object(("filter", "passed"), filter=_STRING, passed=_BOOLEAN, reason=_STRING, remedy=_STRING)
_WHY_NODE: Final = _object(
    ("node", "fits", "verdicts"),
    node=_STRING,
    fits=_BOOLEAN,
    score=_nullable({"type": "number"}),
    verdicts=_array(_VERDICT),
)
_NO_MATCH: Final = frozenset(
    {
        "ReportAnswer",
        "HeartbeatAnswer",
        "Renewed",
        "NewJoinToken",
        "Prepared",
        "Joined",
        "Membership",
        "Vote",
        "CaStatus",
        "UserCertificate",
        "Backup",
        "Verified",
    }
)
"""Answers of routes that change no object with an ETag."""
_ANSWERS: Final[dict[str, Any]] = {
    "Any": {"type": "object"},
    "Health": _object(("status",), status=_STRING, revision=_INTEGER, alarms=_array(_STRING)),
    "Version": _object(
        ("version", "apiVersion", "agents"),
        version=_STRING,
        apiVersion=_STRING,
        node=_STRING,
        agents=_object(("oldest", "newest"), oldest=_STRING, newest=_STRING),
    ),
    "Leader": _object(("leader",), leader=_nullable(_STRING)),
    "Plugins": _object(
        ("node",),
        node=_STRING,
        apiVersion=_STRING,
        usable=_BOOLEAN,
        plugins=_array({"type": "object"}),
        faults=_array({"type": "object"}),
    ),
    "Deleted": _object(("deleted",), deleted=_BOOLEAN),
    "Leaving": _object(("deleted",), deleted=_BOOLEAN, progress=_nullable(_ref("DrainProgress"))),
    "Plan": _object(
        ("plan", "warnings"),
        plan=_array(_ref("PlanEntry")),
        namespace=_nullable(_STRING),
        workload=_nullable(_STRING),
        revision=_nullable(_INTEGER),
        generation=_nullable(_INTEGER),
        warnings=_array(_STRING),
        dryRun=_BOOLEAN,
    ),
    "Why": _object(
        ("namespace", "workload", "nodes", "remedy"),
        namespace=_STRING,
        workload=_STRING,
        nodes=_array(_WHY_NODE),
        remedy=_STRING,
        waiting=_array(_object(("name", "reason"), name=_STRING, reason=_STRING)),
        revision=_INTEGER,
    ),
    "NewToken": _object(("token", "id"), token=_STRING, **_TOKEN),
    "TokenList": _object(("revision", "items"), revision=_INTEGER, items=_array(_object(("id",), **_TOKEN))),
    "NewJoinToken": _object(("token", "id"), token=_STRING, servers=_array(_STRING), **_JOIN_TOKEN),
    "JoinTokenList": _object(("revision", "items"), revision=_INTEGER, items=_array(_object(("id",), **_JOIN_TOKEN))),
    "Ca": _object(("ca", "trusted"), ca=_STRING, trusted=_STRING),
    "UserCertificate": _object(("certificate", "trusted"), certificate=_STRING, trusted=_STRING),
    "Prepared": _object(
        ("clusterId", "version", "configuration"),
        clusterId=_STRING,
        version=_STRING,
        configuration={"type": "object"},
    ),
    "Joined": _object(
        ("clusterId", "ca", "trusted", "certificate", "node", "cluster", "nodes"),
        clusterId=_STRING,
        ca=_STRING,
        trusted=_STRING,
        certificate=_STRING,
        node={"type": "object"},
        cluster={"type": "object"},
        nodes=_array({"type": "object"}),
    ),
    "Membership": _object(("members", "caKey"), members=_array({"type": "object"}), caKey=_STRING, backupKey=_STRING),
    "Backup": _object(("name", "node"), **_BACKUP),
    "BackupList": _object(
        ("node", "items"), node=_STRING, keyId=_STRING, items=_array(_object(("name", "node"), **_BACKUP))
    ),
    "Verified": _object(
        ("name", "keys"),
        name=_STRING,
        node=_STRING,
        keys=_INTEGER,
        revision=_INTEGER,
        exact=_BOOLEAN,
        seconds={"type": "number"},
    ),
    "Vote": _object(("voting",), voting={"type": "boolean"}),
    "Renewed": _object(("certificate", "ca"), certificate=_STRING, ca=_STRING),
    "LogLine": _object(
        ("instance", "node"),
        instance=_STRING,
        node=_nullable(_STRING),
        at={"type": "number"},
        stream=_STRING,
        text=_STRING,
        error=_ref("Problem"),
    ),
    "ViewLine": _object(key=_STRING, body=_nullable({"type": "object"}), synced=_INTEGER, ping=_INTEGER),
    "ReportAnswer": _object(("revision", "unknown"), revision=_INTEGER, unknown=_array(_STRING)),
    "HeartbeatAnswer": _object(("ttlSeconds",), ttlSeconds=_INTEGER, revision=_INTEGER),
    "WatchLine": _object(
        ("type", "revision", "object"),
        type={"type": "string", "enum": ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]},
        revision=_INTEGER,
        object=_nullable({"type": "object"}),
    ),
    "Problem": _object(
        ("type", "title", "status", "code", "detail", "retryable", "instance"),
        type=_STRING,
        title=_STRING,
        status=_INTEGER,
        code=_STRING,
        detail=_STRING,
        hint=_STRING,
        retryable=_BOOLEAN,
        instance=_STRING,
        errors=_array(_PLACE),
        details={"type": "object"},
    ),
}


def schemas() -> dict[str, Any]:
    """Give every schema of the document, by name."""
    made = json_schemas(_REF)
    # As validated, not as serialised: what is optional when read may be left out of an answer.
    pairs = [(model, "validation") for model in (*_MODELS, *_BODIES)]
    _, definitions = models_json_schema(pairs, by_alias=True, ref_template=_REF)  # type: ignore[arg-type]
    made.update(definitions["$defs"])
    made.update(_ANSWERS)
    for kind in ("Workload", "Revision", "Instance", "Node", "Namespace", "Event"):
        item = next(name for name in (f"{kind}Item", f"kat_platform__server__items__{kind}Item") if name in made)
        made[f"{kind}List"] = _object(("revision", "items"), revision=_INTEGER, items=_array(_ref(item)))
    return made


def document(table: Iterable[Route]) -> dict[str, Any]:
    """Describe a table of routes."""
    known = schemas()
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "KAT",
            "version": kat_platform.__version__,
            "description": "The HTTP API of a KAT cluster. Every error is a problem document (RFC 9457).",
        },
        "paths": paths,
        "components": {
            "schemas": known,
            "securitySchemes": {
                "certificate": {"type": "mutualTLS", "description": "A certificate of the cluster's CA."},
                "token": {"type": "http", "scheme": "bearer", "description": "Made by katcall token create."},
            },
        },
        "security": [{"certificate": []}, {"token": []}],
    }


def render(table: Iterable[Route]) -> bytes:
    """Give the document as JSON."""
    return json.dumps(document(table), separators=(",", ":")).encode()


def _operation(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "summary": route.summary,
        "operationId": _operation_id(route),
        "responses": {str(route.status): _answer(route, known), "default": _problem()},
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _STRING}
        for name in re.findall(r"{(\w+)(?::[^}]*)?}", route.path)
    ]
    parameters += [_query(query) for query in route.query]
    if route.method in ("PUT", "PATCH", "POST", "DELETE") and route.answer not in _NO_MATCH:
        parameters.append({"name": "If-Match", "in": "header", "required": False, "schema": _STRING})
    if parameters:
        made["parameters"] = parameters
    if route.body == "archive":
        content = {"application/gzip": {"schema": {"type": "string", "contentMediaType": "application/gzip"}}}
        made["requestBody"] = {"required": True, "content": content}
    elif route.body:
        schema = _ref(_named(route.body, known))
        content = {"application/json": {"schema": schema}}
        made["requestBody"] = {"required": route.body not in ("RollbackBody", "HeartbeatBody"), "content": content}
    if route.public:
        made["security"] = []
    return made


def _answer(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    if not route.media:
        return {"description": "Switching to a websocket."}
    schema = _ref(_named(route.answer, known)) if route.answer else _STRING
    content = {route.media: {"schema": schema}}
    if any(query.name == "watch" for query in route.query):
        content["application/x-ndjson"] = {"schema": _ref("WatchLine")}
    return {"description": "Done.", "content": content}


def _problem() -> dict[str, Any]:
    return {"description": "A problem.", "content": {"application/problem+json": {"schema": _ref("Problem")}}}


def _query(query: Query) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": query.type}
    return {
        "name": query.name,
        "in": "query",
        "required": False,
        "description": query.description,
        "schema": _array(schema) if query.repeated else schema,
    }


def _named(name: str, known: dict[str, Any]) -> str:
    """Find a schema; where two models have one name, pydantic gives them longer ones: the API's own is meant."""
    if name in known:
        return name
    return next(full for full in known if full.endswith(f"__{name}") and "server" in full)


def _operation_id(route: Route) -> str:
    words = re.findall(r"[A-Za-z0-9]+", route.path.replace("v1alpha1", ""))
    return route.method.lower() + "".join(word[:1].upper() + word[1:] for word in words)
