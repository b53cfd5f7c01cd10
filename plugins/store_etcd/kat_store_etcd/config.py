"""What can be said of the store under ``pluginConfig.etcd`` in ``cluster.kat``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from kat_platform.model.base import Model


class EtcdConfig(Model):
    """Settings of the etcd store; with ``endpoints`` it uses an etcd run by somebody else."""

    binary: str = Field("etcd", description="etcd's program: a name looked up in PATH, or a path")
    endpoints: tuple[str, ...] = Field(
        (), description="HOST:PORT of an etcd run elsewhere; empty: the agent runs one itself, as a child"
    )
    ca_file: str = Field("", description="with endpoints: CA certificate (PEM) the servers are checked against")
    cert_file: str = Field("", description="with endpoints: this client's certificate (PEM)")
    key_file: str = Field("", description="with endpoints: this client's private key (PEM)")
    peer_cert_file: str = Field("", description="certificate (PEM) with which members know each other; empty: no TLS")
    peer_key_file: str = Field("", description="private key (PEM) of the peer certificate")
    peer_ca_file: str = Field("", description="CA certificate (PEM) that signs the peers' certificates")
    peer_listen_url: str = Field("", description="URL to listen on for peers; empty: the URL peers are told")
    heartbeat_interval_ms: int = Field(100, ge=10, le=10_000, description="how often a store leader shows itself")
    election_timeout_ms: int = Field(1000, ge=50, le=50_000, description="silence after which members elect anew")
    compaction_mode: Literal["periodic", "revision"] = Field(
        "periodic", description="whether history is kept for a time or for a number of revisions"
    )
    compaction_retention: str = Field("1h", pattern=r"^\d+[hms]?$", description="how much history is kept: 1h or 10000")
    quota_mib: int = Field(
        2048, ge=16, le=8192, description="largest size of the database; beyond it writes are refused"
    )
    snapshot_count: int = Field(
        5000, ge=100, description="writes between two snapshots of the log, which etcd keeps in memory up to there"
    )
    memory_limit_mib: int = Field(
        0, ge=0, description="soft limit of etcd's heap; 0: none. Too low a limit costs CPU, not data"
    )
    gc_percent: int = Field(50, ge=10, le=400, description="how much garbage etcd lets gather, in percent of live data")
    request_timeout_seconds: float = Field(10.0, gt=0, le=120, description="deadline of each single request")
    retry_seconds: float = Field(5.0, ge=0, le=60, description="how long a request is tried again while etcd restarts")
    start_timeout_seconds: float = Field(
        30.0, gt=0, le=600, description="how long the agent waits for etcd at its start"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.election_timeout_ms < 5 * self.heartbeat_interval_ms:
            raise ValueError("electionTimeoutMs must be at least 5 times heartbeatIntervalMs")
        for parts in (("cert_file", "key_file"), ("peer_cert_file", "peer_key_file", "peer_ca_file")):
            given = [part for part in parts if getattr(self, part)]
            if given and len(given) != len(parts):
                raise ValueError(f"{', '.join(parts)} go together: give all of them or none")
        return self

    @property
    def external(self) -> bool:
        """Whether etcd is run by somebody else."""
        return bool(self.endpoints)
