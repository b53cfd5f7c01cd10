"""What ``pluginConfig.kat`` may say."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from kat_platform.model.base import Model


class DnsConfig(Model):
    """Limits and times of the DNS driver; times in seconds."""

    model_config = ConfigDict(title="kat")

    ttl: int = Field(default=5, ge=0, le=3600, description="How long an answer of the cluster's zone may be kept.")
    cache_entries: int = Field(default=4096, ge=0, le=1_000_000, description="Forwarded answers kept at most.")
    cache_max_ttl: int = Field(default=3600, ge=0, le=86400, description="Longest time a forwarded answer is kept.")
    cache_negative_ttl: int = Field(default=300, ge=0, le=3600, description="The same for an answer of 'no such name'.")
    try_timeout: float = Field(default=1.5, gt=0, le=30, description="How long one upstream may take to answer.")
    forward_timeout: float = Field(default=5.0, gt=0, le=60, description="How long all upstreams may take together.")
    max_forwarded: int = Field(default=512, ge=1, le=65536, description="Queries under way to upstreams at most.")
    tcp_connections: int = Field(default=128, ge=1, le=65536, description="Open TCP connections at most.")
    tcp_idle_timeout: float = Field(default=10.0, gt=0, le=600, description="When a silent TCP connection is closed.")
