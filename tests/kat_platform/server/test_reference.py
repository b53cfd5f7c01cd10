"""docs/api.md is true: it lists exactly the routes and metrics there are."""

from __future__ import annotations

import re
from pathlib import Path

from kat_platform.observability.metrics import SPECS
from kat_platform.server import routes

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "api.md").read_text()


def test_every_route_is_listed():
    listed = set(re.findall(r"^\| (GET|PUT|POST|DELETE|PATCH) \| `([^`]+)` \| (.+) \|$", TEXT, re.MULTILINE))
    assert listed == {(route.method, route.path, route.summary) for route in routes.ALL}


def test_every_metric_is_listed():
    listed = set(re.findall(r"^\| `(kat_\w+)` \| (\w+) \| ([^|]+) \| (.+) \|$", TEXT, re.MULTILINE))
    assert listed == {(s.name, s.kind, ", ".join(s.labels) or "-", s.help) for s in SPECS}
