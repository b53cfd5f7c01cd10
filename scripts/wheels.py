"""Builds the wheels of the core and of each plugin into dist/, and prints their paths, the core's first.

What has not changed since it was built is left alone: a digest of every source file decides, not dates. Each is built
from a copy of its sources, because setuptools puts whatever an earlier build left in ``build/`` into the next wheel.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

HOUSE = Path(__file__).resolve().parent.parent
DIST = HOUSE / "dist"
RECORD = DIST / "digests.json"
LITTER = {"__pycache__", "build", "dist", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with a pyproject.toml that becomes one wheel."""

    name: str
    folder: Path
    files: tuple[Path, ...]

    @property
    def pattern(self) -> str:
        """Matches the wheels of this distribution, of any version."""
        return f"{self.name.replace('-', '_')}-[0-9]*.whl"

    def digest(self) -> str:
        """Give a digest of every source file, by path and content."""
        total = hashlib.sha256()
        for path in self.files:
            content = path.read_bytes()
            total.update(f"{path.relative_to(self.folder)}\0{len(content)}\0".encode())
            total.update(content)
        return total.hexdigest()


def projects() -> list[Project]:
    """Find the core and the plugins."""
    core = [HOUSE / "pyproject.toml", HOUSE / "README.md", HOUSE / "LICENSE", *sources(HOUSE / "kat_platform")]
    found = [Project("kat", HOUSE, tuple(path for path in core if path.exists()))]
    for folder in sorted((HOUSE / "plugins").iterdir()):
        settings = folder / "pyproject.toml"
        if settings.exists():
            name = tomllib.loads(settings.read_text())["project"]["name"]
            found.append(Project(name, folder, tuple(sources(folder, skip={"tests"}))))
        elif folder.is_dir():
            print(f"warning: {folder.relative_to(HOUSE)} has no pyproject.toml: left out", file=sys.stderr)
    return found


def sources(folder: Path, skip: set[str] | None = None) -> list[Path]:
    """List the files of a project that can end up in its wheel, in a stable order."""
    barred = LITTER | (skip or set())
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part in barred or part.endswith(".egg-info") for part in path.relative_to(folder).parts)
    )


def build(project: Project) -> Path:
    """Build one wheel into dist/ and remove those of earlier versions; raises with pip's own words."""
    with tempfile.TemporaryDirectory(prefix="kat-wheel-") as scratch:
        copy, out = Path(scratch, "source"), Path(scratch, "out")
        for path in project.files:
            target = copy / path.relative_to(project.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        options = ("--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
        command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(out), str(copy)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(f"{project.name} cannot be built:\n{done.stdout}{done.stderr}")
        (made,) = out.glob("*.whl")
        for old in DIST.glob(project.pattern):
            old.unlink()
        return Path(shutil.move(made, DIST / made.name))


def main() -> int:
    """Build alone; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--force", action="store_true", help="build everything, changed or not")
    force = parser.parse_args().force
    DIST.mkdir(exist_ok=True)
    with (DIST / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # `make up` and `make test` may build at the same time
        return bring_up_to_date(force)


def bring_up_to_date(force: bool) -> int:
    """Build what changed since it was last built, and print every wheel's path."""
    known: dict[str, str] = json.loads(RECORD.read_text()) if RECORD.exists() and not force else {}
    all_projects = projects()
    digests = {project.name: project.digest() for project in all_projects}
    stale = [
        project
        for project in all_projects
        if known.get(project.name) != digests[project.name] or len(list(DIST.glob(project.pattern))) != 1
    ]
    RECORD.unlink(missing_ok=True)  # until all is built again, nothing is known
    if stale:
        print(f"    building {', '.join(project.name for project in stale)}", file=sys.stderr)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            list(pool.map(build, stale))
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
    RECORD.write_text(json.dumps(digests, indent=1))
    for project in all_projects:
        print(next(DIST.glob(project.pattern)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
