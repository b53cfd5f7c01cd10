"""The OpenAPI document is true: it has exactly what is served, and answers are as it says."""

from __future__ import annotations

import json
import re

import pytest

from kat_platform.server import routes
from kat_platform.server.openapi import document

from .samples import balancer, namespace, workload


def check(schema, value, known, path="$"):
    """Validate against the part of JSON Schema that the document uses; gives the first disagreement."""
    if "$ref" in schema:
        return check(known[schema["$ref"].rsplit("/", 1)[1]], value, known, path)
    if "anyOf" in schema:
        found = [check(each, value, known, path) for each in schema["anyOf"]]
        return None if None in found else found[0]
    if "oneOf" in schema:
        fits = None in [check(each, value, known, path) for each in schema["oneOf"]]
        return None if fits else f"{path}: none of oneOf"
    if "const" in schema and value != schema["const"]:
        return f"{path}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{path}: {value!r} is none of {schema['enum']}"
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    kind = schema.get("type")
    if kind == "null":
        return None if value is None else f"{path}: not null"
    if kind in kinds and (not isinstance(value, kinds[kind]) or (kind in ("integer", "number") and value is True)):
        return f"{path}: {value!r} is no {kind}"
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        missing = [name for name in schema.get("required", ()) if name not in value]
        if missing:
            return f"{path}: {missing} missing"
        more = schema.get("additionalProperties")
        for name, each in value.items():
            inner = properties.get(name, more if isinstance(more, dict) else None)
            if inner is None and (more is False or (properties and more is None and kind == "object")):
                return f"{path}.{name}: not described"
            if inner is not None and (found := check(inner, each, known, f"{path}.{name}")):
                return found
    if isinstance(value, list) and "items" in schema:
        for number, each in enumerate(value):
            if found := check(schema["items"], each, known, f"{path}[{number}]"):
                return found
    return None


def test_the_document_describes_exactly_the_routes():
    described = {(m.upper(), path) for path, methods in document(routes.ALL)["paths"].items() for m in methods}
    assert described == {(route.method, route.path) for route in routes.ALL}
    assert len({(r.method, r.path) for r in routes.ALL}) == len(routes.ALL), "no route twice"


def test_every_reference_leads_somewhere_and_every_operation_has_its_name():
    made = document(routes.ALL)
    known = made["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(made)):
        assert name in known, name
    operations = [each["operationId"] for methods in made["paths"].values() for each in methods.values()]
    assert len(set(operations)) == len(operations)


async def test_what_is_served_is_what_is_described(plane, admin):
    _, made, _ = await admin.ask("GET", "/openapi.json", 200)
    served = {
        (route.method, route.resource.canonical)
        for route in plane.server._runner.app.router.routes()
        if route.method not in ("*", "HEAD")
    }
    assert served == {(m.upper(), path) for path, methods in made["paths"].items() for m in methods}


@pytest.fixture
async def filled(admin):
    await admin.apply({**workload(ns="shop"), **balancer(ns="shop"), **namespace("shop")}, 201)
    await admin.post("/namespaces/shop/workloads/web/restart")
    return admin


@pytest.mark.parametrize(
    ("method", "path", "template", "body"),
    [
        ("GET", "/livez", None, None),
        ("GET", "/readyz", None, None),
        ("GET", "/v1alpha1/version", None, None),
        ("GET", "/v1alpha1/leader", None, None),
        ("GET", "/v1alpha1/plugins", None, None),
        ("GET", "/v1alpha1/workloads", None, None),
        ("GET", "/v1alpha1/nodes", None, None),
        ("GET", "/v1alpha1/namespaces", None, None),
        ("GET", "/v1alpha1/events", None, None),
        ("GET", "/v1alpha1/configuration", None, None),
        ("GET", "/v1alpha1/tokens", None, None),
        ("GET", "/v1alpha1/nodes/n1", "/v1alpha1/nodes/{name}", None),
        ("GET", "/v1alpha1/namespaces/shop", "/v1alpha1/namespaces/{name}", None),
        ("POST", "/v1alpha1/tokens", None, {"name": "ci"}),
        ("POST", "/v1alpha1/nodes/n1/cordon", "/v1alpha1/nodes/{name}/cordon", {}),
        ("GET", "/v1alpha1/namespaces/shop/workloads/web", "/v1alpha1/namespaces/{ns}/workloads/{name}", None),
        (
            "GET",
            "/v1alpha1/namespaces/shop/workloads/web/revisions",
            "/v1alpha1/namespaces/{ns}/workloads/{name}/revisions",
            None,
        ),
        (
            "POST",
            "/v1alpha1/namespaces/shop/workloads/web/scale",
            "/v1alpha1/namespaces/{ns}/workloads/{name}/scale",
            {"replicas": 1},
        ),
        ("DELETE", "/v1alpha1/namespaces/shop/workloads/web", "/v1alpha1/namespaces/{ns}/workloads/{name}", None),
    ],
)
async def test_answers_are_as_described(plane, filled, method, path, template, body):
    await plane.server.api.events.flush()
    await plane.settled()
    made = (await filled.ask("GET", "/openapi.json", 200))[1]
    status, answer, _ = await filled.ask(method, path, json=body)
    responses = made["paths"][template or path][method.lower()]["responses"]
    content = responses[str(status)]["content"]["application/json"]["schema"]
    assert check(content, answer, made["components"]["schemas"]) is None


async def test_problems_are_as_described(filled):
    made = (await filled.ask("GET", "/openapi.json", 200))[1]
    known = made["components"]["schemas"]
    for path in ("/v1alpha1/none", "/v1alpha1/namespaces/shop/workloads/none", "/v1alpha1/workloads?watch=x"):
        _, problem, _ = await filled.ask("GET", path)
        assert check(known["Problem"], problem, known) is None
    problem = await filled.apply({"workload.kat": "kind: Workload\n"}, 422)
    assert check(known["Problem"], problem, known) is None
