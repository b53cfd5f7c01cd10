"""Render: from the state of the cluster to the items the API gives. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kat_platform.leader.placement import labels_of, node_ready, taints_of
from kat_platform.leader.template import template_digest
from kat_platform.model.instance import InstanceRecord, is_ready, phase_of
from kat_platform.model.node import NodeTaint
from kat_platform.model.revision import Revision, WorkloadRecord
from kat_platform.server import index, items
from kat_platform.server.index import Index, Ref
from kat_platform.state import keys
from kat_platform.state.cluster import ClusterState


def item(state: ClusterState, instances: Index, ref: Ref) -> items.Item | None:
    """Give an object as the API shows it, or ``None`` when there is no such object."""
    match ref.collection:
        case index.WORKLOADS:
            return _workload(state, instances, ref.namespace, ref.name)
        case index.INSTANCES:
            return _instance(state, ref.namespace, ref.name)
        case index.NODES:
            return _node(state, ref.name)
        case index.REVISIONS:
            return _revision(state, ref.namespace, ref.name)
        case index.EVENTS:
            return _event(state, ref.namespace, ref.name)
        case index.NAMESPACES:
            document = state.namespaces.get(ref.name)
            if document is None:
                return None
            return items.NamespaceItem(name=ref.name, etag=_etag(state, keys.namespace(ref.name)), document=document)
        case index.CONFIGURATION:
            if state.configuration is None:
                return None
            name = state.configuration.metadata.name
            return items.ConfigurationItem(name=name, etag=_etag(state, keys.CLUSTER), document=state.configuration)
    return None


def etag(state: ClusterState, ref: Ref) -> int:
    """Give the revision of the key that stands for an object: what its ETag says."""
    if ref.collection == index.WORKLOADS:
        return _etag(state, keys.workload(ref.namespace, ref.name))
    if ref.collection == index.INSTANCES:
        return _etag(state, keys.instance(ref.namespace, ref.name))
    if ref.collection == index.NODES:
        return _etag(state, keys.node(ref.name))
    if ref.collection == index.EVENTS:
        return _etag(state, keys.event(ref.namespace, ref.name))
    if ref.collection == index.NAMESPACES:
        return _etag(state, keys.namespace(ref.name))
    if ref.collection == index.REVISIONS:
        name, _, number = ref.name.rpartition("/")
        return _etag(state, keys.revision(ref.namespace, name, int(number)))
    if ref.collection == index.TRUST:
        return _etag(state, keys.TRUST)
    return _etag(state, keys.CLUSTER)


def names(state: ClusterState, collection: str) -> Iterator[Ref]:
    """Give every object of a collection, unsorted."""
    match collection:
        case index.WORKLOADS:
            return (Ref(collection, ns, name) for ns, name in state.workloads)
        case index.INSTANCES:
            return (Ref(collection, ns, name) for ns, name in state.instances)
        case index.NODES:
            return (Ref(collection, "", name) for name in state.nodes)
        case index.NAMESPACES:
            return (Ref(collection, "", name) for name in state.namespaces)
        case index.EVENTS:
            return (Ref(collection, ns, name) for ns, name in state.events)
        case index.REVISIONS:
            return (Ref(collection, ns, f"{name}/{number}") for ns, name, number in state.revisions)
    return iter([Ref(collection, "", "cluster")] if state.configuration is not None else [])


def owner_of(state: ClusterState, ref: Ref) -> str | None:
    """Give the workload an object belongs to: an instance's, a revision's, or the one an event is about."""
    if ref.collection == index.WORKLOADS:
        return ref.name
    if ref.collection == index.INSTANCES:
        record = state.instances.get((ref.namespace, ref.name))
        return None if record is None else record.workload
    if ref.collection == index.REVISIONS:
        return ref.name.rpartition("/")[0]
    event = state.events.get((ref.namespace, ref.name)) if ref.collection == index.EVENTS else None
    if event is not None and event.object_kind == "Workload":
        return event.object_name
    if event is not None and event.object_kind == "Instance":
        return event.object_name.rpartition("-")[0]  # ids are WORKLOAD-xxxxx, also of instances that are gone
    return None


def labels(state: ClusterState, ref: Ref) -> Mapping[str, str]:
    """Give the labels by which an object is selected; an instance has its workload's."""
    if ref.collection == index.NODES:
        node = state.nodes.get(ref.name)
        return {} if node is None else labels_of(node, state.reports.get(ref.name))
    if ref.collection == index.NAMESPACES:
        namespace = state.namespaces.get(ref.name)
        return {} if namespace is None else namespace.metadata.labels
    owner = owner_of(state, ref)
    record = None if owner is None else state.workloads.get((ref.namespace, owner))
    return {} if record is None else record.labels


