"""Joining: who may become a node of the cluster, and as what. Pure; what it gives is written with its comparisons.

The token has been redeemed before anything here is asked, so whoever has none learns nothing about the cluster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from cryptography import x509

from kat_platform.errors import Conflict, Denied, InvalidInput, InvalidValue, Unavailable
from kat_platform.interfaces.store import Compare, Operation, Put
from kat_platform.leader.addresses import next_subnet
from kat_platform.model.base import Model
from kat_platform.model.cluster import ClusterConfigurationSpec
from kat_platform.model.node import NodeRecord, NodeReport, NodeRole
from kat_platform.model.scalars import check_label_key, check_label_value, check_name
from kat_platform.model.version import read_version, work_together
from kat_platform.state import keys

MOST_ADDRESSES: Final = 32
MOST_LABELS: Final = 64
MOST_MEMBERS: Final = 5
"""Control-plane nodes: 5 survive the loss of 2, and each further one makes every write slower."""
_PUBLIC_KEY: Final = re.compile(r"[A-Za-z0-9+/=_-]{16,128}")


class Claim(Model):
    """Says which node has a subnet or an overlay key."""

    node: str

    def put(self, key: str) -> Put:
        """Give the write that takes the claim."""
        return Put(key, self.to_json())


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim as the store has it: whose, and the revision to compare with."""

    node: str
    revision: int


@dataclass(frozen=True, slots=True)
class Applicant:
    """A machine that wants to join, as it describes itself."""

    name: str
    role: NodeRole
    public_key: str
    addresses: tuple[str, ...] = ()
    listen_port: int = 51820
    version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Members:
    """Who belongs to the cluster now, with every claim by its key; all read from the store at one moment."""

    nodes: Mapping[str, NodeRecord]
    claims: Mapping[str, Claimed]

    def free(self, key: str) -> bool:
        """Tell whether a claim may be taken: nobody has it, or only a node that was removed."""
        claimed = self.claims.get(key)
        return claimed is None or claimed.node not in self.nodes

    def unchanged(self, key: str) -> Compare:
        """Give the comparison that holds as long as nobody took or gave up the claim since."""
        claimed = self.claims.get(key)
        return Compare.unchanged(key, 0 if claimed is None else claimed.revision)


@dataclass(frozen=True, slots=True)
class Admission:
    """A node as it is admitted, and what to write for it (nothing, when it had been admitted before)."""

    record: NodeRecord
    compares: tuple[Compare, ...] = ()
    operations: tuple[Operation, ...] = ()


def refuse_role(wanted: NodeRole, granted: NodeRole) -> None:
    """Raise ``Denied`` when the token is for another role."""
    if wanted is not granted:
        raise Denied(
            f"the join token is for a {granted.value} node, not for a {wanted.value} node",
            hint=f"make one with 'katcall token create --role {wanted.value}'",
        )


def refuse_member(nodes: Mapping[str, NodeRecord], alive: Collection[str], name: str = "") -> None:
    """Raise unless the control plane may grow by ``name``: ``Conflict`` when it has all the members it may have,
    ``Unavailable`` while one is away: with one more then, the next to fail would stop the cluster.
    """
    others = [node.name for node in nodes.values() if node.role is NodeRole.CONTROL_PLANE and node.name != name]
    if len(others) >= MOST_MEMBERS:
        raise Conflict(
            f"the control plane has {len(others)} nodes already ({', '.join(sorted(others))}), which is the most",
            hint="join this machine as a worker, or remove one of them first",
        )
    away = sorted(set(others) - set(alive))
    if away:
        raise Unavailable(
            f"the control plane cannot grow while {', '.join(away)} is away: it could then lose its quorum",
            hint=f"bring it back, or 'katcall node remove {away[0]}' if it is gone for good",
        )


def refuse_skew(server: str, node: str) -> None:
    """Raise ``Conflict`` unless both versions have one major version and are at most one minor version apart."""
    if not work_together(server, node):
        raise Conflict(
            f"kat-agent {node} cannot join a cluster of version {server}: at most one minor version may lie between",
            hint=f"install kat {read_version(server)} on the new machine",
        )


