"""From what a survey asks for to what it finds; ``qsearch sensitivity``."""

from __future__ import annotations

from qsearch import registry
from qsearch.errors import ConfigError
from qsearch.sensitivity_cache import sensitivities
from qsearch.setting import prepare
from qsearch.survey import Survey, SurveyConfig, only_prepared


def survey(config: SurveyConfig) -> Survey:
    """Find the sensitivities that are asked for.

    Raises:
        UserError: an unknown plug-in, options or bits that are not valid, data that are missing.
        EvaluationError: a sensitivity that cannot be found, or is not finite.
    """
    wanted = config.sensitivity
    estimator = registry.create("sensitivities", wanted.name, wanted.options)  # before the workload is trained
    setting = prepare(only_prepared(config.workload, config.evaluator, config.space))
    space = setting.problem.space
    if not space.variables:
        raise ConfigError("a survey needs at least one site that is not fixed", got="none", fix="fix fewer sites")
    found = sensitivities(wanted.name, wanted.options, space, setting.evaluator)
    quantity = getattr(estimator, "quantity", "predicted damage")
    return Survey(config, setting.workload.name, quantity, space, found.table, found.seconds, setting.float_quality)
