"""The decisions: requests, states, names, errors, log records, files. No Podman needed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kat_runtime_podman import build, images, layout, oci, prepare, reset, translate, usage
from kat_runtime_podman.config import PodmanConfig
from kat_runtime_podman.execute import prepared, process_description
from kat_runtime_podman.files import writing
from kat_runtime_podman.logs import Joiner

from kat_platform.errors import HostNotReady, ImageNotFound, ImagePullFailed, InvalidInput, RuntimeFailure
from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.runtime import ContainerSpec, ContainerState, Resources

AROUND = translate.Surroundings("i" * 64, "kt1", "/kat-kt1", 65536, {"nofile": 20000})
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def request(spec: ContainerSpec, around: translate.Surroundings = AROUND) -> dict[str, object]:
    made = json.loads(translate.create_request(spec, around))
    assert isinstance(made, dict)
    return made


@given(st.dictionaries(TEXT.filter(bool), TEXT), st.lists(TEXT, min_size=1), st.lists(TEXT))
def test_what_a_user_gives_is_passed_on_unchanged(env: dict[str, str], command: list[str], args: list[str]) -> None:
    made = request(ContainerSpec("a", "b", env=env, command=tuple(command), args=tuple(args)))
    assert made["env"] == env
    assert made["entrypoint"] == command
    assert made["command"] == args


@given(st.integers(1, 1_000_000), st.integers(1, 1_000_000))
def test_cpu_limits_are_what_the_kernel_takes(limit: int, share: int) -> None:
    made = request(ContainerSpec("a", "b", resources=Resources(limit, None, share)))
    cpu = made["resource_limits"]["cpu"]  # type: ignore[index]
    assert cpu["quota"] >= 1000
    assert 2 <= cpu["shares"] <= 262_144


def test_no_request_ever_asks_podman_to_restart_probe_or_network() -> None:
    made = request(ContainerSpec("a", "b", labels={translate.TAG_LABEL: "forged"}))
    assert made["restart_policy"] == "no"
    assert made["healthconfig"] == {"Test": ["NONE"]}
    assert made["netns"] == {"nsmode": "none"}
    assert made["labels"][translate.TAG_LABEL] == "kt1"  # type: ignore[index]
    assert made["r_limits"] == [{"type": "NOFILE", "soft": 20000, "hard": 20000}]


@pytest.mark.parametrize("name", ["", "-a", "../a", "a/b", "a b", "\u00fc", "a" * 300])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        translate.check_name(name)


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), st.integers(0, 999_999_999))
def test_times_with_any_number_of_digits_are_read(at: datetime, nanos: int) -> None:
    whole = at.replace(microsecond=0, tzinfo=UTC)
    text = f"{whole:%Y-%m-%dT%H:%M:%S}.{nanos:09d}".rstrip("0").rstrip(".") + "Z"
    assert abs(translate.parse_time(text) - (whole.timestamp() + nanos / 1e9)) < 1e-6


@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), TEXT.filter(lambda t: "\n" not in t), st.integers(1, 5)))
)
def test_parts_of_lines_are_joined_per_stream(lines: list[tuple[str, str, int]]) -> None:
    joiner, seen = Joiner(), []
    for stream, text, step in lines:
        parts = [text[at : at + step] for at in range(0, len(text), step)] or [""]
        for at, part in enumerate(parts):
            flag = "F" if at == len(parts) - 1 else "P"
            line = joiner.feed(f"2024-01-01T00:00:00.5+00:00 {stream} {flag} {part}".encode())
            assert (line is not None) == (flag == "F")
            if line is not None:
                seen.append((line.stream, line.text))
    assert seen == [(stream, text) for stream, text, _ in lines]


@given(st.binary())
def test_a_malformed_log_harms_nobody(data: bytes) -> None:
    joiner = Joiner()
    for record in data.split(b"\n"):
        joiner.feed(record)


def test_states_are_translated() -> None:
    found = {
        "Name": "a",
        "State": {"Status": "exited", "Pid": 0, "ExitCode": 3, "FinishedAt": "2024-01-01T00:00:00.25Z"},
        "Config": {"Labels": {translate.DIGEST_LABEL: "d", "x": "y"}},
    }
    view = translate.from_inspect(found)
    assert (view.state, view.exit_code, view.pid, view.spec_digest) == (ContainerState.EXITED, 3, None, "d")
    assert dict(view.labels) == {"x": "y"}
    assert view.finished_at == 1704067200.25
    times = {"StartedAt": "2024-01-01T00:00:01Z", "FinishedAt": "2024-01-01T00:00:00.95Z"}
    running = {"Name": "a", "State": {"Status": "running", "Pid": 7, **times}}
    assert translate.from_inspect(running).started_at == 1704067200.95, "never before the end of the run before"
    times["FinishedAt"] = "0001-01-01T00:00:00Z"
    running["State"] = {"Status": "running", "Pid": 7, **times}
    assert translate.from_inspect(running).started_at == 1704067200.9, "Podman writes it down late"
    strange = translate.from_inspect({"Name": "a", "State": {"Status": "dreaming"}})
    assert strange.state is ContainerState.UNKNOWN


@pytest.mark.parametrize(
    ("reference", "names"),
    [
        ("nginx:1.25", ("localhost/nginx:1.25", "docker.io/library/nginx:1.25")),
        ("a/b", ("localhost/a/b:latest", "docker.io/a/b:latest")),
        ("localhost/x:1", ("localhost/x:1",)),
        ("127.0.0.1:5000/x:1", ("127.0.0.1:5000/x:1",)),
    ],
)
def test_short_names_mean_the_default_registry(reference: str, names: tuple[str, ...]) -> None:
    assert images.candidates(reference, "docker.io") == names


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("reading manifest 9 in x: manifest unknown", ImageNotFound),
        ("reading manifest 1 in x: name unknown: repository name not known to registry", ImageNotFound),
        ("requested access to the resource is denied", ImagePullFailed),
        ("dial tcp 127.0.0.1:1: connect: connection refused", ImagePullFailed),
    ],
)
def test_pull_errors_are_told_apart(said: str, error: type[Exception]) -> None:
    assert type(images.classify("x", said)) is error


def test_an_unreadable_store_is_an_empty_one(tmp_path: Path) -> None:
    index = tmp_path / "images.json"
    assert images.read_index(index) == {}
    for text in ("", "{", "[1]", '[{"names": 3, "id": "x"}]'):
        index.write_text(text)
        assert images.read_index(index) == {}
    index.write_text('[{"id": "abc", "names": ["localhost/a:1"]}, {"id": "d"}]')
    assert images.read_index(index) == {"localhost/a:1": "abc"}


def test_long_folders_get_a_short_run_folder() -> None:
    short = layout.Layout.of(DriverContext("n", Path("/var/lib/kat"), Path("/run/kat/podman"), "kt1"))
    assert short.run == Path("/run/kat/podman")
    long = layout.Layout.of(DriverContext("n", Path("/var/lib/kat"), Path("/run") / ("x" * 90), "kt1"))
    assert len(str(long.runroot)) <= 50
    assert long == layout.Layout.of(DriverContext("n", Path("/var/lib/kat"), Path("/run") / ("x" * 90), "kt1"))


def test_the_environment_leaks_nothing_into_podman() -> None:
    made = layout.Layout(Path("/d"), Path("/r"), "kt1").environment({"NOTIFY_SOCKET": "x", "SECRET": "y", "PATH": "/p"})
    assert set(made) == {"PATH", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"}


@pytest.mark.parametrize(
    ("version", "crun", "runc", "expected"),
    [(1, True, True, "runc"), (2, True, True, "crun"), (2, False, True, "runc"), (1, True, False, None)],
)
def test_the_runtime_that_works_is_chosen(version: int, crun: bool, runc: bool, expected: str | None) -> None:
    facts = oci.HostFacts(version, systemd=False, crun=crun, runc=runc)
    if expected is None:
        with pytest.raises(HostNotReady):
            oci.choose(PodmanConfig(), facts)
    else:
        assert oci.choose(PodmanConfig(), facts).oci_runtime == expected


def test_settings_that_are_right_are_left_alone_and_a_disk_that_takes_none_is_told(tmp_path: Path) -> None:
    place = layout.Layout(tmp_path / "data", tmp_path / "run", "t")
    choice = oci.choose(PodmanConfig(), oci.HostFacts(2, systemd=False, crun=True, runc=True))
    prepare.write(place, PodmanConfig(), choice)
    policy, settings = place.etc / "policy.json", place.etc / "containers.conf"
    inodes = [path.stat().st_ino for path in (policy, settings)]
    text = settings.read_text()
    settings.write_text("something else")
    prepare.write(place, PodmanConfig(), choice)
    assert settings.read_text() == text
    assert policy.stat().st_ino == inodes[0], "written again although nothing changed"
    assert settings.stat().st_ino != inodes[1], "written in place: half of it might be read"
    settings.unlink()
    settings.mkdir()
    with pytest.raises(HostNotReady, match=r"cannot be written below .*data and .*run: .*containers"):
        prepare.write(place, PodmanConfig(), choice)


def test_limits_are_bounded_only_without_the_capability() -> None:
    limits = "Max processes             100      200      processes\nMax open files  5   unlimited   files\n"
    assert prepare.parse_limits("CapEff:\t0000000000000000\n", limits) == {"nproc": 200}
    assert prepare.parse_limits(f"CapEff:\t{1 << 24:016x}\n", limits) == {}


def test_mounts_are_found_deepest_first() -> None:
    info = (
        "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:1 / /d/storage\\040x rw - ext4 /dev/a rw\n"
        "3 2 0:5 / /d/storage\\040x/merged rw - overlay overlay rw\n4 1 0:6 / /dd rw - tmpfs tmpfs rw\n"
    )
    assert list(reset.mounts_under(info, (Path("/d"),))) == ["/d/storage x/merged", "/d/storage x"]


async def test_a_disk_that_takes_nothing_is_a_failure_of_the_contracts_kind(tmp_path: Path) -> None:
    place = layout.Layout(tmp_path / "data", tmp_path / "run", "t")
    bundle = place.container("abc") / "config.json"
    bundle.parent.mkdir(parents=True)
    bundle.write_text(json.dumps({"process": {"env": [], "args": []}}))
    (tmp_path / "run").write_text("a file where a folder should be: nothing can be written below it")
    with pytest.raises(RuntimeFailure, match=r"cannot write the command to .*run/exec/.*: Not a directory"):
        async with prepared(place, "runc", "abc", ["true"], {}, tty=False):
            pass
    path = tmp_path / "gone" / "x"
    told = pytest.raises(RuntimeFailure, match=r"cannot write words to .*gone/x: No such file")
    with told, writing("words", path, container="c"):
        path.write_text("")


def test_an_exec_takes_the_containers_own_process() -> None:
    bundle = {
        "process": {"user": {"uid": 5}, "env": ["A=1", "B=x=y"], "args": ["old"], "capabilities": {}, "cwd": "/w"}
    }
    made = process_description(bundle, ["-x"], {"A": "2"}, tty=True)
    assert made["args"] == ["-x"]
    assert made["env"] == ["A=2", "B=x=y", "TERM=xterm"]
    assert (made["user"], made["cwd"], made["terminal"]) == ({"uid": 5}, "/w", True)
    assert bundle["process"]["args"] == ["old"]


def test_build_arguments_cannot_become_options() -> None:
    made = build.arguments(
        "/c", dockerfile="D", tag="t:1", build_args={"A": "--privileged"}, target="-x", platform=None
    )
    assert "--build-arg=A=--privileged" in made
    assert "--target=-x" in made
    assert made[-2:] == ["--", "/c"]


def test_cgroup_files_are_read() -> None:
    assert usage.cgroup_paths("4:cpu,cpuacct:/a\n0::/b\n") == {"cpu": "/a", "cpuacct": "/a", "": "/b"}
    assert usage.fields("usage_usec 5\nbroken\nx y\n") == {"usage_usec": 5}