def check_applicant(applicant: Applicant) -> None:
    """Raise ``InvalidInput`` for anything malformed in what a machine says of itself."""
    check_name(applicant.name)
    if not _PUBLIC_KEY.fullmatch(applicant.public_key):
        raise InvalidInput("publicKey is not the public key of an overlay network")
    if len(applicant.addresses) > MOST_ADDRESSES or len(applicant.labels) > MOST_LABELS:
        raise InvalidInput(f"at most {MOST_ADDRESSES} addresses and {MOST_LABELS} labels are accepted")
    if not 1 <= applicant.listen_port <= 65535:
        raise InvalidInput(f"listenPort {applicant.listen_port} is not between 1 and 65535")
    for address in applicant.addresses:
        try:
            IPv4Address(address)
        except ValueError:
            raise InvalidValue(f"'{address[:40]}' is not an IPv4 address") from None
    for key, value in applicant.labels.items():
        check_label_key(key)
        check_label_value(value)


def admit(applicant: Applicant, members: Members, spec: ClusterConfigurationSpec, *, now: float) -> Admission:
    """Decide under which record a machine joins. Raises ``Conflict`` for a name or a key that is taken,
    ``Unavailable`` when every subnet is.
    """
    check_applicant(applicant)
    if applicant.name in members.nodes:
        raise Conflict(
            f"there is a node '{applicant.name}' already",
            hint="choose another --name, or remove that node first if it is gone for good",
        )
    key_claim = keys.public_key_claim(applicant.public_key)
    known = {node.public_key for node in members.nodes.values()}
    if applicant.public_key in known or not members.free(key_claim):
        raise Conflict(
            "another node has this machine's overlay key: it was copied from that node",
            hint="run 'kat-agent reset' here, so that a key of its own is made",
        )
    subnet = choose_subnet(members, spec)
    subnet_claim = keys.subnet_claim(subnet)
    record = NodeRecord(
        name=applicant.name,
        role=applicant.role,
        labels=dict(applicant.labels),
        subnet=subnet,
        public_key=applicant.public_key,
        created_at=now,
    )
    # Peers reach it by this until its own agent reports; it is no sign of life.
    report = NodeReport(
        addresses=applicant.addresses,
        public_key=applicant.public_key,
        listen_port=applicant.listen_port,
        versions={"agent": applicant.version},
    )
    claim = Claim(node=applicant.name)
    return Admission(
        record,
        (
            Compare.absent(keys.node(applicant.name)),
            members.unchanged(subnet_claim),
            members.unchanged(key_claim),
        ),
        (
            Put(keys.node(applicant.name), record.to_json()),
            Put(keys.node_report(applicant.name), report.to_json()),
            claim.put(subnet_claim),
            claim.put(key_claim),
        ),
    )


def admit_again(applicant: Applicant, record: NodeRecord) -> Admission:
    """Give a node that joined with the same token and key its record once more: its first answer was lost."""
    if (record.role, record.public_key) != (applicant.role, applicant.public_key):
        raise Conflict(
            f"node '{applicant.name}' has joined already, with another role or overlay key",
            hint="choose another --name",
        )
    return Admission(record)


def choose_subnet(members: Members, spec: ClusterConfigurationSpec) -> IPv4Network:
    """Give the first subnet that no node has and nobody claims."""
    taken = {node.subnet for node in members.nodes.values() if node.subnet is not None}
    for key, claimed in members.claims.items():
        if key.startswith(keys.SUBNETS) and claimed.node in members.nodes:
            taken.add(IPv4Network(key.removeprefix(keys.SUBNETS).replace("-", "/")))
    subnet = next_subnet(spec, taken)
    if subnet is None:
        raise Unavailable(
            f"all {spec.max_nodes} node subnets of {spec.cluster_cidr} are taken", hint="remove a node that is gone"
        )
    return subnet


def note_certificate(node: str, certificate: x509.Certificate) -> Operation:
    """Give the write that notes a node's certificate, so that it can be revoked when the node is removed."""
    note = {"expiresAt": certificate.not_valid_after_utc.timestamp()}
    return Put(keys.certificate(node, certificate.serial_number), json.dumps(note).encode())
