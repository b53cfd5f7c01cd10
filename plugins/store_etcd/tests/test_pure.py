"""The parts that decide without doing anything: flags, spans, errors, last words, pages, identity."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from hypothesis import given
from hypothesis import strategies as st
from kat_store_etcd.config import EtcdConfig
from kat_store_etcd.faults import certainly_not_done, passing, translate
from kat_store_etcd.flags import Identity, arguments, environment, known_flags
from kat_store_etcd.folder import MemberFolder
from kat_store_etcd.member import last_words
from kat_store_etcd.process import left_over
from kat_store_etcd.reads import LARGEST_PAGE, next_limit
from kat_store_etcd.translate import span, txn_request
from pydantic import ValidationError

from kat_platform.errors import (
    Compacted,
    DriverError,
    InvalidInput,
    KatError,
    NotFound,
    StoreError,
    StoreFull,
    TimedOut,
    TooLarge,
    Unavailable,
)
from kat_platform.interfaces.store import Compare, Field, Op, PeerIdentity

ME = Identity("a", "https://10.0.0.1:2380", "a=https://10.0.0.1:2380", token="t", alone=True)


def flag(words: list[str], name: str) -> str | None:
    return next((word.partition("=")[2] for word in words if word.startswith(f"--{name}=")), None)


def test_clients_come_by_the_socket_only() -> None:
    words = arguments(EtcdConfig(), ME, "/d", frozenset())
    assert flag(words, "listen-client-urls") == "unix://client.sock:0"
    assert flag(words, "listen-peer-urls") == ME.peer_url
    assert flag(words, "peer-client-cert-auth") is None


def test_peers_with_certificates_must_show_them() -> None:
    config = EtcdConfig(peer_cert_file="c", peer_key_file="k", peer_ca_file="ca")
    words = arguments(config, ME, "/d", frozenset())
    assert flag(words, "peer-client-cert-auth") == "true"
    assert flag(words, "peer-trusted-ca-file") == "ca"


@pytest.mark.parametrize(
    ("known", "name"),
    [
        ("experimental-watch-progress-notify-interval", "experimental-watch-progress-notify-interval"),
        ("watch-progress-notify-interval", "watch-progress-notify-interval"),
    ],
)
def test_flags_take_the_name_this_etcd_knows(known: str, name: str) -> None:
    words = arguments(EtcdConfig(), ME, "/d", known_flags(f"  --name 'x'\n  --{known} '10m'\n    text --not-a-flag\n"))
    assert flag(words, name) == "30s"
    assert sum("progress-notify" in word for word in words) == 1
    assert flag(words, "pre-vote") is None
    assert flag(words, "backend-batch-interval") is None


def test_at_rest_etcd_seldom_looks_for_something_to_write() -> None:
    words = arguments(EtcdConfig(), ME, "/d", known_flags("  --backend-batch-interval ''\n"))
    assert flag(words, "backend-batch-interval") == "500ms"


def test_who_is_revoked_is_refused_by_the_nodes_own_list_only() -> None:
    peer = PeerIdentity(
        IPv4Address("10.0.0.1"), 2380, Path("ca"), Path("c"), Path("k"), "kat-api", revoked=Path("/pki/revoked.crl")
    )
    assert flag(arguments(EtcdConfig(), ME, "/d", frozenset(), peer), "peer-crl-file") == "/pki/revoked.crl"
    given = EtcdConfig(peer_cert_file="c", peer_key_file="k", peer_ca_file="ca")
    assert flag(arguments(given, ME, "/d", frozenset(), peer), "peer-crl-file") is None
    hidden = replace(peer, reachable=False)
    assert flag(arguments(EtcdConfig(), ME, "/d", frozenset(), hidden), "peer-crl-file") is None


def test_a_lone_member_does_not_wait_for_others() -> None:
    config = EtcdConfig(heartbeat_interval_ms=100, election_timeout_ms=1000)
    assert flag(arguments(config, ME, "/d", frozenset()), "election-timeout") == "500"
    joined = Identity("b", "https://b:1", "a=https://a:1,b=https://b:1", "existing")
    assert flag(arguments(config, joined, "/d", frozenset()), "election-timeout") == "1000"


def test_etcd_gets_nothing_of_the_agents_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_LISTEN_CLIENT_URLS", "http://0.0.0.0:2379")
    assert not [name for name in environment(EtcdConfig(memory_limit_mib=64)) if name.startswith("ETCD_LISTEN")]
    assert environment(EtcdConfig(memory_limit_mib=64))["GOMEMLIMIT"] == "64MiB"


@pytest.mark.parametrize(
    "wrong",
    [
        {"electionTimeoutMs": 200},
        {"certFile": "c"},
        {"peerCertFile": "c", "peerKeyFile": "k"},
        {"quotaMib": 1},
        {"compactionRetention": "soon"},
        {"unknown": 1},
    ],
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EtcdConfig.model_validate(wrong)


@given(st.text(min_size=1, max_size=6), st.text(max_size=6))
def test_a_span_holds_exactly_the_keys_with_the_prefix(prefix: str, other: str) -> None:
    try:
        start, end = span(prefix)
        keys = [(prefix + other).encode(), other.encode()]
    except UnicodeEncodeError:
        return  # a lone surrogate is no UTF-8
    for key in keys:
        inside = key >= start and (end == b"\0" or key < end)
        assert inside == key.startswith(prefix.encode())


def rpc_error(code: StatusCode, text: str) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(), details=text)


@pytest.mark.parametrize(
    ("code", "text", "kind", "again", "undone"),
    [
        (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Compacted, False, False),
        (
            StatusCode.OUT_OF_RANGE,
            "etcdserver: mvcc: required revision is a future revision",
            InvalidInput,
            False,
            False,
        ),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", StoreFull, False, False),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", StoreError, True, True),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", TooLarge, False, False),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", TooLarge, False, False),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", InvalidInput, False, False),
        (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", NotFound, False, False),
        (StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: x", StoreError, True, True),
        (StatusCode.UNAVAILABLE, "Socket closed", StoreError, True, False),
        (StatusCode.UNAVAILABLE, "etcdserver: request timed out", StoreError, True, False),
        (StatusCode.UNAVAILABLE, "etcdserver: leader changed", StoreError, True, False),
        (StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster", Unavailable, False, False),
        (StatusCode.INTERNAL, "Internal error from Core", StoreError, True, False),
        (StatusCode.INTERNAL, "Received RST_STREAM with error code 2", StoreError, True, False),
        (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", TimedOut, False, False),
    ],
)
def test_errors_keep_their_meaning(
    code: StatusCode, text: str, kind: type[KatError], again: bool, undone: bool
) -> None:
    error = rpc_error(code, text)
    assert type(translate(error, "put /x")) is kind
    assert "put /x" in str(translate(error, "put /x"))
    assert (passing(error), certainly_not_done(error)) == (again, undone)


def test_a_comparison_with_the_wrong_kind_of_operand_is_refused() -> None:
    for compare in (Compare("k", Field.VALUE, Op.EQUAL, 1), Compare("k", Field.VERSION, Op.EQUAL, b"1")):
        with pytest.raises(InvalidInput):
            txn_request((compare,), (), ())


def test_the_last_words_are_the_gravest() -> None:
    lines = [
        '{"level":"info","msg":"starting"}',
        '{"level":"fatal","msg":"discovery failed","error":"listen tcp: bind: address already in use"}',
        '{"level":"warn","msg":"afterwards"}',
    ]
    assert last_words(lines) == "discovery failed: listen tcp: bind: address already in use"
    assert last_words(["panic: freepages: failed to get all reachable pages", "goroutine 1 [running]:"]).startswith(
        "panic"
    )
    assert last_words([]) == "it said nothing"


@given(st.integers(1, LARGEST_PAGE), st.integers(0, 10**9))
def test_pages_are_never_empty_nor_endless(limit: int, size: int) -> None:
    assert 1 <= next_limit(limit, size) <= LARGEST_PAGE


def test_an_identity_is_kept_whole_and_private(tmp_path: Path) -> None:
    folder = MemberFolder(tmp_path / "store")
    folder.adopt(ME)
    assert folder.identity() == ME
    assert (tmp_path / "store" / "member.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    (tmp_path / "store" / "member.json").write_text("{")
    with pytest.raises(DriverError, match="cannot be read"):
        folder.identity()


def test_only_an_etcd_on_the_same_data_is_a_left_over(tmp_path: Path) -> None:
    def process(pid: int, *words: str) -> None:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")

    process(10, "/usr/bin/etcd", "--name=a", "--data-dir=/kat/etcd")
    process(11, "/usr/bin/etcd", "--name=a", "--data-dir=/other/etcd")
    process(12, "setpriv", "--pdeathsig", "TERM", "/usr/bin/etcd", "--data-dir=/kat/etcd")
    process(13, "grep", "--", "--data-dir=/kat/etcd")
    process(14, "")
    (tmp_path / "self").mkdir()
    (tmp_path / "15").mkdir()
    assert left_over(Path("/kat/etcd"), "etcd", tmp_path) == (10, 12)
