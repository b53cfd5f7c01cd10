"""Hypothesis strategies for documents as users write them: valid data of every kind, with camelCase keys.

Needs the extra ``testing``. ``documents(kind)`` gives data, ``models(kind)`` the model read from it.
"""

from __future__ import annotations

import json
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from kat_platform.model.base import API_VERSION
from kat_platform.model.documents import KINDS
from kat_platform.model.meta import RESERVED_NAMESPACES, Document

Data = dict[str, Any]

names: Final = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(
    lambda name: name not in RESERVED_NAMESPACES
)
label_values: Final = st.from_regex(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?)?", fullmatch=True)
label_keys: Final = st.one_of(names, st.builds(lambda domain, name: f"{domain}.example/{name}", names, names))
labels: Final = st.dictionaries(label_keys, label_values, max_size=3)
ports: Final = st.integers(1, 65535)
seconds: Final = st.integers(1, 86400)
counts: Final = st.integers(0, 1000)
texts: Final = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
paths: Final = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
cpus: Final = st.one_of(st.integers(1, 64), st.integers(1, 64000).map(lambda value: f"{value}m"), st.just(0.5))
memories: Final = st.one_of(
    st.integers(1, 2**40),
    st.builds(lambda value, unit: f"{value}{unit}", st.integers(1, 4096), st.sampled_from(["K", "Mi", "Gi", "M", ""])),
)
counts_or_percents: Final = st.one_of(st.integers(1, 100), st.integers(1, 100).map(lambda value: f"{value}%"))
images: Final = st.one_of(
    names,
    st.builds(lambda name, tag: f"registry.example:5000/{name}:{tag}", names, names),
    st.builds(lambda name, digit: f"localhost/{name}@sha256:{digit * 64}", names, st.sampled_from("0123456789abcdef")),
)


def _record(required: Data, optional: Data | None = None) -> SearchStrategy[Data]:
    return st.fixed_dictionaries(required, optional=optional or {})


def _unique(strategy: SearchStrategy[Data], *keys: str, size: int = 3) -> SearchStrategy[list[Data]]:
    by = tuple((lambda entry, key=key: entry.get(key, id(entry))) for key in keys)
    return st.lists(strategy, max_size=size, unique_by=by)


_metadata: Final = _record(
    {"name": names},
    {"namespace": names, "labels": labels, "annotations": st.dictionaries(label_keys, texts, max_size=2)},
)
_cluster_metadata: Final = _record({"name": names}, {"labels": labels})
_amounts: Final = _record({}, {"cpu": cpus, "memory": memories})

_git: Final = st.builds(
    lambda data, which, value: {**data, **({which: value} if which else {})},
    _record({"repository": names.map(lambda name: f"https://git.example/{name}.git")}, {"cacheImage": names}),
    st.sampled_from(["", "branch", "tag", "commit"]),
    st.from_regex(r"[0-9a-f]{7,40}", fullmatch=True),
)
_sources: Final = st.one_of(images.map(lambda image: {"image": image}), _git.map(lambda git: {"git": git}))

_environment: Final = st.one_of(
    _record({"name": st.from_regex(r"[A-JL-Z_][A-Z0-9_]{0,10}", fullmatch=True), "value": texts}),
    _record(
        {
            "name": st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True),
            "secret": _record({"name": names, "key": label_keys}),
        }
    ),
)
_security: Final = _record(
    {},
    {
        "readOnlyRootFilesystem": st.booleans(),
        "capAdd": st.lists(st.sampled_from(["NET_ADMIN", "CAP_CHOWN"]), max_size=2),
        "capDrop": st.lists(st.sampled_from(["ALL", "NET_RAW"]), max_size=2),
        "privileged": st.booleans(),
        "noNewPrivileges": st.booleans(),
    },
)
_resources: Final = st.one_of(
    _record({}, {"requests": _amounts}),
    _record({}, {"limits": _amounts, "gpu": _record({}, {"count": st.integers(1, 8), "minVramMb": seconds})}),
)
_volume: Final = st.builds(
    lambda name, kind: {"name": name, **kind},
    names,
    st.one_of(
        st.just({"simpleClusterStorage": {}}),
        _record(
            {"hostMount": _record({"hostPath": paths}, {"ensureType": st.sampled_from(["Directory", "FileOrCreate"])})}
        ),
        _record({"volume": names}),
        _record({"secret": names}),
    ),
)
_term: Final = {"labels": st.dictionaries(label_keys, label_values, min_size=1, max_size=2)}
_affinity: Final = _record(
    {},
    {
        "required": st.lists(_record(_term, {"topologyKey": label_keys}), max_size=2),
        "preferred": st.lists(_record(_term, {"weight": st.integers(1, 100)}), max_size=2),
    },
)
_toleration: Final = st.one_of(
    _record({"key": label_keys}, {"value": label_values, "effect": st.sampled_from(["NoSchedule", "NoExecute"])}),
    _record({"operator": st.just("Exists")}, {"key": label_keys}),
)
_rolling: Final = _record(
    {"maxSurge": counts_or_percents},
    {
        "maxUnavailable": counts_or_percents,
        "minReadySeconds": st.integers(0, 10),
        "progressDeadlineSeconds": st.integers(11, 1000),
        "onFailure": st.sampled_from(["Pause", "Rollback"]),
    },
)


