"""KAT's default store: etcd, run as a child of the agent on a Unix socket, or reached elsewhere over TLS."""

from __future__ import annotations

import os

# Before gRPC is imported anywhere: its fork handlers would run, and complain, at every child the agent starts, although
# each of these calls exec at once and never uses gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

__version__ = "1.0.0"
