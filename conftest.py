"""For every test, those of the plugins too: which come first, and how hypothesis looks for examples.

A property that fails is told with the example that failed. Making that example smaller can take minutes, which a whole
run does not spend: run the one test by itself (``pytest -k NAME``) to have it made small.
"""

from __future__ import annotations

import os
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings

# Time is not what a property is about: the machine may be busy, and a first example imports modules.
settings.register_profile("house", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "whole-run", settings.get_profile("house"), phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
settings.load_profile("whole-run" if os.environ.get("KAT_TEST_RUN") else "house")

LONGEST: Final = {
    "tests/cluster/test_control_plane.py": 115,
    "tests/cluster/test_machines.py": 90,
    "tests/cluster/test_lab.py": 75,
    "tests/cluster/test_faults.py": 65,
    "tests/cluster/test_versions.py": 60,
    "tests/cluster/test_healing.py": 60,
    "tests/cluster/test_drain.py": 55,
    "tests/cluster/test_ca.py": 50,
    "tests/cluster/test_backup.py": 45,
    "plugins/store_etcd/tests/test_conformance.py": 40,
    "tests/cluster/test_full.py": 37,
    "tests/cluster/test_nothing_left.py": 35,
    "plugins/store_etcd/tests/test_faults_real.py": 33,
    "tests/cluster/test_running.py": 25,
    "plugins/runtime_podman/tests/test_conformance.py": 25,
    "tests/packaging/test_stranger.py": 17,
    "tests/cluster/test_traffic.py": 16,
    "plugins/store_etcd/tests/test_alone_real.py": 16,
    "tests/cluster/test_hooks.py": 15,
    "plugins/store_etcd/tests/test_members_real.py": 13,
    "tests/cluster/test_plugins_refused.py": 13,
    "tests/cluster/test_refusals.py": 12,
    "plugins/net_wireguard/tests/test_balancer.py": 11,
    "tests/kat_platform/cli/test_commands.py": 11,
    "tests/packaging/test_new_plugin.py": 11,
}
"""Files that take long, with the seconds they took on two cores. A worker takes the next file when it is done with one:
where the longest are last, the others idle at the end.
"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the longest files come first; within a file the order stays."""
    if gone := [path for path in LONGEST if not (config.rootpath / path).exists()]:
        raise pytest.UsageError(f"conftest.py names files that are not there: {', '.join(gone)}")
    items.sort(key=lambda item: -LONGEST.get(item.nodeid.partition("::")[0], 0))
