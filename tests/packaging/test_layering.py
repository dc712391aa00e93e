"""Who may know whom: the imports of every module, held against the order of the rooms.

A room is a module or a package right below ``qsearch``. A module may import its own room and the rooms of the lines above
its own; rooms on one line are siblings and do not know each other. Each core module is a line of its own, which is
stricter than "the core may know the core" and rules out circles. Imports under ``if TYPE_CHECKING`` do not count; imports
inside functions do.

What stands beside the order:

- ``qsearch/__init__.py`` re-exports names of the core and imports nothing else; no module imports names from it.
- ``workloads`` may use ``models``; the two stand on lines of their own, ``evaluate`` beside ``workloads``.
- ``testing`` knows rooms up to the evaluators, and pytest; no other room knows it but ``hardware_tools``, which runs its
  contract of cost models on a class for ``qsearch hardware check``.
- ``campaign`` uses ``quantize.trace`` as a library: it is no plug-in.
- A plug-in's module is imported by its own room only; everyone else finds it through the registry.
- ``envs`` and ``agents`` stand at the top of the tree, with links to them within ``qsearch``: ``agents`` beside
  ``evaluate``, above the environments that it plays.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "qsearch"

ORDER: tuple[tuple[str, ...], ...] = (
    ("errors", "files"),
    ("units",),
    ("assignment", "layers"),
    ("overlay",),
    ("space", "trial", "pareto", "anatomy"),
    ("sites",),
    ("overlay_costs",),
    ("costs",),
    ("problem",),
    ("projection",),
    ("protocols",),
    ("pruning",),
    ("registry",),
    ("sensitivity_tables", "measurements"),
    ("measured_table", "target_plugin"),
    ("sensitivity_cache", "target_process"),
    ("oracle", "measuring"),
    ("spiking",),
    ("hardware", "quantize", "sensitivity", "search", "envs"),
    ("models", "targets", "surrogates", "training", "pruners", "workers"),
    ("evaluate", "workloads", "agents", "learned"),
    ("testing", "serialise", "storage"),
    ("ledger", "config"),
    ("run", "survey", "setting"),
    ("campaign",),
    ("sweep", "surveyor", "remeasured", "inspection", "finetuned"),
    ("report", "remeasuring", "finetuning"),
    ("export", "dashboard", "terminal", "catalogue", "arguments"),
    ("commands",),
    ("hardware_tools",),
    ("cli_hardware",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
CORE = {room for rooms in ORDER[: LEVEL["projection"] + 1] for room in rooms}

HEAVY: dict[str, set[str]] = {
    "torch": {
        "spiking",
        "quantize",
        "sensitivity",
        "models",
        "training",
        "evaluate",
        "learned",
        "workloads",
        "testing",
        "agents",
        "export",
        "finetuning",
        "workers",
    },
    "gymnasium": {"envs", "agents"},
    "stable_baselines3": {"agents"},
    "sb3_contrib": {"agents"},
    "optuna": {"search", "pruners", "storage", "ledger", "report", "dashboard"},
    "optuna_dashboard": {"dashboard"},
    "matplotlib": {"report"},
    "scipy": {"search", "report", "agents", "surrogates"},
    "sklearn": {"workloads", "search", "surrogates"},
    "onnx": {"targets", "export"},
    "onnxruntime": {"targets", "export"},
    "onnxscript": {"export"},
    "qonnx": {"export"},
    "transformers": {"workloads"},
    "datasets": {"workloads"},
    "zigzag": {"targets"},
    "nir": {"spiking"},
    "h5py": {"spiking"},
    "snntorch": {"spiking"},
    "tonic": {"workloads"},
    "ray": {"workers"},
    "pytest": {"testing"},
}
"""Heavy or special modules, and the only rooms that may import them."""

OUTSIDE: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
    "package-dir"
]
"""Packages that do not stand where their name says → their folder."""


def modules() -> list[Path]:
    """Every module once, by the path of its name: that of a linked folder leads through the link."""
    found = set(PACKAGE.rglob("*.py"))
    for package, folder in OUTSIDE.items():
        link = ROOT / Path(*package.split("."))
        found |= {link / path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.py")}
    return sorted(found)


MODULES = modules()
IDS = [path.relative_to(ROOT).as_posix() for path in MODULES]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in MODULES}


def room(module: str) -> str:
    """``qsearch.hardware.size`` → ``hardware``; the package itself → ``qsearch``."""
    return module.split(".")[1] if "." in module else module


def guarded(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def nodes_at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and guarded(child):
            for other in child.orelse:
                yield other
                yield from nodes_at_run_time(other)
        else:
            yield child
            yield from nodes_at_run_time(child)


def imports_in(source: str) -> set[str]:
    """Modules that a source text imports when it runs; ``from qsearch import x`` is ``qsearch.x`` if that is a module."""
    found: set[str] = set()
    for node in nodes_at_run_time(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            base = str(node.module)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in NAMES else base)
    return found


def imports_of(path: Path) -> set[str]:
    return imports_in(path.read_text(encoding="utf-8"))


def forbidden(importer: str, imported: set[str]) -> list[str]:
    """Modules of qsearch that ``importer`` may not know, with the reason."""
    here = room(importer)
    problems = []
    for module in sorted(imported):
        there = room(module)
        if module.partition(".")[0] != "qsearch" or there == here:
            continue
        if here == "qsearch":
            allowed = there in CORE
        else:
            hidden = there == "qsearch" or (there == "testing" and here != "hardware_tools")
            allowed = not hidden and LEVEL[there] < LEVEL[here]
        if not allowed:
            problems.append(f"{importer} imports {module}")
    return problems


def plugins() -> set[str]:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    return {value.partition(":")[0] for entries in groups.values() for value in entries.values()}


def test_no_module_is_counted_twice() -> None:
    assert len({path.resolve() for path in MODULES}) == len(MODULES)
    assert {path.resolve() for path in MODULES} >= {path.resolve() for path in (ROOT / "envs").rglob("*.py")}
    assert {"qsearch.envs", "qsearch.envs.base", "qsearch.agents"} <= NAMES


@pytest.mark.parametrize("package", OUTSIDE)
def test_packages_at_the_top_of_the_tree_are_linked_to(package: str) -> None:
    """Type checkers, editors and editable installs follow the link; it leads within the tree, wherever that stands."""
    link = ROOT / Path(*package.split("."))
    assert link.is_symlink()
    assert link.readlink() == Path("..") / OUTSIDE[package]
    assert link.resolve() == ROOT / OUTSIDE[package]


def test_every_room_has_its_place() -> None:
    rooms = {room(name) for name in NAMES} - {"qsearch"}
    assert rooms == set(LEVEL), "rooms without a line in ORDER, or lines without a room"


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_imports_lead_downwards(path: Path) -> None:
    assert not forbidden(module_name(path), imports_of(path))


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_heavy_imports_stay_in_their_rooms(path: Path) -> None:
    here = room(module_name(path))
    found = {name.partition(".")[0] for name in imports_of(path)} & set(HEAVY)
    assert not {name for name in found if here not in HEAVY[name]}


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_plugins_are_imported_by_their_own_room_only(path: Path) -> None:
    here = room(module_name(path))
    assert not {module for module in imports_of(path) & plugins() if room(module) != here}


def test_the_plugins_are_modules_of_the_tree() -> None:
    assert plugins()
    assert plugins() <= NAMES


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("qsearch.errors", "import qsearch.cli"),
        ("qsearch.costs", "from qsearch.protocols import CostModel"),
        ("qsearch.hardware.new", "from qsearch import quantize"),
        ("qsearch.hardware.new", "from qsearch.quantize.grid import Grid"),
        ("qsearch.search.new", "def f():\n    from qsearch.campaign import Campaign"),
        ("qsearch.models.new", "from qsearch.workloads.base import Samples"),
        ("qsearch.campaign", "from qsearch.testing.problems import separable"),
        ("qsearch.envs.new", "from qsearch.search.random import Random"),
        ("qsearch.envs.new", "from qsearch.agents.replay import Replay"),
        ("qsearch.search.new", "from qsearch.envs.base import BitwidthEnv"),
        ("qsearch.agents.new", "from qsearch.evaluate.data import Split"),
        ("qsearch.run", "try:\n    import qsearch.sweep\nexcept ImportError:\n    pass"),
        ("qsearch.assignment", "from qsearch import Layer"),
        ("qsearch", "from qsearch.registry import load"),
    ],
)
def test_the_rule_sees_a_violation(importer: str, source: str) -> None:
    assert forbidden(importer, imports_in(source))


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("qsearch.costs", "if TYPE_CHECKING:\n    from qsearch.protocols import CostModel"),
        ("qsearch.workloads.new", "from qsearch.models.resnet_cifar import CifarResNet"),
        ("qsearch.hardware.new", "from qsearch.hardware.size import Size\nimport numpy, os.path"),
        ("qsearch.agents.new", "from qsearch.envs.layerwise import LayerwiseEnv\nimport stable_baselines3"),
        ("qsearch.cli", "from qsearch import registry"),
    ],
)
def test_the_rule_lets_pass_what_it_should(importer: str, source: str) -> None:
    assert not forbidden(importer, imports_in(source))


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(modules: list[str]) -> set[str]:
    """The heavy modules that are in memory after these imports, in a fresh interpreter."""
    imports = "; ".join(f"import {module}" for module in modules)
    heavy = sorted(HEAVY)
    return set(run_python(f"import sys; {imports}; print(*[m for m in {heavy} if m in sys.modules])").split())


def test_importing_qsearch_is_light() -> None:
    assert not loaded_by(["qsearch", "qsearch.cli"])


@pytest.mark.parametrize("name", ["core", "hardware", "search", "envs", "report"])
def test_rooms_without_torch_work_without_torch(name: str) -> None:
    rooms = {*CORE, "protocols", "registry", "oracle"} if name == "core" else {name}
    modules = sorted(module for module in NAMES if room(module) in rooms)
    assert modules
    assert "torch" not in loaded_by(modules)


def test_help_is_quick_and_light() -> None:
    code = """
import contextlib, io, sys, time
sys.argv = ["qsearch", "--help"]
from qsearch.cli import main
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    main()
assert "Commands" in out.getvalue(), out.getvalue()
print(time.process_time(), *[name for name in HEAVY if name in sys.modules])
"""
    runs = [run_python(f"HEAVY = {sorted(HEAVY)}{code}").split() for _ in range(3)]
    assert all(len(found) == 1 for found in runs), f"heavy modules were loaded: {runs}"
    # CPU time of the whole process, its start included; the least of three, since the machine may be busy
    assert min(float(found[0]) for found in runs) < 0.5
