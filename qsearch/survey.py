"""A survey: the sensitivities of one workload, without a campaign. What is asked for, and what was found.

What looks at a workload without a search, :mod:`qsearch.inspection` too, does so by a campaign that is only prepared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from qsearch import registry
from qsearch.config import (
    BudgetConfig,
    CampaignConfig,
    ObjectiveConfig,
    Plugin,
    PluginConfig,
    SpaceConfig,
    changed,
)
from qsearch.protocols import SensitivityTable
from qsearch.space import SearchSpace
from qsearch.trial import Quality

Asked = TypeVar("Asked", bound=BaseModel)


class SurveyConfig(BaseModel):
    """Which sensitivity of which network, at which bits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workload: Plugin
    sensitivity: Plugin
    evaluator: Plugin = PluginConfig(name="ptq")
    space: SpaceConfig = SpaceConfig()


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        config: what was asked for.
        workload: its name.
        quantity: what a damage is, in words, with its unit where it has one.
        space: the space that was surveyed.
        table: damages and interactions.
        seconds: what it took to compute, whenever that was.
        float_quality: of the float network on validation data.
    """

    config: SurveyConfig
    workload: str
    quantity: str
    space: SearchSpace
    table: SensitivityTable
    seconds: float
    float_quality: Quality


def parse(value: Mapping[str, Any], changes: Sequence[str], where: str) -> SurveyConfig:
    """Settings as a :class:`SurveyConfig`, some of them changed by ``path.to.setting=value`` with a YAML value.

    Raises:
        ConfigError: by path, rule and nearest name.
    """
    return asked(SurveyConfig, value, changes, where)


def asked(schema: type[Asked], value: Mapping[str, Any], changes: Sequence[str], where: str) -> Asked:
    """Settings as an instance of ``schema``, some of them changed; see :func:`parse`.

    Raises:
        ConfigError: by path, rule and nearest name.
    """
    first: Asked = registry.validate(schema, value, where)
    settings = changed(first.model_dump(mode="json"), changes)
    final: Asked = registry.validate(schema, settings, where)
    return final


def only_prepared(workload: PluginConfig, evaluator: PluginConfig, space: SpaceConfig) -> CampaignConfig:
    """A campaign on a network and its space, to be prepared: its objective and its searcher are never used."""
    return CampaignConfig(
        name="survey",
        budget=BudgetConfig(evaluations=1),
        workload=workload,
        hardware=PluginConfig(name="size"),
        evaluator=evaluator,
        space=space,
        objectives=(ObjectiveConfig(metric="size", direction="minimize"),),  # a metric whatever a score is called
        searcher=PluginConfig(name="uniform"),
    )
