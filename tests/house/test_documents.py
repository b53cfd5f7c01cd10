"""Documentation is true: every error code, hook and contract has its place, and no place stands for nothing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kat_platform import errors
from kat_platform.hooks import specs, types
from kat_platform.interfaces import CONTRACTS, Capability
from kat_platform.registry.contract import operations

HOUSE = Path(__file__).resolve().parents[2]
DOCS = HOUSE / "docs"


def tree(root: type[errors.KatError]) -> Iterator[type[errors.KatError]]:
    yield root
    for each in root.__subclasses__():
        if each.__module__.startswith("kat_"):
            yield from tree(each)


def rows(text: str) -> dict[str, list[str]]:
    """Read a Markdown table whose first column is a code in backticks."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `"):
            found[cells[0].strip("`")] = cells[1:]
    return found


def test_every_error_code_is_documented_with_its_status_exit_code_and_retry():
    table = rows((DOCS / "errors.md").read_text())
    classes: dict[str, type[errors.KatError]] = {}
    for each in tree(errors.KatError):
        if "code" in vars(each) and each is not errors.InternalError:
            assert classes.setdefault(each.code, each) is each, f"two errors have the code {each.code}"
    wanted = {
        code: [str(each.http_status), str(each.exit_code), "yes" if each.retryable else "no"]
        for code, each in classes.items()
    }
    given = {code: cells[:3] for code, cells in table.items()}
    assert given == wanted, "docs/errors.md and kat_platform/errors.py do not agree"
    assert all(len(cells) == 4 and cells[3] for cells in table.values()), "each code has a sentence for a person"


HOOKS = {name: value for name, value in vars(specs).items() if hasattr(value, "kat_spec")}


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_parameters(name):
    text = (DOCS / "hooks.md").read_text()
    match = re.search(rf"^### `{name}\((.*?)\)`\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"docs/hooks.md has no section '### `{name}(...)`'"
    parameters = [parameter.strip() for parameter in match[1].split(",") if parameter.strip()]
    assert parameters == list(inspect.signature(HOOKS[name]).parameters), f"parameters of {name} in docs/hooks.md"
    assert "**Fires**" in match[2], f"docs/hooks.md does not say when {name} fires"
    assert "**If it fails**" in match[2], f"docs/hooks.md does not say what a failure of {name} means"


def test_no_hook_is_documented_that_does_not_exist():
    documented = re.findall(r"^### `(\w+)\(", (DOCS / "hooks.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(HOOKS)


def test_every_type_of_the_hooks_is_documented():
    text = (DOCS / "hooks.md").read_text()
    names = [name for name, value in vars(types).items() if getattr(value, "__module__", "") == types.__name__]
    assert names
    assert [name for name in names if f"`{name}" not in text] == []


@pytest.mark.parametrize("capability", list(Capability))
def test_every_contract_has_its_page_and_every_operation_its_place_there(capability):
    page = DOCS / "contracts" / f"{capability}.md"
    assert page.exists(), f"there is no {page.relative_to(HOUSE)}"
    text = page.read_text()
    shared = set(operations(CONTRACTS[capability])) & {"start", "stop", "status"}
    missing = [name for name in operations(CONTRACTS[capability]) if name not in shared and f"`{name}" not in text]
    assert missing == [], f"docs/contracts/{capability}.md does not say anything of {', '.join(missing)}"
    for word, what in (("idempotent|repeat", "idempotent"), ("retr|again", "retryable")):
        assert re.search(word, text.lower()), f"docs/contracts/{capability}.md does not say what is {what}"
    assert f"({capability}.md)" in (DOCS / "contracts" / "README.md").read_text(), "the index names every page"


def test_the_contract_of_every_driver_is_documented():
    text = (DOCS / "contracts" / "driver.md").read_text()
    for name in ("info", "Config", "start", "stop", "status", "check_host", "reset", "collect", "DriverContext"):
        assert f"`{name}" in text, f"docs/contracts/driver.md does not say anything of {name}"


def test_links_between_documents_lead_somewhere():
    broken = []
    for page in [*DOCS.rglob("*.md"), *HOUSE.glob("*.md"), *(HOUSE / "plugins").glob("*/*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(HOUSE)}: {target}")
    assert broken == []
