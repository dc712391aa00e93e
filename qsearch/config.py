"""The campaign file: what it may say, and how it is read.

A file describes one campaign, or several at once: ``seed`` and ``searcher`` may be lists, and every combination is a
campaign of its own (a searcher that uses no chance runs for the first seed only). :class:`Sweep` is the file,
:class:`CampaignConfig` is one campaign of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from qsearch import registry
from qsearch.errors import ConfigError, PluginError, StorageError, UserError
from qsearch.files import write_atomically
from qsearch.oracle import Budget
from qsearch.overlay import Overlay
from qsearch.overlay_costs import Charge
from qsearch.problem import Constraint, Direction, Objective
from qsearch.sites import CONSTANT_BITS, STATE_BITS


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PluginConfig(_Strict):
    """A plug-in by name, with its options; a bare name is enough."""

    name: str
    options: dict[str, Any] = {}


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _employed(value: Any) -> Any:
    """Workers by name; the address of a Ray cluster stands for ``ray`` with it."""
    if isinstance(value, str) and re.fullmatch(r"auto|ray://.+|.+:\d+", value):
        return {"name": "ray", "options": {"address": value}}
    return _named(value)


Plugin = Annotated[PluginConfig, BeforeValidator(_named)]
WorkersPlugin = Annotated[PluginConfig, BeforeValidator(_employed)]
Bitwidths = Annotated[tuple[Annotated[int, Field(ge=0, le=32)], ...], Field(min_length=1)]


class BudgetConfig(_Strict):
    """Evaluations, minutes, or whichever ends first."""

    evaluations: Annotated[int, Field(gt=0)] | None = None
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _given(self) -> BudgetConfig:
        if self.evaluations is None and self.minutes is None:
            raise ValueError("needs evaluations or minutes")
        return self

    def build(self) -> Budget:
        """The budget as the oracle takes it."""
        return Budget(self.evaluations, self.minutes)


class OverlayConfig(_Strict):
    """Overlays to choose from, and what hardware makes of them; see :class:`qsearch.overlay.Overlay`."""

    period: int = Overlay.period
    kept: tuple[int, ...] = Overlay.kept
    patterns: tuple[str, ...] = Overlay.patterns
    layers: tuple[str, ...] | None = None
    packed: bool = Charge.packed
    """Ternary weights are stored five in a byte; otherwise at two bits each."""
    decode: float = Charge.decode
    """What finding the kept weights adds to their arithmetic, as a share of it."""

    @model_validator(mode="after")
    def _valid(self) -> OverlayConfig:
        try:
            self.build()
            self.charge()
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    def build(self) -> Overlay:
        """The choices as a space takes them."""
        return Overlay(self.period, self.kept, self.patterns, self.layers)

    def charge(self) -> Charge:
        """The charge as costs take it."""
        return Charge(self.packed, self.decode)


_OF_NEURONS = {"state_bits": STATE_BITS, "leak_bits": CONSTANT_BITS, "threshold_bits": CONSTANT_BITS}
"""What neurons may choose from where nothing is said."""


class SpaceConfig(_Strict):
    """Bits to choose from, and what is not searched; see :func:`qsearch.sites.build_space`."""

    weight_bits: Bitwidths = (2, 3, 4, 5, 6, 7, 8)
    activation_bits: Bitwidths = (2, 3, 4, 5, 6, 7, 8)
    state_bits: Bitwidths = _OF_NEURONS["state_bits"]
    leak_bits: Bitwidths = _OF_NEURONS["leak_bits"]
    threshold_bits: Bitwidths = _OF_NEURONS["threshold_bits"]
    granularity: Literal["layer", "kernel"] = "layer"
    fixed: dict[str, Annotated[int, Field(ge=0, le=32)]] = {}
    ties: tuple[str | Annotated[tuple[str, ...], Field(min_length=1)], ...] = ()
    """Groups of sites that must agree, and kinds of groups that are found: see :data:`qsearch.anatomy.TIES`."""
    overlay: OverlayConfig | None = None
    """Weights that are ternary but for a part of higher precision; none without it."""

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Choices of neurons are written where they are chosen: most networks have none."""
        found: dict[str, Any] = write(self)
        unsaid = {name for name, choices in _OF_NEURONS.items() if getattr(self, name) == choices}
        return {name: value for name, value in found.items() if name not in unsaid}


