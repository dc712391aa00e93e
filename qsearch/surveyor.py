"""From what a survey asks for to what it finds; ``qsearch sensitivity``."""

from __future__ import annotations

from qsearch import registry
from qsearch.campaign import prepare
from qsearch.config import BudgetConfig, CampaignConfig, ObjectiveConfig, PluginConfig
from qsearch.errors import ConfigError
from qsearch.sensitivity_cache import sensitivities
from qsearch.survey import Survey, SurveyConfig


def survey(config: SurveyConfig) -> Survey:
    """Find the sensitivities that are asked for.

    Raises:
        UserError: an unknown plug-in, options or bits that are not valid, data that are missing.
        EvaluationError: a sensitivity that cannot be found, or is not finite.
    """
    wanted = config.sensitivity
    estimator = registry.create("sensitivities", wanted.name, wanted.options)  # before the workload is trained
    setting = prepare(_campaign(config))
    space = setting.problem.space
    if not space.variables:
        raise ConfigError("a survey needs at least one site that is not fixed", got="none", fix="fix fewer sites")
    found = sensitivities(wanted.name, wanted.options, space, setting.evaluator)
    quantity = getattr(estimator, "quantity", "predicted damage")
    return Survey(config, setting.workload.name, quantity, space, found.table, found.seconds, setting.float_quality)


def _campaign(config: SurveyConfig) -> CampaignConfig:
    """A campaign on the same network and space, which is only prepared: its objective and its searcher are never used."""
    return CampaignConfig(
        name="survey",
        budget=BudgetConfig(evaluations=1),
        workload=config.workload,
        hardware=PluginConfig(name="size"),
        evaluator=config.evaluator,
        space=config.space,
        objectives=(ObjectiveConfig(metric="size", direction="minimize"),),  # a metric whatever a score is called
        searcher=PluginConfig(name="uniform"),
    )
