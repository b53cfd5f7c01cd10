"""A workload from apply to answering, and everything one may ask of it while it runs."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path

from . import host
from .client import Api, fetch
from .conftest import Place
from .host import run, wait_for
from .images import WEB_NEXT
from .node import DOMAIN


def test_a_web_server_answers_through_its_virtual_ip(place: Place):
    answer = place.web(replicas=2)
    assert {(entry["action"], entry["kind"]) for entry in answer["plan"]} >= {("create", "Workload")}
    place.rolled_out()
    address = place.node.virtual_ip(place.name, "web")
    assert fetch(place.node.space, address, 80) == (200, "one\n")
    seen = {fetch(place.node.space, address, 80, "/cgi-bin/who")[1].split()[0] for _ in range(20)}
    assert seen == {item["name"] for item in place.instances()}
    assert {entry["action"] for entry in place.web(replicas=2)["plan"]} == {"none"}, "the same again is no change"
    assert place.node.workload(place.name, "web")["record"]["revision"] == 1


def test_names_are_answered_as_the_table_says(place: Place):
    place.web(replicas=2)
    place.service("plain", replicas=2)
    place.rolled_out()
    place.rolled_out("plain")
    zone, dig = f"{place.name}.{DOMAIN}", place.node.dig
    addresses = {item["status"]["address"] for item in place.instances("web")}
    plain = {item["status"]["address"] for item in place.instances("plain")}
    one = place.instances("web")[0]
    address = place.node.virtual_ip(place.name, "web")
    assert dig("+short", f"web.{zone}").split() == [address]
    assert set(dig("+short", f"plain.{zone}").split()) == plain
    assert set(dig("+short", f"instances.web.{zone}").split()) == addresses
    assert dig("+short", f"{one['name']}.web.{zone}").split() == [one["status"]["address"]]
    assert dig("+short", f"_http._tcp.web.{zone}", "SRV").split()[2:] == ["80", f"web.{zone}."]
    assert dig("+short", f"n1.node.{DOMAIN}").split() == ["10.100.0.1"]
    assert dig("+short", "-x", one["status"]["address"]).split() == [f"{one['name']}.web.{zone}."]
    assert "status: NXDOMAIN" in (missing := dig(f"nobody.{zone}"))
    assert "SOA" in missing
    nodata = dig(f"web.{zone}", "MX")
    assert "status: NOERROR" in nodata
    assert "ANSWER: 0" in nodata
    assert dig("+tcp", "+short", f"web.{zone}").split() == [address]
    assert dig("+short", f"wEb.{zone}").split() == [address]
    place.post("plain", "scale", {"replicas": 1})
    place.rolled_out("plain")
    wait_for(lambda: len(dig("+short", f"plain.{zone}").split()) == 1, "the name follows", 5)


def test_a_command_in_a_container_resolves_names_and_reaches_virtual_ips(place: Place):
    place.web()
    place.rolled_out()
    katcall = place.node.katcall
    where = ("-n", place.name, "exec", "web", "--")
    resolved = katcall(*where, "nslookup", f"web.{place.name}.{DOMAIN}")
    assert place.node.virtual_ip(place.name, "web") in resolved.stdout, resolved
    for name in ("web", f"web.{place.name}", f"web.{place.name}.{DOMAIN}"):
        page = katcall(*where, "wget", "-q", "-O", "-", f"http://{name}/")
        assert (page.returncode, page.stdout) == (0, "one\n"), (name, page)
    assert katcall(*where, "sh", "-c", "echo out; echo err >&2; exit 7").returncode == 7
    split = katcall(*where, "sh", "-c", "echo out; echo err >&2")
    assert (split.stdout, split.stderr) == ("out\n", "err\n")
    assert katcall(*where, "cat", input="through stdin").returncode in (0, 1)
    missing = katcall(*where, "no-such-program")
    assert missing.returncode != 0
    assert missing.stderr.strip()


def test_source_addresses_survive_inside_the_cluster(place: Place):
    place.web()
    place.service("client", container={"command": ["/bin/sleep", "1000"], "stopTimeoutSeconds": 0})
    place.rolled_out()
    place.rolled_out("client")
    (client,) = place.instances("client")
    url = f"http://web.{place.name}.{DOMAIN}/cgi-bin/who"
    told = place.node.katcall("-n", place.name, "exec", "client", "--", "wget", "-q", "-O", "-", url)
    assert told.stdout.split()[1].strip("[]").removeprefix("::ffff:") == client["status"]["address"], told


def test_logs_are_merged_and_followed(place: Place):
    shout = 'echo "begun $(hostname)"; n=0; while :; do n=$((n+1)); echo "line $n"; sleep 0.2; done'
    command = {"command": ["/bin/sh", "-c", f"trap 'exit 0' TERM; {shout}"]}
    place.service("talk", replicas=2, container=command)
    place.rolled_out("talk")
    names = {item["name"] for item in place.instances("talk")}
    path = f"/namespaces/{place.name}/workloads/talk/logs"

    def whole() -> list[dict]:
        text = place.node.api.ask("GET", f"/v1alpha1{path}").data
        return [json.loads(line) for line in text.splitlines()]

    lines = wait_for(lambda: (found := whole()) and len(found) >= 6 and found, "some lines")
    assert {line["instance"] for line in lines} == names
    assert {line["text"] for line in lines} >= {f"begun {name}" for name in names}
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    with place.node.caller().lines(path, follow="true", tail="1") as stream:
        seen = [next(stream) for _ in range(10)]
    assert {line["instance"] for line in seen} == names
    tail = place.node.katcall("-n", place.name, "logs", "talk", "--tail", "3")
    assert tail.returncode == 0, tail.stderr
    assert "line" in tail.stdout


def test_memory_over_the_limit_is_told_as_what_it_is(place: Place):
    eat = "sleep 0.3; dd if=/dev/zero of=/dev/null bs=200M count=100"
    place.service(
        "greedy",
        container={"command": ["/bin/sh", "-c", eat], "resources": {"limits": {"memory": "16Mi"}}},
        restartPolicy={"condition": "Never"},
    )

    def killed() -> bool:
        (item,) = place.instances("greedy") or [{}]
        return item.get("status", {}).get("reason") == "OOMKilled"

    wait_for(killed, "it is told as OOMKilled", 30)
    wait_for(lambda: place.node.events(place.name, "Exited"), "the event is there")
    assert "memory" in place.node.events(place.name, "Exited")[0]["message"]


def test_limits_reach_the_kernel(place: Place):
    place.service("limited", container={"resources": {"limits": {"memory": "48Mi", "cpu": "500m"}}})
    place.rolled_out("limited")
    pid = place.instances("limited")[0]["status"]["pid"]
    groups = [line.split(":") for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    found = {name: path for _, names, path in groups for name in (names.split(",") if names else ["unified"])}
    root = "/sys/fs/cgroup"
    if "memory" in found:  # version 1
        memory = Path(f"{root}/memory{found['memory']}/memory.limit_in_bytes").read_text()
        folder = Path(f"{root}/cpu{found['cpu']}")
        quota, period = (int((folder / f"cpu.cfs_{what}_us").read_text()) for what in ("quota", "period"))
    else:
        memory = Path(f"{root}{found['unified']}/memory.max").read_text()
        quota, period = map(int, Path(f"{root}{found['unified']}/cpu.max").read_text().split())
    assert int(memory) == 48 * 2**20
    assert quota / period == 0.5


def test_a_simultaneous_update_stops_all_before_it_starts_any(place: Place):
    strategy = {"type": "Simultaneous"}
    place.web(replicas=2, updateStrategy=strategy)
    place.rolled_out()
    old = place.node.pids(place.name, "web")
    place.web(replicas=2, image=WEB_NEXT, updateStrategy=strategy)
    place.rolled_out()
    new = place.instances("web")
    assert not any(host.alive(pid) for pid, _ in old.values())
    assert {item["record"]["revision"] for item in new} == {2}
    stopped = wait_for(
        lambda: [e["lastAt"] for e in place.node.events(place.name, "Stopping")], "that they were stopped is told", 10
    )
    started = [i["status"]["startedAt"] for i in new]
    assert max(stopped) <= min(started)
    assert fetch(place.node.space, place.node.virtual_ip(place.name, "web"), 80) == (200, "two\n")


def test_restart_and_rollback_replace_instances_and_keep_history(place: Place):
    place.web()
    place.rolled_out()
    first = place.instances("web")[0]["name"]
    place.post("web", "restart")
    place.rolled_out()
    second = place.instances("web")[0]["name"]
    assert second != first
    place.web(image=WEB_NEXT)
    place.rolled_out()
    address = place.node.virtual_ip(place.name, "web")
    assert fetch(place.node.space, address, 80) == (200, "two\n")
    place.post("web", "rollback")
    place.rolled_out()
    assert fetch(place.node.space, address, 80) == (200, "one\n")
    history = place.node.api.get(f"/namespaces/{place.name}/workloads/web/revisions")["items"]
    assert [item["number"] for item in history] == [1, 2, 3]


def test_a_daemon_runs_once_on_the_node(place: Place):
    place.service("daemon", type="DaemonService")
    place.rolled_out("daemon")
    (item,) = place.instances("daemon")
    assert item["node"] == place.node.name
    answer = place.node.api.ask("POST", f"/v1alpha1/namespaces/{place.name}/workloads/daemon/scale", {"replicas": 2})
    assert answer.status == 422


def test_a_volume_survives_its_instances(place: Place):
    spec = {
        "container": {
            "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; echo x >> /data/starts; while :; do sleep 0.1; done"],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        },
        "volumes": [{"name": "data", "simpleClusterStorage": {}}],
    }
    place.service("keeps", **spec)
    place.rolled_out("keeps")
    place.post("keeps", "restart")
    place.rolled_out("keeps")
    count = ("-n", place.name, "exec", "keeps", "--", "wc", "-l", "/data/starts")
    wait_for(lambda: place.node.katcall(*count).stdout.split()[:1] == ["2"], "both starts wrote to the same volume", 10)
    place.delete("keeps")
    (file,) = (place.node.folder / "volumes").rglob("starts")
    assert file.read_text() == "x\nx\n"


def test_a_node_port_answers_from_outside_and_nothing_else_does(place: Place):
    ports = [{"name": "http", "port": 80, "containerPort": 8080, "nodePort": 30080}]
    place.web(ports=ports)
    place.rolled_out()
    outside = place.node.outside
    assert fetch(outside, "192.0.2.1", 30080) == (200, "one\n")
    run("nsenter", f"--net={outside.path}", "ip", "route", "add", "10.96.0.0/11", "via", "192.0.2.1")
    try:
        for address in (place.node.virtual_ip(place.name, "web"), place.instances()[0]["status"]["address"]):
            try:
                fetch(outside, address, 80 if address.startswith("10.101") else 8080, timeout=1)
            except OSError:
                continue
            raise AssertionError(f"{address} can be reached from outside")
    finally:
        run("nsenter", f"--net={outside.path}", "ip", "route", "del", "10.96.0.0/11")
    place.delete("web")
    try:
        fetch(outside, "192.0.2.1", 30080, timeout=2)
    except OSError:
        return
    raise AssertionError("the port still answers after its workload was deleted")


def test_a_connection_to_an_instance_that_goes_is_reset_and_not_left_hanging(place: Place):
    hold = ["/bin/sh", "-c", "trap '' TERM; while :; do nc -l -p 8080 -e sleep 1000; done"]
    place.web(check=None, container={"command": hold, "stopTimeoutSeconds": 1})
    place.rolled_out()
    address = place.node.virtual_ip(place.name, "web")
    ended = threading.Event()

    def wait_for_the_end() -> None:
        import socket

        place.node.space.enter()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:  # until nc listens
            try:
                with socket.create_connection((address, 80), 2) as plain:
                    plain.settimeout(30)
                    plain.sendall(b"x")
                    plain.recv(1)
                    ended.set()
                    return
            except ConnectionRefusedError:
                time.sleep(0.1)
            except ConnectionResetError:
                ended.set()
                return

    thread = threading.Thread(target=wait_for_the_end, daemon=True)
    thread.start()
    time.sleep(1)
    place.delete("web")
    assert ended.wait(10), "the client still waits for a container that is gone"
    thread.join(5)


def test_katcall_applies_waits_and_shows_like_a_user_would(place: Place, tmp_path):
    from .quadlets import web

    for name, text in web("shop", place.name, replicas=2).items():
        (tmp_path / name).write_text(text)
    katcall = place.node.katcall
    done = katcall("apply", str(tmp_path), "--wait", "--timeout", "60s")
    assert done.returncode == 0, (done.stdout, done.stderr)
    rows = json.loads(katcall("-n", place.name, "get", "instances", "-o", "json").stdout)
    items = rows["items"] if isinstance(rows, dict) else rows
    assert len(items) == 2
    assert all(item["ready"] for item in items)
    assert katcall("diff", str(tmp_path)).returncode == 0
    assert katcall("-n", place.name, "get", "workloads", "nobody").returncode == 3
    assert katcall("get", "no-such-kind").returncode == 2
    assert katcall("-n", place.name, "delete", "workload", "shop").returncode in (0, 2)


def test_a_watch_tells_every_step(place: Place):
    api: Api = place.node.caller()
    with api.lines(f"/namespaces/{place.name}/instances", watch="true") as lines:
        assert next(lines)["type"] == "BOOKMARK"
        place.service("seen")
        phases = []
        for line in lines:
            phases.append(line["object"]["phase"])
            if line["object"]["ready"]:
                break
    assert phases[-1] == "Running"
    assert "Preparing" in phases


def test_two_agents_do_not_run_on_one_data_path(place: Place):
    done = place.node.command("run", "--data-path", str(place.node.data), timeout=20)
    assert done.returncode == 4
    assert "another kat-agent" in done.stderr
    again = place.node.command("init", "--config", str(place.node.config), timeout=20)
    assert again.returncode == 4
    assert "initialised already" in again.stderr
    busy = place.node.command("reset", "--data-path", str(place.node.data), "--yes", timeout=20)
    assert busy.returncode == 4, busy.stderr
    assert isinstance(busy, subprocess.CompletedProcess)
    assert place.node.api.ask("GET", "/readyz").status == 200
