"""What people write into a context for a server: refused where it is none, one clear line where it leads nowhere."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "server", ["127.0.0.1:9115", "http://h:1", "https://", "https://h:99999", "https://[::1:1", "h"]
)
def test_what_is_no_server_is_refused_with_the_context_that_has_it(become, katcall, server):
    become("root", "admin", servers=["https://127.0.0.1:1", server])
    assert f"server '{server}' of context 'root' is not https://HOST:PORT" in katcall("get", "nodes", code=1).err


def test_a_name_that_cannot_be_is_one_more_server_that_does_not_answer(cluster, become, katcall):
    become("root", "admin", servers=["https://a..b", cluster.plane.url])
    katcall("get", "nodes")
    become("root", "admin", servers=["https://a..b"])
    assert "the API at https://a..b does not answer: " in katcall("get", "nodes", code=1).err