class ObjectiveConfig(_Strict):
    """A metric of quality or of cost, and which way is better."""

    metric: str
    direction: Direction

    def build(self) -> Objective:
        """The objective as a problem takes it."""
        return Objective(self.metric, self.direction)


class ConstraintConfig(_Strict):
    """A limit; in one line (``latency<=0.6``) or field by field.

    Either way it is relative (``auto``: a cost to uniform-8, a quality to nothing) unless ``unit`` says that the number
    is absolute. ``relative_to: null`` written out is absolute too: that is how resolved campaigns record it.
    """

    metric: str
    at_most: float | None = None
    at_least: float | None = None
    relative_to: str | None = None
    unit: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _relative(cls, value: Any) -> Any:
        plain = isinstance(value, Mapping) and "relative_to" not in value and value.get("unit") is None
        return {**value, "relative_to": "auto"} if plain else value

    @model_validator(mode="after")
    def _valid(self) -> ConstraintConfig:
        try:
            self.build()
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def build(self) -> Constraint:
        """The constraint, its limit still as it was written."""
        return Constraint(self.metric, self.at_most, self.at_least, self.relative_to, self.unit)


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = Constraint.parse(value)
    return {key: getattr(found, key) for key in ConstraintConfig.model_fields}


class _Shared(_Strict):
    """What a campaign and a sweep have in common."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")]
    budget: BudgetConfig
    workload: Plugin
    hardware: Plugin
    space: SpaceConfig = SpaceConfig()
    evaluator: Plugin = PluginConfig(name="ptq")
    pruner: Plugin = PluginConfig(name="none")
    workers: WorkersPlugin = PluginConfig(name="none")
    objectives: Annotated[tuple[ObjectiveConfig, ...], Field(min_length=1)] = (
        ObjectiveConfig(metric="accuracy", direction="maximize"),
    )
    constraints: tuple[Annotated[ConstraintConfig, BeforeValidator(_parsed)], ...] = ()
    storage: str | None = None
    max_failures: Annotated[int, Field(gt=0)] = 10
    evaluate_infeasible: bool = False


class CampaignConfig(_Shared):
    """One searcher on one problem."""

    searcher: Plugin
    seed: Annotated[int, Field(ge=0)] = 0


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class Sweep(_Shared):
    """A campaign file: one campaign, or every combination of its searchers and seeds."""

    searcher: Annotated[tuple[Plugin, ...], BeforeValidator(_listed), Field(min_length=1)]
    seed: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_listed), Field(min_length=1)] = (0,)

    def campaigns(self) -> list[CampaignConfig]:
        """The campaigns of the file; those of a sweep are named ``name/searcher-sSEED``.

        Raises:
            PluginError: an unknown searcher.
            ConfigError: two campaigns of the same name, or a name of two parts.
        """
        shared = {key: getattr(self, key) for key in _Shared.model_fields}
        alone = len(self.searcher) == len(self.seed) == 1
        if not alone and "/" in self.name:
            raise ConfigError("the name of several campaigns must have one part", got=self.name)
        found = []
        for searcher in self.searcher:
            stochastic = getattr(registry.load("searchers", searcher.name), "stochastic", True)
            for seed in self.seed if stochastic else self.seed[:1]:
                name = self.name if alone else f"{self.name}/{_slug(searcher)}-s{seed}"
                found.append(CampaignConfig(**{**shared, "name": name, "searcher": searcher, "seed": seed}))
        names = [config.name for config in found]
        if len(set(names)) != len(names):
            raise ConfigError("campaigns of a sweep must have different names", got=", ".join(names))
        return found


def merged(sweep: Sweep, earlier: Sweep) -> Sweep:
    """A sweep with what an earlier one of the same name had besides: the searchers and seeds of both, the earlier first."""
    searchers = {_slug(searcher): searcher for searcher in (*earlier.searcher, *sweep.searcher)}
    seeds = dict.fromkeys((*earlier.seed, *sweep.seed))
    return sweep.model_copy(update={"searcher": tuple(searchers.values()), "seed": tuple(seeds)})


def _slug(searcher: PluginConfig) -> str:
    """A short folder name for a searcher, its options included."""
    name = searcher.name.rpartition(":")[2] if ":" in searcher.name else searcher.name
    shown = [_short(value) for value in searcher.options.values() if isinstance(value, str | int | float)]
    return re.sub(r"[^\w.-]+", "-", "-".join([name, *shown])).strip("-._")


def _short(value: str | int | float) -> str:
    """An option's value in a folder's name; of an absolute path the last two parts."""
    parts = Path(value).parts if isinstance(value, str) and Path(value).is_absolute() else (str(value),)
    return "-".join(parts[-2:])


def load(path: Path) -> Sweep:
    """Read a campaign file.

    Raises:
        ConfigError: it cannot be read, is not YAML, or says something that is not valid.
    """
    try:
        value = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "a campaign file must be readable", got=f"{path}: {error}", fix="qsearch init writes one"
        ) from None
    except (YAMLError, ValueError) as error:  # ruamel.yaml lets the errors of Python's own types through
        raise ConfigError(f"{path} must be valid YAML", got=" ".join(str(error).split())) from None
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path} must be a mapping of settings", got=type(value).__name__, fix="qsearch init writes one"
        )
    return parse(value, str(path), path.parent)


def parse(value: Mapping[str, Any], where: str, folder: Path = Path()) -> Sweep:
    """Settings as a :class:`Sweep` that means the same from any folder.

    Files and folders, of plug-ins and in their options, are looked up beside the campaign file, then in the working folder;
    a storage whose file has a relative path is taken to lie below the working folder. All become absolute.

    Raises:
        ConfigError: by path, rule and nearest name.
    """
    sweep: Sweep = registry.validate(Sweep, value, where)
    if "objectives" not in sweep.model_fields_set:
        metric = quality_name(_class_file(sweep.workload.name, folder))
        sweep = sweep.model_copy(update={"objectives": (ObjectiveConfig(metric=metric, direction="maximize"),)})
    updates: dict[str, Any] = {
        "workload": _located("workloads", sweep.workload, folder),
        "hardware": _located("cost_models", sweep.hardware, folder),
        "evaluator": _located("evaluators", sweep.evaluator, folder),
        "pruner": _located("pruners", sweep.pruner, folder),
        "workers": _located("workers", sweep.workers, folder),
        "searcher": tuple(_located("searchers", searcher, folder) for searcher in sweep.searcher),
    }
    updates["storage"] = None if sweep.storage is None else _absolute_storage(sweep.storage)
    return sweep.model_copy(update=updates)


def quality_name(workload: str) -> str:
    """What the score of a workload is called, by the workload's name; "accuracy" where its class does not say.

    An instance may call it otherwise: :func:`qsearch.setting.prepare` tells where it does.
    """
    with suppress(PluginError):  # it is told when the plug-in is made
        metric = getattr(registry.load("workloads", workload), "metric", None)
        return metric if isinstance(metric, str) else "accuracy"  # a property is no name
    return "accuracy"


def override(sweep: Sweep, changes: Sequence[str], where: str) -> Sweep:
    """A sweep with some settings changed, each as ``path.to.setting=value`` with a YAML value.

    Raises:
        ConfigError: not of that form, or not valid.
    """
    value = sweep.model_dump(mode="json")
    for key in ("searcher", "seed"):
        value[key] = value[key][0] if len(value[key]) == 1 else value[key]
    return parse(changed(value, changes), where) if changes else sweep


def changed(value: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Settings with some of them changed, each as ``path.to.setting=value`` with a YAML value.

    Raises:
        ConfigError: not of that form.
    """
    for change in changes:
        path, found, text = change.partition("=")
        if not found:
            raise ConfigError("a setting is changed by path.to.setting=value", got=change)
        *parents, last = path.split(".")
        target: Any = value
        for name in parents:
            target = target.setdefault(name, {}) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            raise ConfigError("a setting's path must lead through groups of settings", got=path)
        try:
            target[last] = YAML(typ="safe").load(text)
        except (YAMLError, ValueError) as error:
            raise ConfigError(f"the value of {path} must be YAML", got=" ".join(str(error).split())) from None
    return value


