"""The rules of the house that can be read off the code: who imports whom, how large things are, what is not written."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[2]
CORE = HOUSE / "kat_platform"
MAX_LINES = 400
MAX_FUNCTION = 60
BACKENDS = re.compile(r"podman|etcd|wireguard|nftables|\bnft\b|caddy|docker\b", re.IGNORECASE)
SPECIFIED = re.compile(r"etcd_?peer_?port|wireguard_?port", re.IGNORECASE)
"""Fields of the specification that carry a backend's name; they are data, whichever driver is chosen."""
MAY_NAME_BACKENDS = ("model/cluster.py", "lab/", "testing/conformance/")
"""The default names of plugins; the lab, which builds hosts; ``docker.io`` as an example of a reference."""


@dataclass(frozen=True)
class Module:
    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @property
    def name(self) -> str:
        return str(self.path.relative_to(HOUSE))

    def where(self, node: ast.AST) -> str:
        return f"{self.name}:{getattr(node, 'lineno', 1)}"


@cache
def read(path: Path) -> Module:
    """Read a module once; it is parsed once, too, when somebody looks at its tree."""
    return Module(path, path.read_text())


@cache
def modules(*folders: str) -> tuple[Module, ...]:
    """Give every module below the folders (patterns relative to the house)."""
    paths = sorted(path for folder in folders for top in HOUSE.glob(folder) for path in top.rglob("*.py"))
    return tuple(map(read, paths))


SHIPPED = ("kat_platform", "plugins/*/kat_*")
EVERYTHING = (*SHIPPED, "scripts", "tests", "plugins/*/tests", "bench", "examples")


def report(found: list[str], rule: str) -> None:
    assert not found, f"{rule}\n" + "\n".join(f"  {line}" for line in found)


def imports(module: Module) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                continue  # within its own folder
            yield node, node.module or ""
            if node.module == "kat_platform":
                yield from ((node, f"kat_platform.{alias.name}") for alias in node.names)


def barred(folder: str, allowed: tuple[str, ...]) -> list[str]:
    return [
        f"{module.where(node)} imports {name}"
        for module in modules(folder)
        for node, name in imports(module)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not any(name == each or name.startswith(f"{each}.") for each in allowed)
    ]


def test_model_imports_nothing_above_it():
    allowed = ("pydantic", "pydantic_core", "kat_platform.errors", "kat_platform.model")
    report(barred("kat_platform/model", allowed), "model imports only the standard library, pydantic and errors")


def test_interfaces_import_only_model_and_errors():
    allowed = ("pydantic", "kat_platform.errors", "kat_platform.model", "kat_platform.interfaces")
    report(barred("kat_platform/interfaces", allowed), "interfaces import only model and errors")


def test_hooks_import_only_the_contracts():
    allowed = ("pluggy", "click", "aiohttp", "kat_platform.errors", "kat_platform.model", "kat_platform.interfaces")
    report(barred("kat_platform/hooks", (*allowed, "kat_platform.hooks")), "hooks import only contracts and pluggy")


@pytest.mark.parametrize(("folders", "more"), [("plugins/*/kat_*", ()), ("plugins/*/tests", ("testing",))])
def test_plugins_see_only_the_public_contracts(folders, more):
    allowed = [f"kat_platform.{name}" for name in ("model", "interfaces", "hooks", "errors", *more)]
    found = [
        f"{module.where(node)} imports {name}"
        for module in modules(folders)
        for node, name in imports(module)
        if name.startswith("kat_platform.") and not any(name == each or name.startswith(f"{each}.") for each in allowed)
    ]
    report(found, f"a plugin imports only {', '.join(allowed)}")


def test_no_plugin_imports_another():
    found = []
    for module in modules("plugins/*/kat_*", "plugins/*/tests"):
        own = next(
            path.name
            for path in (
                HOUSE / module.path.relative_to(HOUSE).parts[0] / module.path.relative_to(HOUSE).parts[1]
            ).glob("kat_*")
        )
        found += [
            f"{module.where(node)} imports {name}"
            for node, name in imports(module)
            if re.match(r"kat_(?!platform)", name) and name.split(".")[0] != own
        ]
    report(found, "a plugin knows no other plugin")


def test_the_core_imports_no_plugin():
    found = [
        f"{module.where(node)} imports {name}"
        for module in modules("kat_platform")
        for node, name in imports(module)
        if re.match(r"kat_(?!platform)", name)
    ]
    report(found, "the core reaches plugins through their entry points only")


