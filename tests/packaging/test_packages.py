"""What an installed qsearch consists of: packages, data, entry points, requirements, one version."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import qsearch
from qsearch import registry

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "qsearch"
CONFIG: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = CONFIG["project"]
SETUPTOOLS: dict[str, Any] = CONFIG["tool"]["setuptools"]
OUTSIDE: dict[str, str] = SETUPTOOLS["package-dir"]
REQUIREMENTS = [Requirement(text) for text in PROJECT["dependencies"]]
DEV_REQUIREMENTS = [Requirement(text) for text in PROJECT["optional-dependencies"]["dev"]]
GROUPS: dict[str, dict[str, str]] = PROJECT["entry-points"]
ENTRIES = [(group, name) for group, entries in GROUPS.items() for name in entries]
NOT_OURS = {"pytest"}  # qsearch.testing is imported by test suites, which have it
PARTS = {"pydantic_core": "pydantic"}  # imported by name, but versioned and brought by the other
REINSTALL = "the installed metadata is stale: pip install -e '.[dev]'"


def folder_of(package: str) -> Path:
    """Where the files of a package are."""
    return ROOT / OUTSIDE.get(package, package.replace(".", "/"))


def shipped_files() -> dict[Path, Path]:
    """File within ``site-packages`` → file of the tree; every file once, linked folders by the place they install to."""
    trees = {"qsearch": PACKAGE, **{package: folder_of(package) for package in OUTSIDE}}
    return {
        Path(*package.split(".")) / path.relative_to(folder): path
        for package, folder in trees.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "constraints.txt holds pins, name==version, and comments only"
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def closure(requirements: list[Requirement]) -> Iterator[str]:
    """Names of the distributions that these requirements bring to this machine."""
    seen: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(Requirement(text), wanted) for text in metadata.requires(name) or []]
    yield from {name for name, _ in seen}


def test_every_folder_that_holds_modules_is_listed() -> None:
    """In order, each once; folders below ``envs`` and ``agents`` too."""
    listed: list[str] = SETUPTOOLS["packages"]
    assert listed == sorted(set(listed))
    folders = {path.parent for path in shipped_files() if path.suffix == ".py"}
    assert set(listed) == {".".join(folder.parts) for folder in folders}
    assert all((folder_of(package) / "__init__.py").is_file() for package in listed)


def test_packages_that_stand_elsewhere_are_listed_too() -> None:
    """``envs`` and ``agents`` of the top of the tree install within qsearch."""
    assert OUTSIDE == {"qsearch.agents": "agents", "qsearch.envs": "envs"}
    assert set(OUTSIDE) <= set(SETUPTOOLS["packages"])
    assert len({path.resolve() for path in shipped_files().values()}) == len(shipped_files())


def test_nothing_but_qsearch_is_put_at_the_top_of_site_packages() -> None:
    assert {name.partition(".")[0] for name in SETUPTOOLS["packages"]} == {"qsearch"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in a wheel of the tree as it is, built with the setuptools that is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    source, names = folder / "source", ("pyproject.toml", "README.md", "LICENSE", "qsearch", *OUTSIDE.values())
    source.mkdir()
    for name in names:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    build = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_file_once(wheel: list[str]) -> None:
    held = [name for name in wheel if ".dist-info/" not in name]
    assert sorted(held) == sorted(path.as_posix() for path in shipped_files())
    assert {"qsearch/envs/base.py", "qsearch/agents/__init__.py"} <= set(held)


def test_the_wheel_puts_nothing_but_qsearch_at_the_top(wheel: list[str]) -> None:
    assert {name.partition("/")[0] for name in wheel} == {"qsearch", f"qsearch-{qsearch.__version__}.dist-info"}


def test_every_file_that_is_no_module_is_package_data() -> None:
    files = shipped_files()
    matched = {
        Path(*package.split(".")) / path.relative_to(folder_of(package))
        for package, globs in SETUPTOOLS["package-data"].items()
        for glob in globs
        for path in folder_of(package).glob(glob)
    }
    data = {path for path in files if path.suffix != ".py"}
    assert matched == data
    names = {path.as_posix() for path in data}
    assert {f"qsearch/{name}" for name in ("py.typed", "template.yaml", "report/page.html", "report/page.css")} <= names


def test_every_data_pattern_matches_a_file() -> None:
    empty = [
        (package, glob)
        for package, globs in SETUPTOOLS["package-data"].items()
        for glob in globs
        if not any(folder_of(package).glob(glob))
    ]
    assert not empty


def test_version_is_the_same_everywhere() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert CONFIG["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "qsearch.__version__"}
    assert metadata.version("qsearch") == qsearch.__version__, REINSTALL
    assert str(Version(qsearch.__version__)) == qsearch.__version__


def test_entry_points_installed_are_those_of_the_project() -> None:
    ours = {name for group in GROUPS.values() for name in group.values()}
    for group, entries in GROUPS.items():
        installed = {entry.name: entry.value for entry in metadata.entry_points(group=group) if entry.value in ours}
        assert installed == entries, REINSTALL
    assert {group.removeprefix("qsearch.") for group in GROUPS} == set(get_args(registry.Seam))


@pytest.mark.parametrize(("group", "name"), ENTRIES, ids=lambda part: part.removeprefix("qsearch."))
def test_entry_point_is_a_class_with_a_description(group: str, name: str) -> None:
    plugin = registry.load(group.removeprefix("qsearch."), name)  # type: ignore[arg-type]  # checked against Seam above
    assert isinstance(plugin, type)
    assert f"{plugin.__module__}:{plugin.__qualname__}" == GROUPS[group][name]
    assert (plugin.__doc__ or "").strip(), "qsearch list shows the first line of the docstring"


def test_command_is_installed() -> None:
    (command,) = [entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "qsearch"]
    assert command.value == PROJECT["scripts"]["qsearch"]
    assert callable(command.load())


OPTIONAL = {
    "targets": ("measured", "simulator"),
    "export": ("export",),
    "spiking": ("spiking",),
    "workers": ("cluster",),
    "workloads": ("huggingface", "events"),
}
"""Room → extras whose distributions it may import; it says which extra to install where one is missing."""


def declared_for(path: Path) -> set[str]:
    """Distributions that a file may import."""
    extras = OPTIONAL.get(path.parent.name, ())
    optional = [Requirement(line) for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    return {canonicalize_name(requirement.name) for requirement in (*REQUIREMENTS, *optional)}


def test_every_import_is_a_declared_requirement() -> None:
    providers = metadata.packages_distributions()
    missing = {}
    for path in (path for path in shipped_files().values() if path.suffix == ".py"):
        for module in imported(path) - sys.stdlib_module_names - NOT_OURS - {"qsearch", "_typeshed"}:
            names = [*providers.get(module, []), PARTS.get(module, module)]
            if not {canonicalize_name(name) for name in names} & declared_for(path):
                missing[module] = path.relative_to(ROOT).as_posix()
    assert not missing


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in plain | froms}


def test_constraints_pin_each_distribution_once_in_order() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = [line.split("==")[0] for line in lines if line and not line.startswith("#")]
    assert names == sorted(names, key=canonicalize_name)
    assert len({canonicalize_name(name) for name in names}) == len(names)


def test_constraints_name_no_build_and_no_index() -> None:
    assert not [name for name, version in pins().items() if version.local]
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|(?m:^\s*-)|@", text)


@pytest.mark.parametrize("requirement", [*REQUIREMENTS, *DEV_REQUIREMENTS], ids=lambda found: found.name)
def test_pin_is_within_the_range(requirement: Requirement) -> None:
    pinned = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned)


def test_constraints_pin_all_that_the_development_install_brings() -> None:
    assert set(closure([*REQUIREMENTS, *DEV_REQUIREMENTS])) <= set(pins())
