"""Quadlets: models out of files, and each error at its place with what was meant."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.documents import KINDS
from kat_platform.quadlet import limits
from kat_platform.quadlet.parser import parse_cluster, parse_quadlet
from kat_platform.quadlet.problem import Problem, QuadletInvalid
from kat_platform.quadlet.reader import read_file
from kat_platform.testing.strategies import documents

HEAD = "apiVersion: kat.dws.rip/v1alpha1\n"
WORKLOAD = HEAD + "kind: Workload\nmetadata:\n  name: web\nspec:\n  type: Service\n  source:\n    image: app:1\n"


def document(kind: str, spec: dict[str, Any], name: str = "web", **metadata: str) -> str:
    whole = {"apiVersion": "kat.dws.rip/v1alpha1", "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}
    return f"---\n{json.dumps(whole)}\n"


def problems(text: str, **others: bytes) -> list[Problem]:
    with pytest.raises(QuadletInvalid) as caught:
        parse_quadlet({"workload.kat": text.encode(), **others})
    return list(caught.value.problems)


def lines(text: str) -> list[str]:
    return [str(problem) for problem in problems(text)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), flow=st.sampled_from([None, True, False]))
def test_yaml_model_json_model(kind: str, data: st.DataObject, flow: bool | None) -> None:
    plain = data.draw(documents(kind))
    found: list[Problem] = []
    text = yaml.safe_dump(plain, default_flow_style=flow)
    parsed = read_file(text.encode(), "f.kat", found)
    assert found == []
    (one,) = parsed
    assert one.document == KINDS[kind].from_json(json.dumps(plain))
    assert KINDS[kind].from_json(one.document.to_json()) == one.document
    again = read_file(yaml.safe_dump(one.document.to_wire()).encode(), "f.kat", found)
    assert found == []
    assert again[0].document == one.document


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("type: Service", "type: Servce", "6:9: 'spec.type' is the text 'Servce', .*; did you mean 'Service'?"),
        ("spec:\n", "spec:\n  replica: 2\n", "6:3: unknown key 'replica' in 'spec'; did you mean 'replicas'?"),
        ("spec:\n", "spec:\n  stop_timeout: 2\n", "6:3: unknown key 'stop_timeout' in 'spec'.*"),
        (
            "spec:\n",
            "spec:\n  stopSignal: INT\n",
            "6:3: unknown key 'stopSignal' in 'spec': it belongs in 'spec.container'",
        ),
        ("spec:\n", "replicas: 2\nspec:\n", "5:1: unknown key 'replicas' in a document: it belongs in 'spec'"),
        ("spec:\n", "spec:\n  replicas: -1\n", "6:13: 'spec.replicas' must be at least 0, and is the number -1"),
        (
            "spec:\n",
            'spec:\n  replicas: "2"\n',
            "6:13: .* needs a whole number, and is the text '2': remove the quotes",
        ),
        ("spec:\n", "spec:\n  replicas:\n", "6:12: 'spec.replicas' needs a whole number, and is empty"),
        ("  source:\n    image: app:1\n", "", "6:3: the key 'source' is missing in 'spec'"),
        ("    image: app:1\n", "    image: 7\n", '8:12: .* needs text, and is the number 7: write it in quotes, "7"'),
        ("    image: app:1\n", "    image: App\n", "8:12: .* is not a repository: .*; did you mean 'app'?"),
        (
            "  source:\n    image: app:1\n",
            "  source: app:1\n",
            "7:11: 'spec.source' needs a mapping, and is the text 'app:1'",
        ),
        ("name: web", "name: Web", "4:9: 'metadata.name': 'Web' is not a valid name: .*; did you mean 'web'?"),
        ("name: web", "name: web\n  labels: {on: x}", "5:12: the key on is read as true, not text: .*"),
        ("name: web", "name: web\n  labels: {a b: x}", "5:12: 'a b' is not a valid key.*"),
        ("name: web", "name: web\n  labels: {a: 1}", "5:15: 'metadata.labels.a' needs text, and is the number 1: .*"),
        ("kind: Workload", "kind: Worklod", "2:7: 'kind' is 'Worklod', .*; did you mean 'Workload'?"),
        ("kind: Workload", "knd: Workload", "2:1: unknown key 'knd' in a document; did you mean 'kind'?"),
        ("kind: Workload", "kind: ClusterConfiguration", "2:7: a ClusterConfiguration stands apart .*"),
        ("v1alpha1", "v1", "1:13: 'apiVersion' is 'kat.dws.rip/v1', .*; did you mean 'kat.dws.rip/v1alpha1'?"),
        ("apiVersion", "apiversion", "1:1: unknown key 'apiversion' in a document; did you mean 'apiVersion'?"),
        ("metadata:\n  name: web\n", "", "1:1: the key 'metadata' is missing"),
        ("spec:\n", "spec:\n  priority: 0\n  priority: 1\n", "7:3: the key 'priority' is given twice; first in line 6"),
        (
            "    image: app:1\n",
            "    image: app:1\n    git: {repository: 'https://git.example/a'}\n",
            "9:10: exactly one of .*",
        ),
        (
            "spec:\n",
            "spec:\n  container:\n    env:\n    - {name: A, value: yes}\n",
            "8:24: 'spec.container.env\\[0\\].value' needs text, and is yes .*: write it in quotes, \"yes\"",
        ),
        (
            "spec:\n",
            "spec:\n  volumes: [{name: data, simpleClusterStorage: {}}]\n  container:\n    volumeMounts:\n"
            "    - name: dta\n      mountPath: /data\n",
            "9:13: there is no volume 'dta' in spec.volumes; did you mean 'data'?",
        ),
        (
            "spec:\n",
            "spec:\n  container:\n    resources: {requests: {memory: 1Zi}}\n",
            "7:36: 'spec.container.resources.requests.memory': memory '1Zi' has an unknown unit.*",
        ),
    ],
)
def test_an_error_says_where_and_what_was_meant(old: str, new: str, expected: str) -> None:
    assert old in WORKLOAD
    found = lines(WORKLOAD.replace(old, new, 1))
    pattern = re.compile("workload.kat:" + expected.replace("?", "\\?"))
    assert any(pattern.fullmatch(line) for line in found), found


def test_every_problem_is_reported_at_once() -> None:
    text = WORKLOAD.replace("type: Service", "type: Servce\n  replicas: x\n  priority: 5000").replace("app:1", "APP")
    assert [(found.line, found.column) for found in problems(text)] == [(6, 9), (7, 13), (8, 13), (10, 12)]
    with pytest.raises(QuadletInvalid) as caught:
        parse_quadlet({"workload.kat": text.encode(), "b.kat": b"kind: [", "c.kat": b""})
    assert {found.file for found in caught.value.problems} == {"workload.kat", "b.kat", "c.kat"}
    assert str(caught.value).count("\n") == len(caught.value.problems) - 1
    assert caught.value.code == "invalid"
    assert json.dumps(caught.value.details)


@pytest.mark.parametrize(
    ("content", "line", "column", "words"),
    [
        (b"", 1, 1, "empty"),
        (b"# nothing\n", 1, 1, "empty"),
        (b"just text\n", 1, 1, "a document is a mapping"),
        (b"- a\n", 1, 1, "a document is a mapping"),
        (b"a: b\nc: caf\xe9\n", 2, 7, "not UTF-8"),
        (WORKLOAD.encode("utf-16"), 1, 1, "UTF-16"),
        (b"a: " + b"x" * limits.MAX_DOCUMENT_BYTES, 1, 1, "at most"),
        (b"a:\n\tb: 1\n", 2, 1, "tab"),
    ],
)
def test_a_file_that_is_no_document(content: bytes, line: int, column: int, words: str) -> None:
    with pytest.raises(QuadletInvalid) as caught:
        parse_quadlet({"workload.kat": content})
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (line, column)
    assert words in problem.message


def test_byte_order_mark_and_crlf_change_nothing() -> None:
    plain = parse_quadlet({"workload.kat": WORKLOAD.encode()})
    odd = parse_quadlet({"workload.kat": b"\xef\xbb\xbf" + WORKLOAD.replace("\n", "\r\n").encode()})
    assert odd.workload == plain.workload
    assert odd.files_digest != plain.files_digest
    with pytest.raises(QuadletInvalid, match=r"workload.kat:6:9: "):
        parse_quadlet({"workload.kat": WORKLOAD.replace("Service", "X").replace("\n", "\r\n").encode()})


def test_a_whole_quadlet_and_its_places() -> None:
    text = WORKLOAD + document("VirtualLoadBalancer", {"ports": [{"port": 80}]})
    found = parse_quadlet({"workload.kat": text.encode(), "data/x": b"1"})
    assert found.workload is not None
    assert [balancer.metadata.name for balancer in found.load_balancers] == ["web"]
    assert len(found.documents) == 2
    assert found.locate("Workload", "web", ("spec", "source", "image")) == ("workload.kat", 8, 12)
    assert found.locate("Workload", "web", ("spec", "source", "git")) == ("workload.kat", 8, 5)
    assert found.locate("VirtualLoadBalancer", "web", ("spec", "ports", 0, "port")).line == 10
    assert found.locate("Secret", "none").file == ""


def test_a_quadlet_of_resources_only() -> None:
    text = document("Namespace", {}, "team") + document("VolumeDefinition", {}, "data", namespace="team")
    found = parse_quadlet({"namespace.kat": text.encode()})
    assert found.workload is None
    assert [each.kind for each in found.documents] == ["Namespace", "VolumeDefinition"]


BALANCER = document("VirtualLoadBalancer", {"ports": [{"port": 80, "nodePort": 9}], "healthCheck": {"tcp": {}}})
JOB = WORKLOAD.replace("Service", "Job")
GIT = WORKLOAD.replace("image: app:1", "git: {repository: 'https://git.example/a'}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (WORKLOAD + "---\n" + WORKLOAD.replace("web", "other"), "at most one Workload"),
        (BALANCER, "belongs to a Workload"),
        (document("JobDefinition", {}), "belongs to a Workload"),
        (WORKLOAD + document("JobDefinition", {}), "needs a Workload of type Job"),
        (JOB + document("JobDefinition", {}) + document("JobDefinition", {}), "at most one JobDefinition"),
        (WORKLOAD + document("BuildDefinition", {}), "source.git"),
        (WORKLOAD + document("VirtualLoadBalancer", {"ports": [{"port": 1}]}, namespace="x"), "lies in namespace 'x'"),
        (WORKLOAD + document("Namespace", {}, "x"), "this is Namespace 'x'"),
        (WORKLOAD + BALANCER + BALANCER, "is given twice"),
        (WORKLOAD + BALANCER + BALANCER.replace('"web"', '"b"'), "this nodePort is taken"),
        (WORKLOAD + BALANCER + BALANCER.replace('"web"', '"b"'), "health check is given by"),
        (WORKLOAD + document("Secret", {"files": {"key": "tls/key"}}), "there is no file 'tls/key'"),
        (
            WORKLOAD
            + "  container: {env: [{name: A, secret: {name: s, key: pasword}}]}\n"
            + document("Secret", {"data": {"password": "x"}}, "s"),
            "Secret 's' has no key 'pasword'; did you mean 'password'?",
        ),
        (document("Namespace", {}, "x", namespace="y"), "lies in no namespace"),
        (
            document("Namespace", {}, "node"),
            "a namespace cannot be called 'node': NODE.node.DOMAIN are the names of nodes",
        ),
        (
            WORKLOAD + document("VirtualLoadBalancer", {"ports": [{"port": 1}]}, namespace="node"),
            "cannot be called 'node'",
        ),
    ],
)
def test_documents_must_fit_each_other(text: str, words: str) -> None:
    assert any(words in line for line in lines(text)), lines(text)


def test_documents_that_fit() -> None:
    parse_quadlet({"a.kat": (JOB + document("JobDefinition", {"schedule": "0 3 * * *"}) + BALANCER).encode()})
    parse_quadlet({"a.kat": (GIT + document("BuildDefinition", {})).encode()})
    parse_quadlet({"a.kat": (WORKLOAD + document("Secret", {"files": {"k": "f"}})).encode(), "f": b""})
    # Names that are not in the Quadlet are looked up when it is applied.
    parse_quadlet({"a.kat": (WORKLOAD + "  volumes: [{name: a, volume: b}, {name: c, secret: d}]\n").encode()})


def test_where_documents_are_looked_for() -> None:
    with pytest.raises(QuadletInvalid, match=r"'sub/workload\.kat' lies in a folder of its own"):
        parse_quadlet({"sub/workload.kat": WORKLOAD.encode(), "README": b""})
    many = {f"{n}.kat": WORKLOAD.encode() for n in range(limits.MAX_DOCUMENT_FILES + 1)}
    with pytest.raises(QuadletInvalid, match="at most"):
        parse_quadlet(many)


BIG_SPECS = {
    "unknown keys": "{" + ", ".join(f"replica{n}: {n}" for n in range(20_000)) + "}",
    "mounts of no volume": "{type: Service, source: {image: a}, container: {volumeMounts: ["
    + ", ".join(f"{{name: v{n}, mountPath: /{n}}}" for n in range(8_000))
    + "]}}",
    "labels": "{nodeSelector: {" + ", ".join(f"a b{n}: {n}" for n in range(20_000)) + "}}",
}


@pytest.mark.parametrize("case", BIG_SPECS)
def test_a_file_of_mistakes_costs_little(case: str) -> None:
    text = f"{HEAD}kind: Workload\nmetadata: {{name: a}}\nspec: {BIG_SPECS[case]}\n"
    started = time.process_time()
    with pytest.raises(QuadletInvalid, match="the first 100 problems; there are more") as caught:
        parse_quadlet({f"{n}.kat": text.encode() for n in range(20)})
    assert time.process_time() - started < 5
    assert len(caught.value.details["problems"]) == limits.MAX_PROBLEMS


def test_files_share_one_budget() -> None:
    half = f"{HEAD}kind: Workload\nmetadata: {{name: a}}\nspec: [{'x, ' * (limits.MAX_NODES // 2)}]\n".encode()
    with pytest.raises(QuadletInvalid, match="more than 50000 nodes") as caught:
        parse_quadlet({"a.kat": half, "b.kat": half})
    assert {problem.file for problem in caught.value.problems if "nodes" in problem.message} == {"b.kat"}


def test_no_secret_is_ever_shown() -> None:
    values = ("hunter2", "4711", "0755", "true")
    for value in values:
        for spec in (f"{{data: {{a: [{value}]}}}}", f"{{data: {{a: {value}, a: {value}}}}}", f"{{data: {value}}}"):
            text = HEAD + f"kind: Secret\nmetadata: {{name: s}}\nspec: {spec}\n"
            for problem in problems(text):
                assert value not in problem.message.replace("true or false", "")
                assert problem.suggestion is None


def test_cluster() -> None:
    text = HEAD + "kind: ClusterConfiguration\nmetadata: {name: home}\n"
    assert parse_cluster(text) == ClusterConfiguration.from_json('{"metadata": {"name": "home"}}')
    for broken, place in (
        (text + "spec: {apiPort: 9116}\n", "c.kat:4:17: apiPort 9116 is agentPort already"),
        (text + "spec: {clusterCidr: 10.101.0.0/16}\n", "c.kat:4:21: clusterCidr 10.101.0.0/16 overlaps serviceCidr"),
        (text + "---\n" + text, "c.kat:5:1: there is more than one"),
        (WORKLOAD, "c.kat:2:7: kind 'Workload' does not belong in this file"),
        ("", "c.kat:1:1: the file is empty"),
        ("a: \ud800", "c.kat:1:4: the file is not UTF-8"),
    ):
        with pytest.raises(QuadletInvalid) as caught:
            parse_cluster(broken, "c.kat")
        assert str(caught.value).startswith(place)


def test_settings_of_backups_are_taken() -> None:
    head = "apiVersion: kat.dws.rip/v1alpha1\nkind: ClusterConfiguration\nmetadata: {name: c}\n"
    spec = parse_cluster(f"{head}spec:\n  backupRetention: 3\n  backupIntervalMinutes: 5\n").spec
    assert (spec.backup_retention, spec.backup_interval_minutes) == (3, 5)
