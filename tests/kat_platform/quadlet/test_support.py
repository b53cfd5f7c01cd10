"""Lint and "not supported yet": valid is not the same as wise, nor as built."""

from __future__ import annotations

from pathlib import Path

import pytest

from kat_platform.errors import NotSupportedYet
from kat_platform.model.cluster import ClusterConfigurationSpec
from kat_platform.model.explain import explain
from kat_platform.quadlet.archive import pack, unpack
from kat_platform.quadlet.lint import lint
from kat_platform.quadlet.parser import parse_cluster, parse_quadlet
from kat_platform.quadlet.support import UNSUPPORTED, Unsupported, refuse_unsupported, unsupported

EXAMPLES = Path(__file__).parents[3] / "examples"
HEAD = "apiVersion: kat.dws.rip/v1alpha1\n"


def workload(rest: str = "", kind: str = "Service", source: str = "image: app:1") -> str:
    return f"{HEAD}kind: Workload\nmetadata: {{name: web}}\nspec:\n  type: {kind}\n  source: {{{source}}}\n{rest}"


def other(kind: str, spec: str, name: str = "web") -> str:
    return f"---\n{HEAD}kind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"


GIT = "git: {repository: 'https://git.example/a'}"
NOT_YET: dict[str, list[tuple[int, int]]] = {
    workload(kind="Job"): [(5, 9)],
    workload(kind="Job") + other("JobDefinition", "{}"): [(5, 9), (9, 7)],
    workload(source=GIT): [(6, 17)],
    workload(source=GIT) + other("BuildDefinition", "{}"): [(6, 17), (9, 7)],
    workload("  container: {env: [{name: A, value: x}, {name: B, secret: {name: s, key: k}}]}\n"): [(7, 60)],
    workload("  container: {resources: {gpu: {}}}\n"): [(7, 32)],
    workload("  volumes: [{name: a, secret: s}]\n"): [(7, 31)],
    workload("  volumes: [{name: a, volume: v}]\n"): [(7, 31)],
    workload("  dependsOn: [{workload: db}]\n"): [(7, 15)],
    workload() + other("VirtualLoadBalancer", "{ports: [{port: 80}], ingress: [{host: a.example}]}"): [(11, 39)],
    workload() + other("VolumeDefinition", "{}"): [(9, 7)],
    workload() + other("Secret", "{data: {a: b}}"): [(9, 7)],
    workload() + other("Namespace", "{quota: {instances: 1}}", "default"): [(11, 15)],
    workload() + other("Namespace", "{isolation: Private}", "default"): [(11, 19)],
}


@pytest.mark.parametrize("text", NOT_YET)
def test_what_is_not_built_is_refused_at_its_place(text: str) -> None:
    quadlet = parse_quadlet({"workload.kat": text.encode()})
    found = unsupported(quadlet)
    assert sorted((problem.line, problem.column) for problem in found) == NOT_YET[text]
    with pytest.raises(NotSupportedYet, match="not supported yet") as caught:
        refuse_unsupported(quadlet)
    assert caught.value.code == "not-supported-yet"
    assert all(problem.severity == "warning" for problem in lint({"workload.kat": text.encode()}))


def test_everything_else_is_supported() -> None:
    text = workload(
        """  replicas: 3
  updateStrategy: {type: Simultaneous}
  restartPolicy: {condition: MaxCount, maxRestarts: 3}
  nodeSelector: {disk: ssd}
  tolerations: [{operator: Exists}]
  affinity: {preferred: [{labels: {app: db}, weight: 5}]}
  antiAffinity: {required: [{labels: {app: web}}]}
  spread: {maxSkew: 1}
  priority: 10
  volumes: [{name: a, simpleClusterStorage: {}}, {name: b, hostMount: {hostPath: /srv}}]
  container: {user: "1000", security: {capDrop: [ALL]}, resources: {limits: {cpu: 1}}}
"""
    )
    balancer = (
        "{ports: [{port: 80, nodePort: 80}], sessionAffinity: ClientIP, healthCheck: {tcp: {}, onFailure: Restart}}"
    )
    quadlet = parse_quadlet({"a.kat": (text + other("VirtualLoadBalancer", balancer)).encode()})
    assert unsupported(quadlet) == []
    refuse_unsupported(quadlet)
    refuse_unsupported(parse_quadlet({"a.kat": workload(kind="DaemonService").encode()}))


@pytest.mark.parametrize("rule", UNSUPPORTED, ids=lambda rule: rule.what)
def test_every_rule_names_a_field_that_exists(rule: Unsupported) -> None:
    assert explain(".".join([rule.kind, *(part for part in rule.path if part != "*")]))


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("", "no health check"),
        ("", "no CPU is requested"),
        ("", "no memory is requested"),
        ("  container: {security: {privileged: true}}\n", "all rights"),
        ("  volumes: [{name: a, simpleClusterStorage: {}}]\n", "is not mounted"),
        ("  replicas: 2\n  volumes: [{name: a, simpleClusterStorage: {}}]\n", "one node"),
    ],
)
def test_lint_warns(rest: str, words: str) -> None:
    found = lint({"workload.kat": workload(rest).encode()})
    assert any(words in problem.message for problem in found)
    assert {problem.severity for problem in found} == {"warning"}


def test_lint_warns_of_a_moving_image_and_of_files_that_are_not_read() -> None:
    files = {"workload.kat": workload(source="image: app").encode(), "sub/a.kat": b"", "vlb.yaml": HEAD.encode()}
    texts = [str(problem) for problem in lint(files)]
    assert any(text.startswith("workload.kat:6:19: warning: image 'app:latest' may mean") for text in texts)
    assert any(text.startswith("sub/a.kat:1:1: warning: ") for text in texts)
    assert any("rename it to vlb.kat" in text for text in texts)


def test_lint_gives_errors_too() -> None:
    found = lint({"workload.kat": workload("  replica: 1\n").encode()})
    assert [problem.severity for problem in found] == ["error"]
    assert lint({"cluster.kat": b"x"})[0].severity == "error"


def test_the_examples_are_clean_and_the_configuration_shows_every_default() -> None:
    service = unpack(pack(EXAMPLES / "simple-service"))
    assert lint(service) == []
    refuse_unsupported(parse_quadlet(service))
    assert {problem.message.rpartition(" is ")[2] for problem in lint(read("job"))} == {"not supported yet"}
    text = (EXAMPLES / "cluster.kat").read_text()
    assert parse_cluster(text).spec == ClusterConfigurationSpec()
    for child in explain("ClusterConfiguration.spec").children:
        assert f"\n  {child.name}:" in text


def read(name: str) -> dict[str, bytes]:
    return unpack(pack(EXAMPLES / name))
