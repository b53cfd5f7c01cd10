"""Keys: where everything lies in the store. The only place that knows the layout.

Keys with an owner in the comment are written by that party only, so writers never fight over a key.
"""

from __future__ import annotations

from hashlib import sha256
from ipaddress import IPv4Network

ROOT = "/kat/v1/"

CLUSTER = ROOT + "cluster"  # the configuration; API
IDENTITY = ROOT + "identity"  # the cluster's id and format version; init
RESTORED = ROOT + "restored"  # when the state was last restored from a backup: {"id", "at", ...}; recover
ELECTION = ROOT + "leader"  # the store's election
NODES = ROOT + "nodes/"  # NodeRecord; join, operator, leader (subnet)
NODE_REPORTS = ROOT + "reports/"  # NodeReport; that node's agent, through the API
ALIVE = ROOT + "alive/"  # bound to the node's lease; the agent's heartbeat, through the API
STANDINGS = ROOT + "standings/"  # NodeStanding; leader
NAMESPACES = ROOT + "namespaces/"  # Namespace document; API
WORKLOADS = ROOT + "workloads/"  # WorkloadRecord; API
REVISIONS = ROOT + "revisions/"  # Revision, immutable; API
ROLLOUTS = ROOT + "rollouts/"  # Rollout; leader
VIPS = ROOT + "vips/"  # {"address": ...}; leader
INSTANCES = ROOT + "instances/"  # InstanceRecord; leader
STATUSES = ROOT + "statuses/"  # InstanceStatus; the node's agent, through the API
PINS = ROOT + "pins/"  # where a SimpleClusterStorage volume lies; leader
EVENTS = ROOT + "events/"  # Event; anyone through the recorder
TOKENS = ROOT + "tokens/"  # bearer tokens, hashed; API
REVOKED = ROOT + "revoked/"  # serial numbers of revoked certificates; API
AUDIT = ROOT + "audit/"  # audit records; API
SECRETS = ROOT + "secrets/"  # encrypted; API
VOLUMES = ROOT + "volumes/"  # VolumeDefinition documents; API
JOIN_TOKENS = ROOT + "join-tokens/"  # hashed; API
SUBNETS = ROOT + "subnets/"  # who has a node subnet: {"node": ...}; whoever gives it: init, join, leader
PUBLIC_KEYS = ROOT + "public-keys/"  # who has an overlay key: {"node": ...}; init, join
TRUST = ROOT + "trust"  # TrustRecord: the CAs; API, and the leader moves a change of the CA on
CERTIFICATES = ROOT + "certificates/"  # serial numbers given to a node, to revoke them with it; init, join, renewal

CLUSTER_SCOPE = "_cluster"
"""Stands for the namespace in keys of events about objects of the cluster."""


def node(name: str) -> str:
    """Key of a node's record."""
    return NODES + name


def node_report(name: str) -> str:
    """Key of a node's report."""
    return NODE_REPORTS + name


def alive(name: str) -> str:
    """Key that exists as long as a node's lease does."""
    return ALIVE + name


def standing(name: str) -> str:
    """Key of the leader's word on a node."""
    return STANDINGS + name


def namespace(name: str) -> str:
    """Key of a namespace."""
    return NAMESPACES + name


def workload(ns: str, name: str) -> str:
    """Key of a workload's record."""
    return f"{WORKLOADS}{ns}/{name}"


def revisions_of(ns: str, name: str) -> str:
    """Prefix of a workload's revisions."""
    return f"{REVISIONS}{ns}/{name}/"


def revision(ns: str, name: str, number: int) -> str:
    """Key of one revision; sorts by number."""
    return f"{revisions_of(ns, name)}{number:08d}"


def rollout(ns: str, name: str) -> str:
    """Key of a workload's rollout."""
    return f"{ROLLOUTS}{ns}/{name}"


def vip(ns: str, name: str) -> str:
    """Key of a workload's virtual IP."""
    return f"{VIPS}{ns}/{name}"


def instance(ns: str, instance_id: str) -> str:
    """Key of an instance's record."""
    return f"{INSTANCES}{ns}/{instance_id}"


def status(ns: str, instance_id: str) -> str:
    """Key of an instance's status."""
    return f"{STATUSES}{ns}/{instance_id}"


def pin(ns: str, workload_name: str, volume: str) -> str:
    """Key of the record that says on which node a volume lies."""
    return f"{PINS}{ns}/{workload_name}/{volume}"


def event(ns: str, identity: str) -> str:
    """Key of an event; ``ns`` is empty for objects of the cluster."""
    return f"{EVENTS}{ns or CLUSTER_SCOPE}/{identity}"


def token(token_id: str) -> str:
    """Key of a bearer token's hash."""
    return TOKENS + token_id


def join_token(token_id: str) -> str:
    """Key of a join token's hash."""
    return JOIN_TOKENS + token_id


def subnet_claim(subnet: IPv4Network) -> str:
    """Key of the claim on a node subnet: written with a comparison, so that no two nodes ever get the same."""
    return SUBNETS + str(subnet).replace("/", "-")


def public_key_claim(public_key: str) -> str:
    """Key of the claim on an overlay key; keys contain slashes, so their hash stands for them."""
    return PUBLIC_KEYS + sha256(public_key.encode()).hexdigest()


def certificate(node_name: str, serial: int) -> str:
    """Key of the note that a node was given a certificate."""
    return f"{CERTIFICATES}{node_name}/{serial:x}"


def revoked(serial: int) -> str:
    """Key that says a certificate is refused everywhere."""
    return f"{REVOKED}{serial:#x}"


def split(key: str, prefix: str) -> tuple[str, ...]:
    """Give the parts of a key behind ``prefix``."""
    return tuple(key[len(prefix) :].split("/"))