def _located(seam: registry.Seam, plugin: PluginConfig, folder: Path) -> PluginConfig:
    """A plug-in with the files and folders that it is named by, and reads, by absolute path: a run resumes from anywhere."""
    name, options = _class_file(plugin.name, folder), _class_file(plugin.options, folder)
    there = {key: found for key, value in options.items() if (found := _existing(value, folder)) is not None}
    if there:  # only then, as it takes importing the plug-in
        with suppress(PluginError):  # it is told when the plug-in is made
            options |= {key: there[key] for key in registry.path_options(seam, name) & there.keys()}
    return PluginConfig(name=name, options=options)


def _class_file(value: Any, folder: Path) -> Any:
    """Every ``file.py:Class`` by absolute path."""
    if isinstance(value, dict):
        return {key: _class_file(inner, folder) for key, inner in value.items()}
    if not isinstance(value, str):
        return value
    location, _, name = value.rpartition(":")
    found = _existing(location, folder) if location.endswith(".py") else None
    return value if found is None else f"{found}:{name}"


def _existing(value: Any, folder: Path) -> str | None:
    """The absolute path of a file or folder of this name: beside the campaign file, else in the working folder."""
    if not isinstance(value, str) or not value:
        return None
    return next((str(path.resolve()) for path in (folder / value, Path(value)) if path.exists()), None)