def words(module: Module) -> Iterator[tuple[ast.AST, str]]:
    """Give every name and text of the code; docstrings are prose."""
    prose = {
        id(node.body[0].value)
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose.add(id(node.value))  # the description below a field or constant
        for field in ("id", "attr", "name", "arg", "module"):
            if isinstance(text := getattr(node, field, None), str):
                yield node, text
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node, node.value


def test_the_core_names_no_backend():
    found = [
        f"{module.where(node)}: {text[:80]!r}"
        for module in modules("kat_platform")
        if not module.name.removeprefix("kat_platform/").startswith(MAY_NAME_BACKENDS)
        for node, text in words(module)
        if BACKENDS.search(SPECIFIED.sub("", text))
    ]
    report(found, "nothing in kat_platform names a backend")


def test_one_module_knows_stevedore_and_one_pluggys_manager():
    stevedore = {m.name for m in modules(*SHIPPED) for _, name in imports(m) if name.split(".")[0] == "stevedore"}
    managers = {m.name for m in modules(*SHIPPED) for _, text in words(m) if text in ("PluginManager", "get_hookimpls")}
    assert stevedore == {"kat_platform/registry/drivers.py"}
    assert managers == {"kat_platform/registry/announce.py"}


def test_modules_fit_in_a_head_and_functions_on_a_screen():
    found = [f"{m.name}: {m.text.count(chr(10))} lines" for m in modules(*EVERYTHING) if m.text.count("\n") > MAX_LINES]
    for module in modules(*SHIPPED, "scripts"):
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MAX_FUNCTION:
                    found.append(f"{module.where(node)} {node.name}: {length} lines")
    report(found, f"a module has at most {MAX_LINES} lines, a function {MAX_FUNCTION}")


def test_modules_are_named_after_what_they_do():
    bad = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    report([m.name for m in modules(*EVERYTHING) if m.path.stem in bad or m.path.parent.name in bad], "no such names")


def states_a_rule(decorator: ast.expr) -> bool:
    """Tell whether a decorator says in words what the function is for, as a conformance check's does."""
    first = decorator.args[0] if isinstance(decorator, ast.Call) and decorator.args else None
    return isinstance(first, ast.Constant) and isinstance(first.value, str) and " " in first.value


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[ast.AST, str, bool]]:
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            decorators = {ast.unparse(each).split("(")[0].split(".")[-1] for each in node.decorator_list}
            elsewhere = decorators & {"override", "setter", "overload"} or any(map(states_a_rule, node.decorator_list))
            yield node, f"{prefix}{node.name}", bool(elsewhere)
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


def test_every_public_name_says_what_it_is_for():
    filled = [module for module in modules(*SHIPPED) if module.tree.body]
    found = [f"{module.name}: the module" for module in filled if not ast.get_docstring(module.tree)]
    for module in modules(*SHIPPED):
        if module.path.stem.startswith("_") and module.path.stem != "__init__":
            continue
        for node, name, inherits in public(module.tree.body):
            if not inherits and not ast.get_docstring(node):  # type: ignore[arg-type]
                found.append(f"{module.where(node)} {name}")
    report(found, "every public name has a docstring")


def test_every_module_defers_annotations():
    found = [
        module.name
        for module in modules(*SHIPPED, "scripts")
        if len(module.tree.body) > 1
        and "from __future__ import annotations" not in module.text
        and module.path.name != "__init__.py"
    ]
    report(found, "each module begins with 'from __future__ import annotations'")


def test_every_task_has_a_name():
    found = [
        f"{module.where(node)}: {ast.unparse(node)[:80]}"
        for module in modules(*SHIPPED)
        if not module.name.startswith("kat_platform/testing/")  # tasks of a test, over with it
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("create_task", "ensure_future")
        and not any(keyword.arg == "name" for keyword in node.keywords)
    ]
    report(found, "every task has a name")


def comments(module: Module) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def test_whoever_swallows_everything_says_why():
    found = []
    for module in modules(*SHIPPED, "scripts"):
        said = comments(module)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler):
                caught = {ast.unparse(node.type)} if node.type is not None else {"BaseException"}
                if isinstance(node.type, ast.Tuple):
                    caught = {ast.unparse(each) for each in node.type.elts}
                reraises = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
                near = any(line in said for line in (node.lineno - 1, node.lineno, node.lineno + 1))
                if caught & {"Exception", "BaseException"} and not reraises and not near:
                    found.append(module.where(node))
    report(found, "a broad except has a comment that says why it may swallow")


def test_nothing_is_left_open():
    marks = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3 + r"\b", "NotImplemented" + "Error")))
    found = [
        f"{module.name}:{number}: {line.strip()[:80]}"
        for module in modules(*EVERYTHING)
        for number, line in enumerate(module.text.splitlines(), 1)
        if marks.search(line)
    ]
    report(found, "nothing is left open in the code")


def test_nothing_starts_a_loop_of_its_own():
    found = []
    for module in modules(*SHIPPED):
        if module.name.startswith(("kat_platform/cli/", "kat_platform/lab/")):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("asyncio.run", "os.system"):
                found.append(f"{module.where(node)}: {ast.unparse(node.func)}")
    report(found, "one process, one event loop")
