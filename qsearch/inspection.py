"""What a workload's network consists of, and how good it is in float; ``qsearch inspect``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from qsearch.anatomy import Anatomy
from qsearch.config import Plugin, PluginConfig, SpaceConfig
from qsearch.setting import prepare
from qsearch.space import Site
from qsearch.survey import asked, only_prepared
from qsearch.trial import Quality


class InspectionConfig(BaseModel):
    """Which network, and how its quality is found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workload: Plugin
    evaluator: Plugin = PluginConfig(name="ptq")


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        workload: its name.
        anatomy: layers, ties, and what stays in float.
        sites: what a search may give bits to, in the order of the network.
        float_quality: of the float network on validation data.
    """

    workload: str
    anatomy: Anatomy
    sites: tuple[Site, ...]
    float_quality: Quality

    def sites_of(self, layer: str) -> tuple[Site, ...]:
        """The sites of the layer of that name."""
        return tuple(site for site in self.sites if site.layer == layer)


def parse(value: Mapping[str, Any], changes: Sequence[str], where: str) -> InspectionConfig:
    """Settings as an :class:`InspectionConfig`, some of them changed by ``path.to.setting=value`` with a YAML value.

    Raises:
        ConfigError: by path, rule and nearest name.
    """
    return asked(InspectionConfig, value, changes, where)


def inspect(config: InspectionConfig) -> Inspection:
    """Look into a workload.

    Raises:
        UserError: an unknown plug-in, options that are not valid, data that are missing.
        Failure: the network cannot be evaluated.
    """
    setting = prepare(only_prepared(config.workload, config.evaluator, SpaceConfig()))
    space = setting.problem.space
    return Inspection(setting.workload.name, setting.anatomy, space.sites, setting.float_quality)