def sqlite_url(path: Path, driver: str = "") -> str:
    """The URL of a SQLite file: what has a meaning in URLs, or in Optuna's templates of them, is percent-encoded."""
    return f"sqlite{driver}:///" + re.sub(r"[%?#{}]", lambda found: f"%{ord(found[0]):02X}", str(path))


def _absolute_storage(url: str) -> str:
    """A storage URL with the path of its file, if it is one, made absolute."""
    if url.startswith("journal:"):
        return f"journal:{Path(url.removeprefix('journal:')).absolute()}"
    found = re.fullmatch(r"sqlite(\+\w+)?:///(?!:memory:|file:)([^?]+)(\?.*)?", url)
    if found is None or Path(unquote(found[2])).is_absolute():
        return url
    return sqlite_url(Path(unquote(found[2])).absolute(), found[1] or "") + (found[3] or "")


def _quoted(value: Any) -> Any:
    """Strings with more than words in double quotes: ruamel.yaml writes some of the others so that none can read them."""
    if isinstance(value, dict):
        return {_quoted(key): _quoted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_quoted(inner) for inner in value]
    odd = isinstance(value, str) and not re.fullmatch(r"[A-Za-z/][\w./-]*", value, flags=re.ASCII)
    return DoubleQuotedScalarString(value) if odd else value


def dump(config: BaseModel, path: Path) -> None:
    """Write a configuration as YAML, every setting spelt out; the file is whole or not there.

    Raises:
        StorageError: the folder cannot be written.
    """
    yaml, text = YAML(), StringIO()
    yaml.default_flow_style, yaml.width = None, 120
    yaml.dump(_quoted(config.model_dump(mode="json")), text)
    try:
        write_atomically(path, text.getvalue().encode())
    except OSError as error:
        raise StorageError("the run's folder must be writable", got=f"{path}: {error}") from error
