"""Imports go one way, down this list of packages, never in a circle (type checking included); a name is one class."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCIENCE = "training attacks models data experiment core"

# What each package may import. Doing (`jobs`) and reading (`report`) meet in the store and on the ground below.
ALLOWED = {
    "core": "",
    "experiment": "core",
    "data": "experiment core",
    "models": "experiment core",
    "attacks": "models data experiment core",
    "training": "attacks models data experiment core",
    "baselines": SCIENCE,
    "methods": SCIENCE,
    "evaluation": SCIENCE,
    "store": "experiment core",
    "jobs": f"store evaluation {SCIENCE}",
    "report": "store experiment core",
    "exchange": "jobs store training models experiment core",
    "doctor": f"jobs store {SCIENCE}",
    "perf": f"jobs store methods baselines {SCIENCE}",
    "api": f"exchange report jobs store evaluation {SCIENCE}",
    "cli": f"perf doctor exchange report jobs store evaluation {SCIENCE}",
    "bench": "api report exchange core",  # bench/__init__.py, the door for users: nothing within imports it
}
# Imports that should not be there, as package → module. Whoever cuts one deletes its line: the test asks for that.
EXCEPTIONS = {
    "store → data.base",  # scores ask which test images a limit keeps
}


def modules() -> dict[str, Path]:
    """Every module by name; `baselines/` and `methods/` are installed as `bench.baselines` and `bench.methods`."""
    found = {}
    for folder, above in (("bench", ()), ("baselines", ("bench",)), ("methods", ("bench",))):
        for path in (ROOT / folder).rglob("*.py"):
            parts = (*above, *path.relative_to(ROOT).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of ours that a file imports: at its top, within functions, under TYPE_CHECKING."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            named |= {name if name in known else str(node.module) for name in inside}
    return named & known.keys()


KNOWN = modules()
IMPORTS = {name: imports(path, KNOWN) for name, path in KNOWN.items()}


def test_no_module_imports_itself_through_others() -> None:
    assert {"bench", "bench.core.errors", "bench.methods.trs", "bench.baselines.ece"} <= KNOWN.keys()
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' ← '.join(error.args[1])}") from None


def test_packages_import_downwards_and_no_exception_outlives_its_import() -> None:
    TopologicalSorter({package: below.split() for package, below in ALLOWED.items()}).prepare()  # raises for a circle
    found: dict[str, set[str]] = {}
    for module, others in IMPORTS.items():
        package, *_ = module.removeprefix("bench.").split(".")
        for other in (name.removeprefix("bench.") for name in others):
            if other.partition(".")[0] not in (package, *ALLOWED[package].split()):
                found.setdefault(f"{package} → {other}", set()).add(module)
    differences = {edge: sorted(found.get(edge, ())) for edge in sorted(found.keys() ^ EXCEPTIONS)}
    assert not differences, f"imports that are not allowed, or exceptions that nothing needs any more: {differences}"


def test_a_class_name_is_used_once() -> None:
    """Apart from rows of the database, named for what they are rows of, and from what a module keeps to itself."""
    found: dict[str, list[str]] = {}
    for module, path in KNOWN.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and module != "bench.store.schema":
                found.setdefault(node.name, []).append(module)
    twice = {name: modules for name, modules in found.items() if len(modules) > 1}
    assert {"Attack", "Method", "RunFolder"} <= found.keys()
    assert not twice, f"a class name that stands for several classes; each should say which it is: {twice}"
