"""Every kind: round trips, defaults of the specification, and rules between fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kat_platform.model.cluster import ClusterConfigurationSpec
from kat_platform.model.container import Resources
from kat_platform.model.documents import KINDS, json_schemas
from kat_platform.model.load_balancer import VirtualLoadBalancer, VirtualLoadBalancerSpec
from kat_platform.model.secret import Secret
from kat_platform.model.workload import Workload, WorkloadSpec
from kat_platform.testing.strategies import documents

IMAGE = {"image": "app:1"}


def spec(**fields: Any) -> WorkloadSpec:
    return WorkloadSpec.model_validate_json(json.dumps({"type": "Service", "source": IMAGE, **fields}))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_model_json_model(kind: str, data: st.DataObject) -> None:
    model = KINDS[kind]
    document = model.model_validate_json(json.dumps(data.draw(documents(kind))))
    assert document.kind == kind
    assert model.from_json(document.to_json()) == document
    assert json.loads(document.to_json()) == document.to_wire()


def test_defaults_of_a_workload() -> None:
    service = spec()
    assert service.replicas == 1
    assert service.restart_policy.condition == "Always"
    assert service.update_strategy.type == "Rolling"
    rolling = service.update_strategy.rolling
    assert (rolling.max_surge.value, rolling.max_unavailable.value) == (1, 0)
    assert (rolling.min_ready_seconds, rolling.progress_deadline_seconds, rolling.on_failure) == (0, 600, "Pause")
    assert service.container.stop_timeout_seconds == 10
    assert service.container.security.no_new_privileges
    assert spec(type="Job").restart_policy.condition == "Never"
    assert spec(type="DaemonService").restart_policy.condition == "Always"
    git = spec(source={"git": {"repository": "https://git.example/a.git"}}).source.git
    assert git is not None
    assert git.reference == ("branch", "main")


@pytest.mark.parametrize(
    "fields",
    [
        {"replicas": -1},
        {"replicas": True},
        {"replicas": "2"},
        {"replicas": 1.5},
        {"type": "DaemonService", "replicas": 3},
        {"type": "Job", "restartPolicy": {"condition": "Always"}},
        {"source": {}},
        {"source": {"image": "a", "git": {"repository": "https://git.example/a"}}},
        {"source": {"git": {"repository": "ext::sh -c id"}}},
        {"source": {"git": {"repository": "--upload-pack=x"}}},
        {"source": {"git": {"repository": "https://me:secret@git.example/a"}}},
        {"source": {"git": {"repository": "https://git.example/a", "branch": "x", "tag": "y"}}},
        {"source": {"git": {"repository": "https://git.example/a", "branch": "-x"}}},
        {"updateStrategy": {"rolling": {"maxSurge": 0, "maxUnavailable": "0%"}}},
        {"updateStrategy": {"rolling": {"minReadySeconds": 700}}},
        {"updateStrategy": {"type": "Simultaneous", "rolling": {"maxSurge": 2}}},
        {"restartPolicy": {"condition": "MaxCount"}},
        {"restartPolicy": {"condition": "Never", "maxRestarts": 3}},
        {"restartPolicy": {"maxRestarts": 3}},
        {"priority": 1001},
        {"nodeSelector": {"bad key!": "x"}},
        {"nodeSelector": {"a": "x" * 64}},
        {"tolerations": [{"value": "x"}]},
        {"tolerations": [{"key": "a", "operator": "Exists", "value": "x"}]},
        {"affinity": {"required": [{"labels": {}}]}},
        {"affinity": {"preferred": [{"labels": {"a": "b"}, "weight": 101}]}},
        {"spread": {"maxSkew": 0}},
        {"dependsOn": [{"workload": "a"}, {"workload": "a"}]},
        {"volumes": [{"name": "a", "volume": "x"}, {"name": "a", "volume": "y"}]},
        {"volumes": [{"name": "a"}]},
        {"volumes": [{"name": "a", "simpleClusterStorage": None}]},
        {"volumes": [{"name": "a", "volume": "x", "secret": "y"}]},
        {"volumes": [{"name": "a", "hostMount": {"hostPath": "etc"}}]},
        {"volumes": [{"name": "a", "hostMount": {"hostPath": "/a/../etc"}}]},
        {"container": {"volumeMounts": [{"name": "a", "mountPath": "/a"}]}},
        {"container": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
        {"container": {"env": [{"name": "A"}]}},
        {"container": {"env": [{"name": "1A", "value": "x"}]}},
        {"container": {"env": [{"name": "A", "value": "a\0b"}]}},
        {"container": {"env": [{"name": "KAT_NODE", "value": "x"}]}},
        {"container": {"env": [{"name": "A", "value": "x", "secret": {"name": "a", "key": "b"}}]}},
        {"container": {"command": []}},
        {"container": {"user": "a b"}},
        {"container": {"user": "4294967295"}},
        {"container": {"stopSignal": "SIGWHAT"}},
        {"container": {"stopTimeoutSeconds": -1}},
        {"container": {"workingDir": "tmp"}},
        {"container": {"security": {"capAdd": ["NET_EVERYTHING"]}}},
        {"container": {"security": {"capAdd": ["NET_RAW"], "capDrop": ["CAP_NET_RAW"]}}},
        {"container": {"security": {"privileged": "yes"}}},
        {"container": {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": "500m"}}}},
        {"container": {"resources": {"gpu": {"count": 0}}}},
        {"unknown": 1},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    spec()  # without the fields in question it is valid
    with pytest.raises(ValidationError):
        spec(**fields)


@pytest.mark.parametrize("path", ["/", "data", "/a/../b", "/a:b", "/a,b", "/a\0"])
def test_a_bad_mount_path_is_refused(path: str) -> None:
    volumes = [{"name": "a", "simpleClusterStorage": {}}]
    spec(volumes=volumes, container={"volumeMounts": [{"name": "a", "mountPath": "/data//x/"}]})
    with pytest.raises(ValidationError):
        spec(volumes=volumes, container={"volumeMounts": [{"name": "a", "mountPath": path}]})


def test_a_mount_path_twice_is_refused_however_it_is_written() -> None:
    volumes = [{"name": "a", "simpleClusterStorage": {}}, {"name": "b", "simpleClusterStorage": {}}]
    mounts = [{"name": "a", "mountPath": "/x"}, {"name": "b", "mountPath": "//x/"}]
    with pytest.raises(ValidationError, match="twice"):
        spec(volumes=volumes, container={"volumeMounts": mounts})


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "x" * 64, "ü"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Workload.model_validate_json(
            json.dumps({"metadata": {"name": name}, "spec": {"type": "Service", "source": IMAGE}})
        )


def test_demand_is_the_request_else_the_limit() -> None:
    resources = Resources.from_json('{"requests": {"cpu": "100m"}, "limits": {"cpu": 1, "memory": "1Mi"}}')
    assert resources.demand == (100, 1 << 20)
    assert Resources().demand == (0, 0)


def balancer(**fields: Any) -> VirtualLoadBalancerSpec:
    return VirtualLoadBalancerSpec.model_validate_json(
        json.dumps({"ports": [{"port": 80, "containerPort": 8080}], **fields})
    )


def test_defaults_of_a_load_balancer() -> None:
    found = balancer(healthCheck={"http": {"path": "/up"}}, ingress=[{"host": "a.example"}])
    port = found.ports[0]
    assert (port.name, port.protocol, port.container_port) == ("port-80", "TCP", 8080)
    assert balancer(ports=[{"port": 53, "protocol": "UDP"}]).ports[0].container_port == 53
    check = found.health_check
    assert check is not None
    assert check.http is not None
    assert check.http.port == 8080
    assert found.ingress[0].port == 80
    seconds = (check.initial_delay_seconds, check.period_seconds, check.timeout_seconds)
    assert (seconds, check.success_threshold, check.failure_threshold) == ((0, 10, 2), 1, 3)
    assert (check.on_failure, found.session_affinity) == ("Unready", "None")


@pytest.mark.parametrize(
    "fields",
    [
        {"ports": []},
        {"ports": [{"port": 0}]},
        {"ports": [{"port": 65536}]},
        {"ports": [{"port": 80}, {"port": 80, "name": "b"}]},
        {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]},
        {"ports": [{"port": 80, "nodePort": 9}, {"port": 81, "nodePort": 9}]},
        {"healthCheck": {}},
        {"healthCheck": {"tcp": {}, "http": {}}},
        {"healthCheck": {"http": {"path": "up"}}},
        {"healthCheck": {"exec": {"command": []}}},
        {"healthCheck": {"tcp": {}, "periodSeconds": 0}},
        {"ingress": [{"host": "a.example", "port": 81}]},
        {"ingress": [{"host": "a_b"}]},
        {"ingress": [{"host": "a.example", "tls": {}}]},
        {"ingress": [{"host": "a.example", "tls": {"acme": None}}]},
        {"sessionAffinity": "Cookie"},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
def test_a_load_balancer_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        balancer(**fields)


def test_the_same_port_may_serve_tcp_and_udp() -> None:
    ports = [{"port": 53, "nodePort": 53}, {"port": 53, "protocol": "UDP", "nodePort": 53}]
    assert [port.name for port in balancer(ports=ports).ports] == ["port-53", "port-53-udp"]
    assert VirtualLoadBalancer.model_fields["kind"].default == "VirtualLoadBalancer"


def test_each_node_has_its_own_subnet() -> None:
    settings_ = ClusterConfigurationSpec()
    assert (settings_.node_prefix, settings_.max_nodes) == (23, 128)
    assert str(settings_.node_subnet(0)) == "10.100.0.0/23"
    assert str(settings_.node_subnet(127)) == "10.100.254.0/23"
    assert {settings_.node_subnet(index) for index in range(128)} == set(settings_.cluster_cidr.subnets(7))


@pytest.mark.parametrize(
    "fields",
    [
        {"clusterCidr": "10.100.1.0/16"},
        {"clusterCidr": "10.100.0.0"},
        {"clusterCidr": "fd00::/64"},
        {"clusterCidr": "127.0.0.0/8"},
        {"clusterCidr": "0.0.0.0/0"},
        {"clusterCidr": "224.0.0.0/8"},
        {"serviceCidr": "10.100.3.0/24"},
        {"serviceCidr": "10.101.0.0/30"},
        {"nodeSubnetBits": 14},
        {"nodeSubnetBits": -1},
        {"apiPort": 9116},
        {"agentTickSeconds": 0},
        {"nodeLossTimeoutSeconds": 3},
        {"dataPath": "var/lib/kat"},
        {"clusterDomain": "Kat.local"},
        {"plugins": {"store": "../x"}},
        {"plugins": {"stor": "etcd"}},
        {"pluginConfig": {"podman": {"a": [None]}}},
        {"backupRetention": 0},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
def test_a_configuration_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ClusterConfigurationSpec.model_validate_json(json.dumps(fields))


def test_a_secret_is_never_shown() -> None:
    secret = Secret.from_json('{"metadata": {"name": "s"}, "spec": {"data": {"password": "hunter2"}}}')
    assert "hunter2" not in repr(secret)
    with pytest.raises(ValidationError) as caught:
        Secret.model_validate_json('{"metadata": {"name": "s"}, "spec": {"data": {"password": ["hunter2"]}}}')
    assert "hunter2" not in str(caught.value)


def test_every_kind_has_a_schema() -> None:
    schemas = json_schemas()
    assert set(KINDS) <= set(schemas)
    assert schemas["WorkloadSpec"]["properties"]["updateStrategy"]["$ref"] == "#/components/schemas/UpdateStrategy"