@st.composite
def _containers(draw: st.DrawFn, volumes: list[Data]) -> Data:
    data: Data = draw(
        _record(
            {},
            {
                "command": st.lists(texts, min_size=1, max_size=3),
                "args": st.lists(texts, max_size=3),
                "env": _unique(_environment, "name"),
                "workingDir": paths,
                "user": st.sampled_from(["1000", "1000:1000", "app", "app:users"]),
                "resources": _resources,
                "stopSignal": st.sampled_from(["SIGTERM", "INT", "SIGRTMIN+3"]),
                "stopTimeoutSeconds": st.integers(0, 3600),
                "security": _security,
            },
        )
    )
    if volumes:
        mount = _record(
            {"name": st.sampled_from([volume["name"] for volume in volumes]), "mountPath": paths},
            {"subPath": names, "readOnly": st.booleans()},
        )
        data["volumeMounts"] = draw(_unique(mount, "mountPath"))
    return data


@st.composite
def _workload_specs(draw: st.DrawFn) -> Data:
    kind = draw(st.sampled_from(["Service", "Job", "DaemonService"]))
    volumes = draw(_unique(_volume, "name"))
    conditions = ["Never"] if kind == "Job" else ["Always", "Never"]
    restart = st.one_of(
        _record({"condition": st.sampled_from(conditions)}),
        _record({"condition": st.just("MaxCount"), "maxRestarts": counts}, {"resetSeconds": seconds}),
    )
    data: Data = draw(
        _record(
            {"type": st.just(kind), "source": _sources, "container": _containers(volumes)},
            {
                "updateStrategy": st.one_of(_record({"rolling": _rolling}), st.just({"type": "Simultaneous"})),
                "restartPolicy": restart,
                "nodeSelector": labels,
                "tolerations": st.lists(_toleration, max_size=2),
                "affinity": _affinity,
                "antiAffinity": _affinity,
                "spread": _record({}, {"topologyKey": label_keys, "maxSkew": st.integers(1, 5)}),
                "priority": st.integers(-1000, 1000),
                # Longer than any name from `names`, so that no workload depends on itself.
                "dependsOn": _unique(_record({"workload": names.map(lambda name: f"{name}-{'x' * 24}")}), "workload"),
            },
        )
    )
    return {**data, "volumes": volumes, **({"replicas": draw(counts)} if kind == "Service" else {})}


_check_settings: Final = {
    "initialDelaySeconds": st.integers(0, 60),
    "periodSeconds": seconds,
    "timeoutSeconds": seconds,
    "successThreshold": st.integers(1, 5),
    "failureThreshold": st.integers(1, 5),
    "onFailure": st.sampled_from(["Unready", "Restart"]),
}
_health_checks: Final = st.one_of(
    _record({"exec": _record({"command": st.lists(texts, min_size=1, max_size=3)})}, _check_settings),
    _record({"http": _record({}, {"path": paths, "port": ports, "expectedStatus": st.just(204)})}, _check_settings),
    _record({"tcp": _record({"port": ports})}, _check_settings),
)


