"""The text protocol of userspace WireGuard: requests out, answers in. Pure. https://www.wireguard.com/xplatform/."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from kat_net_wireguard.mesh import PeerChange, PeerState


def device_request(private_key: bytes, listen_port: int) -> str:
    """Write the request that sets the interface's key and port."""
    return f"set=1\nprivate_key={private_key.hex()}\nlisten_port={listen_port}\n\n"


def peers_request(changes: tuple[PeerChange, ...]) -> str:
    """Write the request that carries out ``changes`` and nothing else."""
    lines = ["set=1"]
    for change in changes:
        lines.append(f"public_key={change.public_key.hex()}")
        if change.remove:
            lines.append("remove=true")
            continue
        if change.endpoint is not None:
            lines.append(f"endpoint={write_endpoint(change.endpoint)}")
        if change.keepalive is not None:
            lines.append(f"persistent_keepalive_interval={change.keepalive}")
        if change.allowed is not None:
            lines.append("replace_allowed_ips=true")
            lines.extend(f"allowed_ip={network}" for network in sorted(change.allowed))
    return "\n".join(lines) + "\n\n"


def write_endpoint(endpoint: tuple[str, int]) -> str:
    """Write ``host:port``, an IPv6 host in brackets."""
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_endpoint(value: str) -> tuple[str, int]:
    """Read what :func:`write_endpoint` writes."""
    host, _, port = value.rpartition(":")
    return host.strip("[]"), int(port)


def error_of(answer: str) -> int:
    """Give the ``errno`` of an answer: 0 when all went well, a negative error number otherwise."""
    for line in answer.splitlines():
        if line.startswith("errno="):
            return -abs(int(line[6:]))
    return 0


def read_peers(answer: str) -> dict[bytes, PeerState]:
    """Read the peers from the answer to ``get=1``."""
    blocks: list[dict[str, list[str]]] = []
    for line in answer.splitlines():
        key, _, value = line.partition("=")
        if key == "public_key":
            blocks.append({})
        if blocks and key:
            blocks[-1].setdefault(key, []).append(value)
    states = [_state(block) for block in blocks]
    return {state.public_key: state for state in states}


def _state(block: dict[str, list[str]]) -> PeerState:
    def number(key: str) -> int:
        return int(block.get(key, ["0"])[0])

    handshake = number("last_handshake_time_sec") + number("last_handshake_time_nsec") / 1e9
    endpoint = block.get("endpoint")
    return PeerState(
        public_key=bytes.fromhex(block["public_key"][0]),
        endpoint=read_endpoint(endpoint[0]) if endpoint else None,
        allowed=frozenset(_networks(block.get("allowed_ip", []))),
        keepalive=number("persistent_keepalive_interval"),
        last_handshake_at=handshake or None,
        received_bytes=number("rx_bytes"),
        sent_bytes=number("tx_bytes"),
    )


def _networks(values: list[str]) -> list[IPv4Network]:
    networks: list[IPv4Network | IPv6Network] = [ip_network(value) for value in values]
    return [network for network in networks if isinstance(network, IPv4Network)]
