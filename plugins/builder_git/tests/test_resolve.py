"""Resolving: addresses and names that are refused, and real repositories in a folder."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from kat_builder_git.command import git
from kat_builder_git.driver import GitBuilder, GitConfig
from kat_builder_git.references import pick, protocol_of, redact, wanted

from kat_platform.errors import InvalidInput, KatError, NotFound, NotSupportedYet, TimedOut, Unavailable
from kat_platform.interfaces.builder import Builder, BuildRequest, GitSource
from kat_platform.interfaces.driver import DriverContext

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _driver(*protocols: str, timeout: float = 10) -> GitBuilder:
    config = GitConfig(protocols=protocols or ("https", "ssh"), resolve_timeout=timeout)
    return GitBuilder(config, DriverContext("n1", Path(), Path(), "kt1"))


def test_it_is_a_builder_that_does_not_build() -> None:
    driver = _driver()
    assert isinstance(driver, Builder)
    assert driver.info.capabilities["build"] is False
    with pytest.raises(NotSupportedYet, match="cannot build 'web:1'"):
        driver.build(BuildRequest(GitSource("https://user:pass@example.org/web", branch="main"), "web:1"))


@pytest.mark.parametrize(
    ("repository", "protocol"),
    [
        ("https://example.org/a/b.git", "https"),
        ("ssh://git@example.org/a", "ssh"),
        ("git@example.org:a/b.git", "ssh"),
        ("file:///srv/a", "file"),
    ],
)
def test_addresses(repository: str, protocol: str) -> None:
    assert protocol_of(repository) == protocol


@pytest.mark.parametrize(
    "repository",
    ["", "/srv/a", "../a", "--upload-pack=x", "-u://x", "ext::sh -c x", "ext::https://x", "https://e/ a", "fd::17"],
)
def test_what_is_no_address(repository: str) -> None:
    with pytest.raises(InvalidInput):
        protocol_of(repository)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a..b", "a:b", "a*", "x@{1}", "/a", "a/", "a^", "a\nb"])
def test_names_that_git_would_read_as_something_else(name: str) -> None:
    with pytest.raises(InvalidInput):
        wanted(GitSource("https://e/a", branch=name))


def test_exactly_one_of_branch_tag_and_commit() -> None:
    for source in (GitSource("https://e/a"), GitSource("https://e/a", branch="m", tag="t")):
        with pytest.raises(InvalidInput, match="exactly one"):
            wanted(source)
    with pytest.raises(InvalidInput, match="full commit"):
        wanted(GitSource("https://e/a", commit="0123abc"))


def test_pick_takes_what_an_annotated_tag_marks() -> None:
    other = "f" * 40
    output = f"{other}\trefs/tags/v1\n{COMMIT}\trefs/tags/v1^{{}}\n"
    assert pick(output, wanted(GitSource("https://e/a", tag="v1")), "https://e/a") == COMMIT
    with pytest.raises(NotFound, match="no branch 'main'"):
        pick(output, ("refs/heads/main",), "https://e/a")


def test_redact() -> None:
    assert redact("fatal: https://bob:secret@example.org/x: no") == "fatal: https://***@example.org/x: no"


async def test_a_commit_is_taken_as_it_is_and_protocols_are_limited() -> None:
    source = GitSource("https://nowhere.invalid/a", commit=COMMIT)
    assert await _driver().resolve(source) == source
    for repository in ("file:///srv/a", "http://example.org/a", "git://example.org/a"):
        with pytest.raises(InvalidInput, match="not allowed"):
            await _driver().resolve(GitSource(repository, branch="main"))


def _git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", *identity, "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    _git(folder, "init", "-q")
    _git(folder, "commit", "-q", "--allow-empty", "-m", "one")
    _git(folder, "tag", "light")
    _git(folder, "tag", "-a", "heavy", "-m", "x")
    _git(folder, "branch", "feature/main")
    _git(folder, "commit", "-q", "--allow-empty", "-m", "two")
    return folder


@pytest.mark.real
async def test_a_real_repository(repository: Path) -> None:
    where, driver = f"file://{repository}", _driver("file")
    first, second = _git(repository, "rev-parse", "main~1"), _git(repository, "rev-parse", "main")
    for source, commit in (
        (GitSource(where, branch="main"), second),
        (GitSource(where, branch="feature/main"), first),
        (GitSource(where, tag="light"), first),
        (GitSource(where, tag="heavy"), first),
    ):
        assert await driver.resolve(source) == GitSource(where, commit=commit)
    for missing in (GitSource(where, branch="light"), GitSource(where, tag="main"), GitSource(where, branch="none")):
        with pytest.raises(NotFound, match="has no"):
            await driver.resolve(missing)
    with pytest.raises(NotFound, match="no repository"):
        await driver.resolve(GitSource(f"{where}-gone", branch="main"))


@pytest.mark.real
async def test_nobody_there_is_unavailable_and_silence_times_out() -> None:
    with pytest.raises(Unavailable) as refused:
        await _driver("https").resolve(GitSource("https://bob:secret@127.0.0.1:1/a", branch="main"))
    assert "secret" not in str(refused.value)
    assert not isinstance(refused.value, TimedOut)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TimedOut):
            await _driver("https", timeout=0.5).resolve(GitSource(f"https://127.0.0.1:{port}/a", branch="main"))


async def test_no_git_is_said_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KatError, match="not installed"):
        await git(["--version"], protocols=("https",), timeout=5)
    (result,) = await GitBuilder.check_host(GitConfig())
    assert (result.ok, result.required) == (False, False)