@st.composite
def _balancer_specs(draw: st.DrawFn) -> Data:
    numbers = draw(st.lists(ports, min_size=1, max_size=3, unique=True))
    listed = [
        {
            "port": number,
            **draw(_record({}, {"containerPort": ports, "protocol": st.sampled_from(["TCP", "UDP"])} if index else {})),
            **draw(_record({}, {"nodePort": st.just(number)})),
        }
        for index, number in enumerate(numbers)
    ]
    acme: Data = {"acme": {}}
    tls = st.one_of(_record({"secretName": names}), st.just(acme))
    route = _record({"host": names.map(lambda name: f"{name}.example")}, {"path": paths, "tls": tls})
    optional = {
        "healthCheck": _health_checks,
        "ingress": _unique(route, "host"),
        "sessionAffinity": st.sampled_from(["None", "ClientIP"]),
    }
    return {"ports": listed, **draw(_record({}, optional))}


_history: Final = _record({}, {"succeeded": counts, "failed": counts})
_jobs: Final = st.one_of(
    _record({}, {"completions": seconds, "parallelism": seconds, "backoffLimit": counts, "suspend": st.booleans()}),
    _record(
        {"schedule": st.sampled_from(["* * * * *", "*/5 1-3 1,15 * mon-fri", "0 12 29 2 *"])},
        {
            "timeZone": st.sampled_from(["UTC", "Europe/Berlin"]),
            "concurrency": st.sampled_from(["Forbid", "Allow", "Replace"]),
            "activeDeadlineSeconds": seconds,
            "startingDeadlineSeconds": seconds,
            "history": _history,
        },
    ),
)
_builds: Final = _record(
    {},
    {
        "buildContext": names,
        "dockerfilePath": names.map(lambda name: f"./{name}/Dockerfile"),
        "buildArgs": st.dictionaries(st.from_regex(r"[A-Z_]{1,10}", fullmatch=True), texts, max_size=2),
        "targetStage": names,
        "platform": st.sampled_from(["linux/amd64", "linux/arm/v7"]),
        "cache": _record({"registryPath": names}),
        "timeoutSeconds": seconds,
    },
)
_clusters: Final = _record(
    {},
    {
        "clusterCidr": st.sampled_from(["10.200.0.0/16", "172.16.0.0/14"]),
        "serviceCidr": st.sampled_from(["10.201.0.0/16", "192.168.4.0/24"]),
        "nodeSubnetBits": st.integers(0, 13),
        "clusterDomain": names,
        "apiPort": st.integers(20000, 20999),
        "wireguardPort": ports,
        "dataPath": paths,
        "agentTickSeconds": st.sampled_from([0.5, 1, 4]),
        "plugins": _record({}, {"scheduler": names}),
        "pluginConfig": st.dictionaries(names, st.dictionaries(names, st.one_of(texts, st.integers(), st.booleans()))),
    },
)
_secrets: Final = st.dictionaries(label_keys, texts, min_size=1, max_size=3).map(lambda data: {"data": data})
_SPECS: Final[dict[str, SearchStrategy[Data]]] = {
    "Workload": _workload_specs(),
    "VirtualLoadBalancer": _balancer_specs(),
    "JobDefinition": _jobs,
    "BuildDefinition": _builds,
    "VolumeDefinition": _record(
        {}, {"type": st.sampled_from(["SimpleClusterStorage", "HostMount"]), "size": memories, "retain": st.booleans()}
    ),
    "Namespace": _record(
        {},
        {
            "quota": _record({}, {"cpu": cpus, "memory": memories, "instances": counts}),
            "isolation": st.sampled_from(["Open", "Private"]),
        },
    ),
    "Secret": _secrets,
    "ClusterConfiguration": _clusters,
}


def documents(kind: str) -> SearchStrategy[Data]:
    """Give valid documents of a kind as plain data, the way they stand in a ``.kat`` file."""
    metadata = _metadata if KINDS[kind].namespaced else _cluster_metadata
    return _record(
        {"apiVersion": st.just(API_VERSION), "kind": st.just(kind), "metadata": metadata, "spec": _SPECS[kind]}
    )


def models(kind: str) -> SearchStrategy[Document]:
    """Give valid documents of a kind as models."""
    model = KINDS[kind]
    return documents(kind).map(lambda data: model.model_validate_json(json.dumps(data)))
