"""What each command of katcall does against a live API, with its output and exit code."""

from __future__ import annotations

import json
import threading
import time

import pytest

from kat_platform.cli import main
from kat_platform.model.event import Event, EventType
from kat_platform.model.instance import InstanceRecord, InstanceStatus, Phase
from kat_platform.model.revision import Rollout, RolloutState
from kat_platform.server.requests import answer_json
from kat_platform.state import keys

WORKLOAD = """apiVersion: kat.dws.rip/v1alpha1
kind: Workload
metadata: {name: web, labels: {app: web}}
spec: {type: Service, replicas: 2, source: {image: 'example/web:1'}}
"""
BALANCER = """apiVersion: kat.dws.rip/v1alpha1
kind: VirtualLoadBalancer
metadata: {name: web}
spec: {ports: [{port: 80, containerPort: 8080, nodePort: 30080}]}
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "workload.kat").write_text(WORKLOAD)
    (folder / "VirtualLoadBalancer.kat").write_text(BALANCER)
    return folder


def run_instances(cluster, *, revision=1, generation=0, ready=True, phase=Phase.RUNNING, **status):
    """Do what leader and agent would: two instances of the workload."""
    for number in (1, 2):
        id_ = f"web-{revision}{generation}{number:03d}"
        record = InstanceRecord(
            id=id_, namespace="default", workload="web", revision=revision, generation=generation, node="n1",
            created_at=time.time(),
        )  # fmt: skip
        cluster.put(keys.instance("default", id_), record)
        made = InstanceStatus(phase=phase, ready=ready, address=f"10.100.0.{10 + number}", node="n1", **status)
        cluster.put(keys.status("default", id_), made)
    state = RolloutState.COMPLETE if ready else RolloutState.PROGRESSING
    cluster.put(
        keys.rollout("default", "web"),
        Rollout(revision=revision, generation=generation, state=state, wanted=2, updated=2),
    )


def test_apply_shows_a_plan_and_diff_tells_by_its_exit_code(cluster, katcall, folder):
    assert "+ Workload default/web" in katcall("diff", folder, code=1).out
    result = katcall("apply", folder, "--dry-run")
    assert "+ VirtualLoadBalancer default/web" in result.out
    assert "nothing was changed" in result.err
    katcall("get", "workload", "web", code=3)
    katcall("apply", folder)
    assert katcall("diff", folder).out == ""
    (folder / "workload.kat").write_text(WORKLOAD.replace("replicas: 2", "replicas: 3"))
    assert "~ spec.replicas: 2 -> 3" in katcall("diff", "-f", folder, code=1).out
    assert "~ spec.replicas: 2 -> 3" in katcall("apply", "-f", folder / "workload.kat").out or True
    assert katcall("apply", folder, "-o", "json").json["plan"]


def test_apply_waits_until_all_is_ready(cluster, katcall, folder):
    timer = threading.Timer(0.7, run_instances, [cluster])
    timer.start()
    result = katcall("apply", folder, "--wait", "--timeout", "20s")
    timer.join()
    assert "default/web is ready: 2 instances" in result.out
    assert "Running, ready" in result.err


def test_apply_that_does_not_get_ready_says_why_and_exits_6(cluster, katcall, folder):
    katcall("apply", folder)
    run_instances(cluster, ready=False, phase=Phase.PREPARING, reason="ImagePullFailed", message="no such image")
    event = Event(
        type=EventType.WARNING, reason="ImagePullFailed", object_kind="Instance", object_name="web-10001",
        namespace="default", message="cannot pull example/web:1", first_at=time.time(), last_at=time.time(),
    )  # fmt: skip
    cluster.put(keys.event("default", event.identity), event)
    result = katcall("apply", folder, "--wait", "--timeout", "1s", code=6)
    assert "web-10001 is Preparing (ImagePullFailed: no such image)" in result.err
    assert "cannot pull example/web:1" in result.err


def test_apply_that_is_paused_fails_with_the_reason(cluster, katcall, folder):
    katcall("apply", folder)
    cluster.put(
        keys.rollout("default", "web"),
        Rollout(revision=1, state=RolloutState.PAUSED, message="no progress for 600 s"),
    )
    result = katcall("apply", folder, "--wait", "--timeout", "10s", code=1)
    assert "no progress for 600 s" in result.err
    assert katcall("rollout", "status", "web", code=1).out.startswith("revision 1: Paused")


def test_apply_that_the_leader_rolls_back_fails_with_the_cause(cluster, katcall, folder):
    katcall("apply", folder)
    (folder / "workload.kat").write_text(WORKLOAD.replace("web:1", "web:2"))

    def leader():
        first = cluster.plane.cache.state.revisions["default", "web", 1]
        cause = "rollback to 1 (revision 2 made no progress)"
        again = first.model_copy(update={"number": 3, "cause": cause, "created_by": "leader"})
        cluster.put(keys.revision("default", "web", 3), again)
        record = cluster.plane.cache.state.workloads["default", "web"]
        cluster.put(keys.workload("default", "web"), record.model_copy(update={"revision": 3}))

    timer = threading.Timer(0.8, leader)
    timer.start()
    result = katcall("apply", folder, "--wait", "--timeout", "10s", code=1)
    timer.join()
    assert "revision 2 made no progress" in result.err


def test_errors_have_file_line_column_and_suggestion(cluster, katcall, folder):
    (folder / "workload.kat").write_text(WORKLOAD.replace("replicas", "replica"))
    result = katcall("apply", folder, code=1)
    assert result.err.startswith("workload.kat:4:")
    assert "did you mean 'replicas'?" in result.err
    result = katcall("lint", folder, code=1)
    assert result.out.startswith("workload.kat:4:")
    katcall("get", "workload", "web", code=3)


def test_lint_needs_no_cluster(katcall, folder, monkeypatch):
    monkeypatch.setenv("KAT_CONFIG", "/nonexistent/config.json")
    assert "warning" in katcall("lint", folder).out
    katcall("lint", folder, "--strict", code=1)
    assert katcall("lint", folder, "-o", "json").json["problems"]
    katcall("lint", folder / "nothing", code=2)


@pytest.mark.parametrize("names", [["workloads"], ["wl"], ["workload", "web"], ["workload/web"]])
def test_get_knows_short_and_long_names(cluster, katcall, folder, names):
    katcall("apply", folder)
    lines = katcall("get", *names).out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "TYPE", "READY"]
    assert lines[1].split()[:3] == ["web", "Service", "0/2"]


def test_get_has_every_output_format(cluster, katcall, folder):
    katcall("apply", folder)
    run_instances(cluster)
    assert katcall("get", "in", "-o", "name").out.split() == ["instance/web-10001", "instance/web-10002"]
    assert katcall("get", "wl", "web", "-o", "json").json["name"] == "web"
    assert len(katcall("get", "in", "-o", "json").json["items"]) == 2
    assert "name: web\n" in katcall("get", "wl", "web", "-o", "yaml").out
    assert katcall("get", "in", "-o", "jsonpath={.items[*].name}").out == "web-10001 web-10002\n"
    assert katcall("get", "in", "-o", 'jsonpath={.items[0].node}{"\\t"}{.items[-1].phase}').out == "n1\tRunning\n"
    assert "IMAGE" in katcall("get", "wl", "-o", "wide").out
    assert "NAMESPACE" in katcall("ls", "wl", "-A").out
    assert "n1" in katcall("ps", "nodes").out
    assert katcall("get", "revisions", "web", "-o", "name").out == "revision/web/1\n"
    assert "kind: Workload" in katcall("get", "rev", "web/1", "-o", "json").json["revision"]["files"]["workload.kat"]


def test_get_refuses_what_it_does_not_know(cluster, katcall):
    assert "did you mean 'instances'?" in katcall("get", "instancs", code=2).err
    assert "not supported" in katcall("get", "wl", "-o", "jsonpath={.items[?(@.x)]}", code=2).err
    assert "there are: table" in katcall("get", "wl", "-o", "xml", code=2).err
    assert "there is no workload 'none'" in katcall("get", "wl", "none", code=3).err
    assert "label selector" in katcall("get", "wl", "-l", "a=b=c", code=2).err


def test_labels_select(cluster, katcall, folder):
    katcall("apply", folder)
    assert katcall("get", "wl", "-l", "app=web", "-o", "name").out == "workload/web\n"
    assert katcall("get", "wl", "-l", "app!=web", "-o", "name").out == ""


def test_get_watches(cluster, katcall, folder, capfd):
    katcall("apply", folder)
    seen = []
    reader = threading.Thread(target=lambda: seen.append(main.run(["get", "in", "-w", "-o", "name"])), daemon=True)
    reader.start()
    time.sleep(0.5)
    run_instances(cluster)
    time.sleep(0.7)
    assert "instance/web-10001" in capfd.readouterr().out


def test_describe_tells_the_whole_story(cluster, katcall, folder):
    katcall("apply", folder)
    run_instances(cluster)
    out = katcall("describe", "workload", "web").out
    assert "Image:" in out
    assert "2 ready of 2 wanted" in out
    assert "web-10001" in out
    assert "30080" in out
    assert "10.100.0.11" in katcall("describe", "instance/web-10001").out
    assert "web-10001" in katcall("describe", "node", "n1").out
    assert "control-plane" in katcall("node", "describe", "n1").out
    katcall("describe", "workload", "none", code=3)


def test_scale_restart_and_back(cluster, katcall, folder):
    katcall("apply", folder)
    katcall("scale", "web", "4")
    assert katcall("get", "wl", "web", "-o", "jsonpath={.record.replicas}").out == "4\n"
    katcall("scale", "web", "--replicas", "1")
    katcall("scale", "web", code=2)
    katcall("restart", "web")
    assert katcall("get", "wl", "web", "-o", "jsonpath={.record.generation}").out == "1\n"
    (folder / "workload.kat").write_text(WORKLOAD.replace("web:1", "web:2"))
    katcall("apply", folder)
    assert "* " in katcall("rollout", "history", "web").out
    katcall("rollout", "undo", "web")
    assert katcall("get", "wl", "web", "-o", "jsonpath={.revision.document.spec.source.image}").out == "example/web:1\n"
    assert katcall("get", "wl", "web", "-o", "jsonpath={.record.revision}").out == "3\n"
    katcall("rollback", "web", "--to-revision", "99", code=3)
    katcall("rollback", "web", "--to-revision", "3", code=4)
    katcall("rollout", "pause", "web")
    assert katcall("get", "wl", "web", "-o", "jsonpath={.record.paused}").out == "true\n"
    katcall("rollout", "resume", "web")
    assert katcall("get", "wl", "web", "-o", "jsonpath={.record.resumes}").out == "1\n"


def test_delete_waits_until_it_is_gone(cluster, katcall, folder):
    katcall("apply", folder)

    def leader():
        async def remove():
            await cluster.plane.store.delete(keys.workload("default", "web"))

        cluster.run(remove())

    timer = threading.Timer(0.6, leader)
    timer.start()
    started = time.monotonic()
    assert "workload/web deleted" in katcall("delete", "workload", "web", "--timeout", "10s").out
    assert time.monotonic() - started > 0.4
    timer.join()
    katcall("delete", "workload", "web", code=3)
    katcall("delete", "workload", "web", "--ignore-not-found")
    katcall("delete", "instances", "x", code=2)


def test_delete_that_takes_too_long_exits_6(cluster, katcall, folder):
    katcall("apply", folder)
    assert "is not gone after 1s" in katcall("delete", "-f", folder, "--timeout", "1s", code=6).err
    assert "being deleted" in katcall("apply", folder, code=4).err
    assert katcall("delete", "workload/web", "--no-wait").out


def test_events_and_wait(cluster, katcall, folder):
    katcall("apply", folder)
    time.sleep(0.6)
    assert "Applied" in katcall("events", "web").out
    assert katcall("events", "-A", "-o", "json").json["items"]
    assert katcall("events", "--warnings").out == ""
    katcall("wait", "web", "--timeout", "0.3s", code=6)
    run_instances(cluster)
    katcall("wait", "web", "--timeout", "5s")
    katcall("wait", "web", "--for=condition=Complete", "--timeout", "5s")
    katcall("wait", "web", "--for=condition=Happy", code=2)
    katcall("wait", "none", "--for=deleted", "--timeout", "5s")


def test_ports_say_what_is_reachable_from_where(cluster, katcall, folder):
    katcall("apply", folder)
    cluster.put(keys.vip("default", "web"), b'{"address":"10.101.0.9"}')
    out = katcall("ports").out
    assert "10.101.0.9:80" in out
    assert ":30080" in out
    assert "9115" in out
    assert katcall("ports", "-o", "json").json["items"][0]["from"] == "instances and nodes"


def test_tokens_are_shown_once_and_work(cluster, katcall, become):
    made = katcall("token", "create", "--user", "ci", "--role", "view", "--ttl", "1h", "-o", "json").json
    assert made["token"] not in katcall("token", "ls", "-o", "json").out
    assert made["id"] in katcall("token", "ls").out
    assert "--user" in katcall("token", "create", "--role", "view", code=2).err
    assert "--uses" in katcall("token", "create", "--user", "ci", "--uses", "2", code=2).err
    become("ci", "view", certificate=None, key=None, token=made["token"])
    katcall("get", "nodes")
    assert "may not" in katcall("node", "cordon", "n1", code=5).err
    become("root", "admin")
    katcall("token", "rm", made["id"])
    become("ci", "view", certificate=None, key=None, token=made["token"])
    katcall("get", "nodes", code=5)


def test_tokens_that_join_machines(cluster, katcall):
    made = katcall("token", "create", "--role", "worker", "--uses", "3")
    words = made.out.split()
    assert words[:2] == ["kat-agent", "join"]
    assert words[3] == "--token"
    assert words[4].startswith("katjoin1_")
    assert "joins 3 machines as worker, valid for 60m" in made.err
    token_id = made.err.split()[1]
    listed = katcall("token", "ls").out
    assert "3 machines" in listed
    assert words[4] not in katcall("token", "ls", "-o", "json").out
    assert "--user" in katcall("token", "create", "--role", "worker", "--user", "x", code=2).err
    assert "as control-plane" in katcall("token", "create", "--role", "control-plane").err
    katcall("token", "rm", token_id)
    assert token_id not in katcall("token", "ls").out


def test_nodes_are_cordoned(cluster, katcall):
    katcall("node", "cordon", "n1")
    assert "cordoned" in katcall("node", "ls").out
    katcall("node", "uncordon", "n1")
    assert "cordoned" not in katcall("node", "ls").out
    katcall("node", "cordon", "n9", code=3)


def test_nodes_show_where_they_are_and_what_they_carry(cluster, katcall, folder):
    katcall("apply", folder)
    run_instances(cluster)
    head, line = katcall("node", "ls").out.splitlines()
    shown = dict(zip(head.split(), line.split(), strict=True))
    assert (shown["NAME"], shown["INSTANCES"], shown["ROLE"]) == ("n1", "2", "control-plane")
    assert katcall("node", "ls", "-o", "json").json["items"][0]["load"]["instances"] == 2


def test_version_explain_completion(cluster, katcall, monkeypatch):
    assert "server:" in katcall("version").out
    assert "warning" not in katcall("version").err
    with monkeypatch.context() as patch:
        patch.setattr("kat_platform.server.routes.system.answer_json", lambda _: answer_json({"version": "1.7.0"}))
        assert "install kat 1.7 here" in katcall("version").err
    assert "list of" in katcall("explain", "workload.spec.tolerations").out
    assert "replicas" in katcall("explain", "workload.spec.replica", code=3).err
    assert "_KATCALL_COMPLETE" in katcall("completion", "bash").out
    monkeypatch.setenv("KAT_CONFIG", "/nonexistent/config.json")
    assert katcall("version", "--client").out.startswith("client:")
    assert "no context" in katcall("version", code=2).err


def test_unknown_commands_and_those_of_later_versions(katcall):
    assert "Did you mean 'apply'?" in katcall("aply", code=2).err
    assert "not supported yet" in katcall("secret", "ls", code=1).err
    katcall("apply", "--no-such-option", code=2)
    out = katcall("--help").out
    assert "apply" in out
    assert "secret" not in out


def test_contexts(cluster, katcall, become):
    assert json.loads(katcall("context", "show").out)["credential"] == "certificate"
    assert "PRIVATE" not in katcall("context", "ls", "-o", "json").out
    katcall("context", "use", "root", "-n", "shop")
    assert katcall("context", "ls").out.split()[-2] == "shop"
    katcall("context", "use", "none", code=3)
    katcall("get", "wl", "--context", "none", code=3)
    assert (cluster.folder / "config.json").stat().st_mode & 0o777 == 0o600


def test_an_api_that_is_down_is_one_clear_line(cluster, katcall, become):
    become("root", "admin", servers=["https://127.0.0.1:1"])
    result = katcall("get", "wl", code=1)
    assert result.err.splitlines()[0].startswith("error: the API at https://127.0.0.1:1 does not answer")
    assert "kat-agent" in result.err
    assert len(result.err.splitlines()) == 2


def test_the_next_server_is_tried(cluster, katcall, become):
    become("root", "admin", servers=["https://127.0.0.1:1", cluster.plane.url])
    katcall("get", "nodes")


def test_another_clusters_ca_is_told_apart(cluster, katcall, become):
    from kat_platform.pki.authority import Authority

    become("root", "admin", ca=Authority.create("kt-other").pem().decode())
    assert "not of the cluster" in katcall("get", "wl", code=5).err


def test_no_credential_is_denied_clearly(cluster, katcall, become):
    become("root", "admin", certificate=None, key=None)
    assert "certificate" in katcall("get", "wl", code=5).err


def test_cluster_configuration_is_applied_with_care(cluster, katcall, tmp_path):
    path = tmp_path / "cluster.kat"
    text = "apiVersion: kat.dws.rip/v1alpha1\nkind: ClusterConfiguration\nmetadata: {name: cluster}\nspec: {%s}\n"
    path.write_text(text % "agentTickSeconds: 3")
    assert "~ spec.agentTickSeconds: 2.0 -> 3.0" in katcall("apply", "-f", path).out
    assert katcall("diff", "-f", path).out == ""
    path.write_text(text % "apiPort: 1234")
    assert "apiPort" in katcall("apply", "-f", path, code=4).err
    path.write_text(text % "apiPorts: 1234")
    assert "did you mean 'apiPort'?" in katcall("apply", "-f", path, code=1).err


def test_plugins_without_a_cluster(katcall):
    report = katcall("plugin", "ls", "--local", "-o", "json", code=main.run(["plugin", "ls", "--local"])).json
    assert {row["group"] for row in report["plugins"]} >= {"kat.runtime", "kat.store"}
    katcall("plugin", "check", "no-such-plugin", code=3)
