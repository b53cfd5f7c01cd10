"""One authority for all tests of this folder: making keys is the slow part."""

from __future__ import annotations

import pytest

from kat_platform.pki.authority import Authority


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority.create("home")