def wanted(state: ClusterState, record: WorkloadRecord, target: Revision | None) -> int:
    """Tell how many instances a workload is to have; of a daemon only the leader knows."""
    if record.deleting:
        return 0
    if target is not None and target.document.spec.type == "Service":
        return target.document.spec.replicas if record.replicas is None else record.replicas
    rollout = state.rollouts.get((record.namespace, record.name))
    return 0 if rollout is None else rollout.wanted


def _workload(state: ClusterState, instances: Index, ns: str, name: str) -> items.WorkloadItem | None:
    record = state.workloads.get((ns, name))
    if record is None:
        return None
    target = state.revisions.get((ns, name, record.revision))
    updated = ready = available = 0
    for id_ in instances.of_workload(ns, name):
        instance = state.instances[ns, id_]
        current = instance.generation == record.generation and _made_of(state, instance, target)
        up = is_ready(instance, state.statuses.get((ns, id_)))
        updated += current
        available += up
        ready += up and current
    return items.WorkloadItem(
        namespace=ns,
        name=name,
        etag=_etag(state, keys.workload(ns, name)),
        record=record,
        revision=None if target is None else target.model_copy(update={"files": {}}),
        rollout=state.rollouts.get((ns, name)),
        virtual_ip=state.vips.get((ns, name)),
        summary=items.Summary(wanted=wanted(state, record, target), updated=updated, ready=ready, available=available),
    )


def _made_of(state: ClusterState, instance: InstanceRecord, target: Revision | None) -> bool:
    """Tell whether an instance is what a revision asks for: made of it, or of one with the same template.

    The leader keeps such instances, after a rollback for one, so they are up to date.
    """
    if target is None or instance.revision == target.number:
        return target is not None
    own = state.revisions.get((instance.namespace, instance.workload, instance.revision))
    return own is not None and template_digest(own) == template_digest(target)


def _revision(state: ClusterState, ns: str, ref_name: str) -> items.RevisionItem | None:
    name, _, number = ref_name.rpartition("/")
    revision = state.revisions.get((ns, name, int(number)))
    if revision is None:
        return None
    version = _etag(state, keys.revision(ns, name, int(number)))
    return items.RevisionItem(
        namespace=ns, name=ref_name, etag=version, workload=name, number=int(number), revision=revision
    )


def _instance(state: ClusterState, ns: str, id_: str) -> items.InstanceItem | None:
    record = state.instances.get((ns, id_))
    if record is None:
        return None
    status = state.statuses.get((ns, id_))
    return items.InstanceItem(
        namespace=ns,
        name=id_,
        etag=_etag(state, keys.instance(ns, id_)),
        workload=record.workload,
        node=record.node,
        phase=phase_of(record, status),
        ready=is_ready(record, status),
        record=record,
        status=status,
    )


def _node(state: ClusterState, name: str) -> items.NodeItem | None:
    record = state.nodes.get(name)
    if record is None:
        return None
    ready, reason = node_ready(state, name)
    report, standing = state.reports.get(name), state.standings.get(name)
    if standing is not None and standing.held:
        reason += "; most nodes fell silent at once, so its instances are not replaced for now"
    return items.NodeItem(
        name=name,
        etag=_etag(state, keys.node(name)),
        ready=ready,
        reason=reason,
        labels=labels_of(record, report),
        taints=tuple(NodeTaint(key=t.key, value=t.value, effect=t.effect) for t in taints_of(record, report)),
        record=record,
        report=report,
        load=_load(state, name),
    )


def _load(state: ClusterState, node: str) -> items.NodeLoad:
    """Add up what the instances on a node ask of it; nothing of this is stored anywhere."""
    number = cpu = memory = 0
    for (ns, _), record in state.instances.items():
        if record.node != node or phase_of(record, state.statuses.get((ns, record.id))).terminal:
            continue
        number += 1
        revision = state.revisions.get((ns, record.workload, record.revision))
        if revision is not None:
            millicores, size = revision.document.spec.container.resources.demand
            cpu, memory = cpu + millicores, memory + size
    return items.NodeLoad(instances=number, cpu_millicores=cpu, memory_bytes=memory)


def _event(state: ClusterState, ns: str, identity: str) -> items.EventItem | None:
    event = state.events.get((ns, identity))
    if event is None:
        return None
    version = _etag(state, keys.event(ns, identity))
    return items.EventItem(namespace=event.namespace, name=identity, etag=version, event=event)


def _etag(state: ClusterState, key: str) -> int:
    return state.key_revisions.get(key, 0)
