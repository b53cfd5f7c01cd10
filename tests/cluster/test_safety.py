"""What a node shows the world: listeners, file modes, secrets."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

from .conftest import Place
from .host import run
from .node import ADDRESS, RealNode


def test_only_the_api_and_the_overlay_listen_in_public(place: Place):
    place.web(replicas=2)
    place.rolled_out()
    shown = run(*place.node.inside(), "ss", "-Hlntup")
    public, private = set(), set()
    for line in shown.splitlines():
        kind, _, _, _, local, *_ = line.split()
        host, _, port = local.rpartition(":")
        host = host.partition("%")[0].strip("[]")
        own = host.startswith("127.") or host in ("::1", "10.100.0.1")
        (private if own else public).add((kind, port))
    assert public == {("tcp", "9115"), ("udp", "51820")}, shown
    assert ("udp", "53") in private
    assert ("tcp", "9116") in private


def test_the_agents_own_endpoint_takes_no_user(place: Place):
    from .client import Api, trust

    credential = place.node.folder / "admin.pem"
    agent = Api(place.node.space, trust(place.node.context()["ca"], credential), host="10.100.0.1", port=9116)
    answer = agent.ask("GET", "/agent/v1/instances/default/x/logs")
    assert answer.status == 403
    for address, space in ((ADDRESS, place.node.outside), ("10.100.0.1", place.node.outside)):
        try:
            Api(space, trust(place.node.context()["ca"]), host=address, port=9116).ask("GET", "/")
        except OSError:
            continue
        raise AssertionError(f"the agent's own endpoint answers on {address} from outside")


def test_private_files_are_private(node: RealNode):
    keys = [path for path in node.data.rglob("*") if path.suffix == ".key" or "private" in path.name]
    keys.append(node.folder / "config.json")
    assert len(keys) >= 3, keys
    for path in keys:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    containing = [
        path
        for folder in (node.data, Path("/run/kat", node.tag))
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size < 100_000 and "storage" not in path.parts and holds_key(path)
    ]
    for path in containing:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    sockets = [p for p in Path("/run/kat", node.tag).rglob("*") if p.is_socket()]
    sockets += [p for p in node.data.rglob("*") if p.is_socket() and "storage" not in p.parts]
    assert sockets
    for path in sockets:
        barred = [folder for folder in path.parents if stat.S_IMODE(folder.stat().st_mode) == 0o700]
        assert barred, f"everybody can reach {path}"
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700 or "attach" in path.parts, path
    assert stat.S_IMODE(node.data.stat().st_mode) == 0o700


def holds_key(path: Path) -> bool:
    try:
        return b"PRIVATE KEY" in path.read_bytes()
    except OSError:
        return False


def test_no_secret_is_in_the_log_in_arguments_or_in_the_environment(place: Place):
    place.web()
    place.rolled_out()
    place.node.api.need("POST", "/tokens", {"name": "kt", "role": "view", "ttlSeconds": 60})
    pem = [path.read_text() for path in place.node.data.rglob("*.key")]
    pem.append(place.node.context()["key"])
    bodies = {"".join(text.splitlines()[1:-1])[20:60] for text in pem if "BEGIN" in text}
    bodies |= {text.strip() for text in pem if "BEGIN" not in text and len(text.strip()) > 20}
    assert len(bodies) >= 3
    log = place.node.log.read_text()
    shown = json.dumps(place.node.api.get("/nodes")) + json.dumps(place.node.api.get("/workloads"))
    processes = place.node.processes()
    for pid, line in processes.items():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        for body in bodies:
            assert body not in line, f"a key is in the arguments of {pid}"
            assert body not in environment, f"a key is in the environment of {pid}"
    for body in bodies:
        assert body not in log
        assert body not in shown
    assert not re.search(r"kat_[A-Za-z0-9]{16,}", log)
    assert os.getpid() not in processes
