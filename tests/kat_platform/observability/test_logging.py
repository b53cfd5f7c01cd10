"""Logs are for people on a terminal and for programs elsewhere, and never hold a secret."""

from __future__ import annotations

import io
import json
import logging as stdlib

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from kat_platform.observability import logging
from kat_platform.observability.logging import HIDDEN, redact
from kat_platform.observability.metrics import SPECS, Metrics

TOKEN = "kat_0123456789ab_" + "f0" * 24


@pytest.fixture(autouse=True)
def _as_before():
    handlers, level = stdlib.getLogger().handlers[:], stdlib.getLogger().level
    yield
    structlog.reset_defaults()
    stdlib.getLogger().handlers[:] = handlers
    stdlib.getLogger().setLevel(level)


def test_json_where_there_is_no_terminal():
    out = io.StringIO()
    logging.configure(stream=out)
    structlog.get_logger("x").info("started", node="n1")
    stdlib.getLogger("aiohttp").warning("odd %s", "thing")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["event"], first["node"], first["level"]) == ("started", "n1", "info")
    assert (second["event"], second["logger"]) == ("odd thing", "aiohttp")


def test_key_value_on_a_terminal_and_the_level_holds():
    out = io.StringIO()
    logging.configure(stream=out, as_json=False, level="warning")
    structlog.get_logger("x").info("quiet")
    structlog.get_logger("x").warning("loud", node="n1")
    assert "quiet" not in out.getvalue()
    assert "event='loud'" in out.getvalue()
    assert "node='n1'" in out.getvalue()


def test_secrets_are_hidden_wherever_they_stand():
    out = io.StringIO()
    logging.configure(stream=out)
    log = structlog.get_logger("x")
    pem = "-----BEGIN PRIVATE KEY-----\nMIIsecret\n-----END PRIVATE KEY-----"
    log.info(f"got {TOKEN}", password="hunter2", data={"api_token": "abc", "list": [f"Bearer {TOKEN}"]}, note=pem)
    log.info("joined", text="kat-agent join 1.2.3.4 --token katjoin1_abcdefgh234567")
    try:
        raise ValueError(f"bad {TOKEN}")
    except ValueError:
        log.exception("failed")
    text = out.getvalue()
    for secret in (TOKEN, "hunter2", 'abc"', "MIIsecret", "katjoin1_abcdefgh234567"):
        assert secret not in text
    assert text.count(HIDDEN) >= 6
    assert "ValueError" in text


@given(st.recursive(st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=8))
def test_what_is_no_secret_stays(value):
    text = json.dumps(value)
    if not any(word in text.lower() for word in ("token", "secret", "pass", "auth", "bearer", "cookie", "key", "kat")):
        assert redact(value) == value


def test_every_metric_is_documented_and_prometheus_reads_them():
    metrics = Metrics()
    metrics.count("kat_api_requests_total", "GET", "nodes", "200")
    metrics.gauge("kat_leader", 1)
    metrics.observe("kat_leader_round_seconds", 0.1)
    text = metrics.render().decode()
    assert 'kat_api_requests_total{method="GET",resource="nodes",status="200"} 1.0' in text
    for spec in SPECS:
        assert f"# HELP {spec.name.removesuffix('_total')}" in text
    with pytest.raises(KeyError):
        metrics.count("kat_no_such_total")
