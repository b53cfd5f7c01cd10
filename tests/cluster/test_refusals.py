"""Bad input on a real node: a clear problem with a stable code, and nothing changed."""

from __future__ import annotations

import io
import json
import ssl
import tarfile
import time
from collections.abc import Callable
from typing import Any

import pytest

from kat_platform.model.identity import UserName
from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority

from ..hostile import empty_members
from .client import Api, trust
from .conftest import Place
from .host import wait_for
from .node import ADDRESS
from .quadlets import web, workload


def packed(add: Callable[[tarfile.TarFile], None]) -> bytes:
    """Make an archive by hand."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        add(tar)
    return out.getvalue()


def member(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[Any], None]:
    """Give what adds one member."""

    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        info.size = len(data) if kind == tarfile.REGTYPE else 0
        tar.addfile(info, io.BytesIO(data))

    return add


def huge(tar: tarfile.TarFile) -> None:
    """Add a file that packs well and unpacks to 200 MB."""
    info = tarfile.TarInfo("workload.kat")
    info.size = 200 * 2**20
    with open("/dev/zero", "rb") as zeros:
        tar.addfile(info, zeros)


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n".encode() for n in range(9)
)

ARCHIVES: dict[str, Callable[[], bytes]] = {
    "not an archive": lambda: b"hello",
    "empty": lambda: b"",
    "cut off": lambda: packed(member("workload.kat"))[:-20],
    "a way out": lambda: packed(member("../workload.kat")),
    "absolute": lambda: packed(member("/workload.kat")),
    "symbolic link": lambda: packed(member("workload.kat", kind=tarfile.SYMTYPE, link="/etc/passwd")),
    "hard link": lambda: packed(member("workload.kat", kind=tarfile.LNKTYPE, link="/etc/passwd")),
    "device": lambda: packed(member("workload.kat", kind=tarfile.CHRTYPE)),
    "no YAML": lambda: packed(member("workload.kat", b"{]")),
    "YAML bomb": lambda: packed(member("workload.kat", BOMB)),
    "100,000 files": lambda: empty_members(100_000, "{:05}.kat".format),
    "unpacks to 200 MB": lambda: packed(huge),
}
"""What is sent; made by the test that sends it, since every worker of every run reads this module."""


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_that_is_none_changes_nothing(place: Place, what: str):
    before = place.node.api.get("/workloads")
    answer = place.node.api.ask("POST", "/v1alpha1/apply", ARCHIVES[what]())
    assert answer.status in (400, 413, 422), answer
    assert answer.data["code"] in ("invalid", "invalid-value", "too-large", "usage"), answer.data
    assert len(answer.data["detail"]) > 10
    assert place.node.api.get("/workloads")["items"] == before["items"]


DOCUMENTS = {
    "unknown key": ({"replcas": 2}, "replicas"),
    "wrong type": ({"replicas": "many"}, "replicas"),
    "impossible quantity": ({"container": {"resources": {"limits": {"memory": "12 elephants"}}}}, "memory"),
    "limit below request": (
        {"container": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}},
        "cpu",
    ),
    "not supported yet": ({"source": {"git": {"repository": "https://example.org/x.git"}}}, "not supported yet"),
}


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_document_with_a_fault_is_refused_with_its_place(place: Place, what: str):
    spec, words = DOCUMENTS[what]
    answer = place.node.api.apply(workload("wrong", place.name, **spec))
    assert answer.status == 422, answer
    text = answer.data["detail"] + str(answer.data.get("errors"))
    assert words in text
    assert "workload.kat" in text
    assert not place.node.api.get(f"/namespaces/{place.name}/workloads")["items"]


def test_an_unknown_namespace_is_refused(place: Place):
    answer = place.node.api.apply(workload("lost", "no-such-namespace"))
    assert (answer.status, answer.data["code"]) == (422, "invalid")
    assert "no-such-namespace" in answer.data["detail"]


def test_an_unknown_image_is_told_in_the_status_and_as_an_event(place: Place):
    place.service("nothing", image="localhost/kt/there-is-none:9")

    def told() -> Any:
        (item,) = place.instances("nothing") or [{}]
        status = item.get("status", {})
        return status if "Image" in status.get("reason", "") else None

    status = wait_for(told, "the status tells that there is no such image", 40)
    assert "there-is-none" in status["message"]
    assert not item_ready(place)
    events = wait_for(lambda: place.node.events(place.name, status["reason"]), "there is an event")
    assert events[0]["type"] == "Warning"


def item_ready(place: Place) -> bool:
    return any(item["ready"] for item in place.instances())


def test_a_node_port_can_be_had_once(place: Place):
    ports = [{"name": "http", "port": 80, "containerPort": 8080, "nodePort": 30081}]
    place.web("first", ports=ports)
    clash = place.node.api.apply(web("second", place.name, ports=ports))
    assert (clash.status, clash.data["code"]) == (409, "conflict")
    assert "30081" in clash.data["detail"]
    assert "first" in clash.data["detail"]
    ours = place.node.api.apply(web("third", place.name, ports=[{**ports[0], "nodePort": 9115}]))
    assert ours.status == 409
    assert "apiPort" in ours.data["detail"]


def test_no_room_is_explained(place: Place):
    place.service("giant", container={"resources": {"requests": {"memory": "900Gi"}}})
    (item,) = wait_for(lambda: place.instances("giant"), "there is an instance")
    wait_for(lambda: place.instances("giant")[0]["record"].get("unplaceable"), "it says why it has no node")
    assert place.instances("giant")[0]["phase"] == "Pending"
    why = place.node.api.get(f"/namespaces/{place.name}/workloads/giant/why")
    (verdict,) = why["nodes"]
    assert not verdict["fits"]
    assert any("memory" in v["reason"] for v in verdict["verdicts"] if not v["passed"])
    wait_for(lambda: place.node.events(place.name, "Unplaceable"), "there is an event")
    told = place.node.katcall("-n", place.name, "why", "giant")
    assert "memory" in told.stdout
    assert item["name"].startswith("giant-")


# --- who may ask --------------------------------------------------------------------------------------------------


def test_without_a_credential_nothing_is_told(place: Place):
    nobody = Api(place.node.outside, trust(place.node.context()["ca"]), host=ADDRESS)
    for method, path in (("GET", "/workloads"), ("POST", "/apply"), ("GET", "/nodes"), ("GET", "/tokens")):
        answer = nobody.ask(method, f"/v1alpha1{path}", b"x" if method == "POST" else None)
        assert (answer.status, answer.data["code"]) == (401, "unauthenticated"), (path, answer)
    assert nobody.ask("GET", "/metrics").status == 401
    assert nobody.ask("GET", "/livez").status == 200


def test_a_certificate_of_another_authority_is_refused(place: Place):
    cluster = json.loads((place.node.data / "node.json").read_text())["clusterId"]
    other = Authority.create(cluster)  # everything as it should be, but for who signed it
    key = certificates.make_key()
    made = other.issue_user(key.public_key(), UserName(cluster, "admin", {"*": "admin"}))
    file = place.node.folder / "forged.pem"
    file.write_bytes(certificates.certificate_pem(made) + certificates.key_pem(key))
    forged = Api(place.node.outside, trust(place.node.context()["ca"], file), host=ADDRESS)
    with pytest.raises((ssl.SSLError, OSError)):
        forged.ask("GET", "/v1alpha1/workloads")
    trusting = Api(place.node.space, trust(other.pem().decode()))
    with pytest.raises(ssl.SSLCertVerificationError):
        trusting.ask("GET", "/livez")
    assert place.node.api.ask("GET", "/readyz").status == 200


def test_tokens_end_and_can_be_withdrawn(place: Place):
    body = {"name": "kt", "role": "view", "namespaces": [place.name], "ttlSeconds": 1}
    short = place.node.api.need("POST", "/tokens", body)
    long = place.node.api.need("POST", "/tokens", {**body, "ttlSeconds": 60})
    ca = trust(place.node.context()["ca"])
    as_short, as_long = (Api(place.node.outside, ca, host=ADDRESS, token=t["token"]) for t in (short, long))
    path = f"/v1alpha1/namespaces/{place.name}/workloads"
    assert as_long.ask("GET", path).status == 200
    assert as_long.ask("DELETE", f"{path}/web").status == 403
    assert as_long.ask("GET", "/v1alpha1/namespaces/default/workloads").status == 403
    time.sleep(1.1)
    expired = as_short.ask("GET", path)
    assert (expired.status, expired.data["code"]) == (401, "unauthenticated")
    assert "expired" in expired.data["detail"]
    assert place.node.api.ask("DELETE", f"/v1alpha1/tokens/{long['id']}").status == 200
    assert as_long.ask("GET", path).status == 401
    garbled = Api(place.node.outside, ca, host=ADDRESS, token="kat_nonsense")
    assert garbled.ask("GET", path).status == 401
    log = place.node.log.read_text()
    assert short["token"] not in log
    assert long["token"] not in log


def test_katcall_says_in_one_line_that_the_api_is_down_or_a_token_is_bad(place: Place, tmp_path):
    down = place.node.katcall("get", "nodes", timeout=60)
    assert down.returncode == 0, down.stderr
    context = place.node.context()
    for change, code in (({"servers": ["https://127.0.0.1:1"]}, 1), ({"token": "kat_nonsense"}, 5)):
        broken = tmp_path / "config.json"
        broken.write_text(json.dumps({"current": "kt", "contexts": {"kt": {**context, **change}}}))
        before = dict(place.node.environment)
        place.node.environment["KAT_CONFIG"] = str(broken)
        try:
            done = place.node.katcall("get", "nodes", timeout=60)
        finally:
            place.node.environment.update(before)
        assert done.returncode == code, (change, done.returncode, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error:")
