"""Every plugin is a complete distribution, versions agree, and nothing of one machine is written down."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import kat_platform
from kat_platform.interfaces import Capability
from kat_platform.model.cluster import PluginChoice

HOUSE = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path for path in (HOUSE / "plugins").iterdir() if path.is_dir())
FILES = ("pyproject.toml", "README.md", "CHANGELOG.md", "tests/test_conformance.py")


def settings(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=HOUSE, capture_output=True, check=True).stdout
    return [HOUSE / name for name in listed.decode().split("\0") if name and (HOUSE / name).is_file()]


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_has_everything_a_distribution_needs(folder):
    missing = [name for name in FILES if not (folder / name).is_file()]
    assert missing == [], f"plugins/{folder.name} lacks {', '.join(missing)}"
    packages = list(folder.glob("kat_*/__init__.py"))
    assert len(packages) == 1
    assert (packages[0].parent / "py.typed").is_file(), f"plugins/{folder.name} does not ship its types"


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_depends_on_this_core_and_enters_by_the_common_door(folder):
    project = settings(folder)["project"]
    needs = {need.name: need.specifier for need in map(Requirement, project["dependencies"])}
    assert kat_platform.__version__ in needs["kat"], f"{project['name']} does not accept this core"
    assert "2.0.0" not in needs["kat"], f"{project['name']} promises to work with a core of another major version"
    groups = [group for group in project["entry-points"] if group.startswith("kat.")]
    assert len(groups) == 1
    known = {capability.group for capability in Capability} | {"kat.hooks"}
    assert groups[0] in known


def test_the_defaults_of_the_cluster_are_what_the_extra_installs():
    project = settings(HOUSE)["project"]
    extra = {Requirement(line).name for line in project["optional-dependencies"]["default"]}
    assert extra == {settings(folder)["project"]["name"] for folder in PLUGINS}
    offered = {}
    for folder in PLUGINS:
        for group, names in settings(folder)["project"]["entry-points"].items():
            offered[group.removeprefix("kat.")] = set(names)
    for capability, name in PluginChoice().model_dump().items():
        assert name in offered[capability], f"no plugin here offers {capability} '{name}'"


def test_versions_agree_with_changelogs():
    for folder in [HOUSE, *PLUGINS]:
        project = settings(folder)["project"]
        version = kat_platform.__version__ if "version" in project.get("dynamic", []) else project["version"]
        newest = re.search(r"^## +\[?v?([0-9][^\s\]]*)", (folder / "CHANGELOG.md").read_text(), re.MULTILINE)
        assert newest, f"the changelog of {project['name']} names no version"
        assert Version(newest[1]) == Version(version), f"the changelog of {project['name']} is not that of {version}"


def test_every_python_that_is_promised_is_the_same_everywhere():
    assert {settings(folder)["project"]["requires-python"] for folder in [HOUSE, *PLUGINS]} == {">=3.11"}


def declared(project: dict, *extras: str) -> set[str]:
    lines = [*project["dependencies"], *(line for each in extras for line in project["optional-dependencies"][each])]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def foreign_imports(folder: Path) -> dict[str, str]:
    """Give the packages a folder's modules import from elsewhere, each with one place that does."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names):
                found.setdefault(top, f"{path.relative_to(HOUSE)}:{node.lineno}")
    return found


@pytest.mark.parametrize("folder", [HOUSE / "kat_platform", *(HOUSE / "plugins").glob("*/kat_*")], ids=lambda f: f.name)
def test_every_import_is_a_declared_dependency(folder):
    core = folder.name == "kat_platform"
    project = settings(HOUSE if core else folder.parent)["project"]
    known = declared(project)
    for_tests = declared(project, "testing") if core else known
    offers = metadata.packages_distributions()
    missing = []
    for package, where in foreign_imports(folder).items():
        by = {canonicalize_name(name) for name in offers.get(package, [package])}
        allowed = for_tests if where.startswith("kat_platform/testing/") else known
        if package not in (folder.name, "kat_platform", "pydantic_core") and not by & allowed:
            missing.append(f"{where} imports {package} ({', '.join(by)})")
    assert missing == [], f"{project['name']} uses what its pyproject.toml does not declare"


def test_nothing_of_one_machine_or_of_one_index_is_written_down():
    # In pieces, so that this page does not find itself.
    hosts = "|".join(
        ("py" + r"pi\.(org|python)", "pythonhosted" + r"\.org", r"deb\.debian" + r"\.org", "registry" + r"\.npmjs")
    )
    paths = "|".join(
        rf"(?<![\w./-]){top}"
        for top in ("/" + r"home/\w", "/" + "root/", "/" + "work/", "/" + "farm/", "/opt/" + "pypi")
    )
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(f"{hosts}|{paths}", line):
                found.append(f"{path.relative_to(HOUSE)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_no_merge_is_left_half_done():
    mark = re.compile(rb"^(<{7}|>{7}|\|{7}) ", re.MULTILINE)
    assert [str(path.relative_to(HOUSE)) for path in tracked() if mark.search(path.read_bytes())] == []


def test_nothing_that_is_made_is_tracked():
    made = re.compile(r"(^|/)(__pycache__|dist|build|\.venv[^/]*|[^/]*\.egg-info)/|\.(pyc|whl)$|(^|/)(\.coverage)$")
    assert [str(path.relative_to(HOUSE)) for path in tracked() if made.search(str(path.relative_to(HOUSE)))] == []


def test_scripts_can_be_run():
    scripts = [*(HOUSE / "scripts").glob("*.sh"), HOUSE / ".ci" / "run"]
    assert [path.name for path in scripts if not path.stat().st_mode & 0o100] == []
    for path in scripts:
        subprocess.run(["bash", "-n", str(path)], check=True)


def test_pins_have_versions_and_nothing_else():
    lines = [line for line in (HOUSE / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 30
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    ours = [line for line in lines if re.match(r"kat(-|==)", line)]
    assert ours == [], "our own wheels are named by path, never looked for by name"
