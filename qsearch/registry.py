"""From names to plug-ins: entry points, ``module:Class`` and ``path/to/file.py:Class``.

Built-ins are found in the same way as anyone else's: no privileged path.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from qsearch.errors import ConfigError, PluginError, nearest
from qsearch.protocols import CostModel, Evaluator, Reward, Searcher, Sensitivity, Target, Workers, Workload
from qsearch.pruning import Pruner

Seam = Literal[
    "cost_models",
    "targets",
    "workloads",
    "evaluators",
    "searchers",
    "sensitivities",
    "rewards",
    "pruners",
    "workers",
]


@dataclass(frozen=True)
class _Shape:
    """What a plug-in of a seam must have.

    Attributes:
        singular: what one of them is called.
        protocol: the seam, on the page of :mod:`qsearch.protocols` or in :mod:`qsearch.pruning`.
        methods: of the class; the protocol's own are stubs, which do not count.
        inherited: methods whose default in the protocol does count.
        attributes: of the instance.
    """

    singular: str
    protocol: type[Any]
    methods: tuple[str, ...]
    inherited: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


_SHAPES: Mapping[Seam, _Shape] = {
    "cost_models": _Shape("cost model", CostModel, ("layer_cost",), ("estimate", "estimate_many"), ("units",)),
    "targets": _Shape("target", Target, ("precisions", "versions", "measure"), (), ("units",)),
    "workloads": _Shape(
        "workload", Workload, ("model", "calibration", "validation", "loss", "score"), (), ("name", "metric")
    ),
    "evaluators": _Shape("evaluator", Evaluator, ("evaluate",)),
    "searchers": _Shape("searcher", Searcher, ("search",)),
    "sensitivities": _Shape("sensitivity", Sensitivity, ("table",)),
    "rewards": _Shape("reward", Reward, ("__call__",)),
    "pruners": _Shape("pruner", Pruner, ("verdict",)),
    "workers": _Shape("kind of workers", Workers, ("start",)),
}


class PluginOptions(BaseModel):
    """Base of a plug-in's ``Options``: an unknown name or a wrong type is an error, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@cache
def _entries(seam: Seam) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"qsearch.{seam}")}


def names(seam: Seam) -> list[str]:
    """Names of the installed plug-ins of a seam."""
    return sorted(_entries(seam))


def load(seam: Seam, name: str) -> type[Any]:
    """The class behind a name.

    Raises:
        PluginError: unknown, or it cannot be imported.
    """
    if ":" in name:
        return _load_path(name)
    if name not in _entries(seam):
        raise PluginError(f"unknown {_SHAPES[seam].singular} {name!r}", fix=nearest(name, names(seam)))
    try:
        found = _entries(seam)[name].load()
    except PluginError:  # it says itself what it lacks
        raise
    except Exception as error:  # a plug-in may fail to import in any way; the user needs its name and the reason
        raise PluginError(f"plug-in {name!r} cannot be imported", got=f"{type(error).__name__}: {error}") from error
    return _as_class(found, name)


def create(seam: Seam, name: str, options: Mapping[str, Any] | None = None, *context: Any) -> Any:
    """A plug-in by name, with its options validated; ``context`` goes in front of them.

    Raises:
        PluginError: unknown, it cannot be imported, or it lacks something that its seam asks for.
        ConfigError: an option that is unknown or not valid, by its path.
    """
    plugin, shape = load(seam, name), _SHAPES[seam]
    _check_fit(name, shape, _missing_methods(plugin, shape))
    schema = getattr(plugin, "Options", None)
    if schema is None:
        if options:
            raise ConfigError(f"{name!r} takes no options", got=", ".join(options))
        made = plugin(*context)
    else:
        made = plugin(*context, validate(schema, options or {}, f"options of {name!r}"))
    _check_fit(name, shape, [key for key in shape.attributes if not hasattr(made, key)])
    return made


def path_options(seam: Seam, name: str) -> set[str]:
    """The options of a plug-in that are files or folders: those with a ``Path`` in their type.

    Raises:
        PluginError: unknown, or it cannot be imported.
    """
    schema: type[BaseModel] | None = getattr(load(seam, name), "Options", None)
    fields = schema.model_fields if schema is not None else {}
    return {key for key, field in fields.items() if Path in (field.annotation, *get_args(field.annotation))}


def _missing_methods(plugin: type[Any], shape: _Shape) -> list[str]:
    """Methods that a class lacks, or has as stubs only."""
    missing = [key for key in (*shape.methods, *shape.inherited) if not callable(getattr(plugin, key, None))]
    stubs = [key for key in shape.methods if getattr(plugin, key, None) is getattr(shape.protocol, key)]
    if not getattr(plugin, "additive", True):  # a cost model that prices whole networks need not price layers
        stubs = []
    return list(dict.fromkeys([*missing, *stubs, *sorted(getattr(plugin, "__abstractmethods__", ()))]))


def _check_fit(name: str, shape: _Shape, missing: list[str]) -> None:
    if missing:
        raise PluginError(
            f"plug-in {name!r} must be {'an' if shape.singular[0] in 'aeiou' else 'a'} {shape.singular}",
            got=f"a class without {', '.join(missing)}",
            fix=f"see {shape.protocol.__name__} in {shape.protocol.__module__}",
        )


def validate(schema: type[BaseModel], value: Any, where: str) -> Any:
    """``value`` as an instance of ``schema``; the first problem is told by its path, rule and nearest name.

    Raises:
        ConfigError: it does not fit.
    """
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _fields(schema, first["loc"][:-1])
            raise ConfigError(
                f"unknown option {path!r} in {where}", fix=nearest(str(first["loc"][-1]), known)
            ) from None
        got = None if first["type"] == "missing" else first["input"]
        raise ConfigError(f"{path or 'value'} in {where}: {_rule(first['msg'])}", got=got) from None


def _rule(message: str) -> str:
    """pydantic's sentence, to stand behind a colon; a validator's own words as they are."""
    own = message.removeprefix("Value error, ")
    return own if own != message else message[:1].lower() + message[1:]


def _fields(schema: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the model at ``path`` within ``schema``; list indices on the way are passed over."""
    model = schema
    for part in path:
        if part in model.model_fields:
            model = _model_in(model.model_fields[str(part)].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model within a type: ``tuple[Model, ...]``, ``Annotated[Model, …]``, ``Model | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner)) is not None), None)


def _load_path(name: str) -> type[Any]:
    """The class behind ``module:Class`` or ``path/to/file.py:Class``."""
    location, _, attribute = name.rpartition(":")
    try:
        if location.endswith(".py"):
            module = _import_file(Path(location))
        else:
            module = importlib.import_module(location)
    except PluginError:
        raise
    except Exception as error:  # as in load(): the user's file may fail in any way
        raise PluginError(f"plug-in {name!r} cannot be imported", got=f"{type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if isinstance(value, type) and not key.startswith("_")]
        raise PluginError(f"{location} has no class {attribute!r}", fix=nearest(attribute, known))
    return _as_class(getattr(module, attribute), name)


def _import_file(path: Path) -> Any:
    """Import a Python file once, under a name that is its own."""
    if not path.is_file():
        raise PluginError("a plug-in's file must exist", got=str(path))
    key = f"qsearch_plugin_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path)
        if spec is None or spec.loader is None:
            raise PluginError("a plug-in's file must be Python source", got=str(path))
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key]


def _as_class(found: Any, name: str) -> type[Any]:
    if not isinstance(found, type):
        raise PluginError(f"plug-in {name!r} must be a class", got=type(found).__name__)
    return found
