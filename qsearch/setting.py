"""``Setting``: what a campaign needs before its search begins: plug-ins made, layers found, problem posed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from qsearch import registry
from qsearch.anatomy import Anatomy
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.config import CampaignConfig, PluginConfig
from qsearch.costs import NetworkCost
from qsearch.errors import (
    ConfigError,
    Failure,
    QSearchError,
    told,
)
from qsearch.evaluate.data import read
from qsearch.layers import Layer
from qsearch.oracle import checked
from qsearch.overlay_costs import Charge
from qsearch.problem import Problem, resolve
from qsearch.protocols import (
    Batching,
    Evaluator,
    Progressive,
    Remembering,
    Searcher,
    Workers,
    Workload,
)
from qsearch.pruning import Pruner, Sampling, Stopper, check_prunable
from qsearch.quantize.trace import examine
from qsearch.sites import build_space, overlaid
from qsearch.trial import Quality

log = logging.getLogger(__name__)


@runtime_checkable
class Choosy(Protocol):
    """A searcher that cannot take every problem. It is asked before the first search of a sweep begins."""

    def check(self, problem: Problem) -> None:
        """Raise a :class:`qsearch.errors.UserError` unless it can search the problem; spends nothing."""
        ...


@dataclass(frozen=True)
class Setting:
    """What the campaigns of a sweep share: the network, how it is judged, by whom, and what is asked for."""

    workload: Workload
    evaluator: Evaluator
    problem: Problem
    float_quality: Quality
    anatomy: Anatomy
    batching: Batching | None = None
    """Workers that hold the evaluator, see :func:`staffed`."""


def prepare(config: CampaignConfig) -> Setting:
    """Build the plug-ins of a campaign, and its problem.

    Raises:
        UserError: whatever is wrong with the campaign, before any evaluation of a search.
    """
    with blamed("cost model", config.hardware.name):
        cost_model = registry.create("cost_models", config.hardware.name, config.hardware.options)
    with blamed("workload", config.workload.name):
        workload: Workload = registry.create("workloads", config.workload.name, config.workload.options)
        anatomy = anatomy_of(workload)
        layers = anatomy.layers
    overlay = None if config.space.overlay is None else config.space.overlay.build()
    given = {**config.space.model_dump(), "ties": anatomy.groups(config.space.ties), "overlay": overlay}
    space = build_space(layers, **given)
    layers = overlaid(layers, space, overlay)
    with blamed("evaluator", config.evaluator.name):
        evaluator = registry.create("evaluators", config.evaluator.name, config.evaluator.options, workload, layers)
        float_quality = checked(evaluator.evaluate(space.reference(FLOAT_BITS)), workload.metric)
    with blamed("cost model", config.hardware.name):
        charge = Charge() if config.space.overlay is None else config.space.overlay.charge()
        problem = _problem(config, NetworkCost(cost_model, layers, space, charge), float_quality)
    _check_pruner(config, evaluator, problem)
    _check_workers(config, evaluator)
    return Setting(workload, evaluator, problem, float_quality, anatomy)


def build_searcher(config: CampaignConfig) -> Searcher:
    """The searcher of a campaign.

    Raises:
        UserError, Failure: it is unknown, its options are not valid, or it cannot be made.
    """
    with blamed("searcher", config.searcher.name):
        searcher: Searcher = registry.create("searchers", config.searcher.name, config.searcher.options)
    return searcher


def build_pruner(config: CampaignConfig) -> Pruner | None:
    """The pruner of a campaign, new: it may remember what it has seen of one search. None where it never prunes.

    Raises:
        UserError, Failure: it is unknown, its options are not valid, or it cannot be made.
    """
    pruner: Pruner | None = _active("pruners", "pruner", config.pruner)
    return pruner


def _active(seam: registry.Seam, called: str, config: PluginConfig) -> Any:
    """A plug-in that a campaign may go without; None where what it names does nothing."""
    with blamed(called, config.name):
        plugin = registry.create(seam, config.name, config.options)
    return plugin if getattr(plugin, "active", True) else None


def _check_pruner(config: CampaignConfig, evaluator: Evaluator, problem: Problem) -> None:
    """Raise unless evaluations can be ended early, where that is asked for.

    Raises:
        UserError: of the pruner; the evaluator's effort does not grow in steps, or its samples do not come in parts;
            several assignments are asked for in one call; an objective minimises the metric.
    """
    pruner = build_pruner(config)
    if pruner is None:
        return
    if config.evaluator.options.get("assignments_at_once", 1) != 1:
        raise ConfigError(
            "evaluations that a pruner watches run one after the other",
            got=f"pruner {config.pruner.name!r} beside assignments_at_once of evaluator {config.evaluator.name!r}",
            fix="assignments_at_once: 1, or pruner: none",
        )
    if isinstance(pruner, Stopper):
        if not isinstance(evaluator, Sampling):
            raise ConfigError(
                f"pruner {config.pruner.name!r} needs an evaluator whose samples can be evaluated some at a time",
                got=f"evaluator {config.evaluator.name!r}",
                fix="evaluator: ptq, or pruner: none",
            )
        pruner.check(problem)
    elif not isinstance(evaluator, Progressive):
        raise ConfigError(
            f"pruner {config.pruner.name!r} needs an evaluator whose effort grows in steps",
            got=f"evaluator {config.evaluator.name!r}",
            fix="evaluator: qat, or pruner: none",
        )
    check_prunable(problem)


def build_workers(config: CampaignConfig) -> Workers | None:
    """Who evaluates beside the campaign's own process; None where nobody does.

    Raises:
        UserError, Failure: they are unknown, their options are not valid, or they cannot be made.
    """
    workers: Workers | None = _active("workers", "workers", config.workers)
    return workers


def _check_workers(config: CampaignConfig, evaluator: Evaluator) -> None:
    """Raise unless evaluations can be divided among workers, where there are any.

    Raises:
        UserError: of the workers; evaluations that are watched, or that start from earlier ones.
    """
    if build_workers(config) is None:
        return
    if build_pruner(config) is not None:
        raise ConfigError(
            "evaluations that a pruner watches run one after the other",
            got=f"pruner {config.pruner.name!r} beside workers {config.workers.name!r}",
            fix="workers: none, or pruner: none",
        )
    if isinstance(evaluator, Remembering) and config.evaluator.options.get("warm_start"):
        raise ConfigError(
            "evaluations that start from earlier ones run one after the other",
            got=f"warm_start of evaluator {config.evaluator.name!r} beside workers {config.workers.name!r}",
            fix="workers: none, or warm_start: false",
        )


@contextmanager
def staffed(config: CampaignConfig, setting: Setting) -> Iterator[Setting]:
    """A setting with the workers of a campaign, where it has any, for as long as they are needed.

    Raises:
        UserError, Failure: they cannot be started.
    """
    workers = None if setting.batching is not None else build_workers(config)
    with ExitStack() as stack:
        if workers is not None:
            with blamed("workers", config.workers.name):
                hired = _Counted(stack.enter_context(workers.start(setting.evaluator)))
            yield replace(setting, batching=hired)
            if hired.most <= 1:
                log.warning("workers were there, but no search asked for more than one assignment at a time")
        else:
            yield setting


class _Counted(Batching):
    """Workers, and the most assignments that they were asked for at a time."""

    def __init__(self, workers: Batching) -> None:
        self._workers, self.most = workers, 0

    def evaluate_many(self, assignments: Sequence[BitAssignment], *, seed: int = 0) -> Iterator[Quality | Exception]:
        """See :class:`qsearch.protocols.Batching`."""
        self.most = max(self.most, len(assignments))
        return self._workers.evaluate_many(assignments, seed=seed)


def check_searcher(config: CampaignConfig, searcher: Searcher, problem: Problem) -> None:
    """Raise unless a searcher takes the problem; one that is not :class:`Choosy` takes any.

    Raises:
        UserError: it does not.
    """
    with blamed("searcher", config.searcher.name):
        if isinstance(searcher, Choosy):
            searcher.check(problem)


def _check_objectives(config: CampaignConfig, cost: NetworkCost, quality: str) -> None:
    """Hold the objectives against what the workload, now made, calls its score.

    Their names and directions were written, or guessed, from its class alone. One that minimises the score is warned of:
    it may be meant.

    Raises:
        ConfigError: one is neither the score, nor the loss, nor a cost.
    """
    for objective in config.objectives:
        if objective.metric == quality and objective.direction == "minimize":
            log.warning("the search minimises %s, of which more is better; %s:max maximises it", quality, quality)
        if objective.metric not in (quality, "loss", *cost.units):
            raise ConfigError(
                f"unknown metric {objective.metric!r} in an objective",
                fix=f"the score of workload {config.workload.name!r} is {quality!r}: say {quality}:max, "
                f"or one of {', '.join(('loss', *cost.units))}",
            )


def _problem(config: CampaignConfig, cost: NetworkCost, float_quality: Quality) -> Problem:
    _check_objectives(config, cost, float_quality.name)
    problem = Problem(
        space=cost.space,
        cost=cost,
        objectives=tuple(objective.build() for objective in config.objectives),
        bounds=tuple(resolve(constraint.build(), cost, float_quality.values) for constraint in config.constraints),
        quality_name=float_quality.name,
        float_quality=dict(float_quality.values),
        float_outcomes=float_quality.outcomes,
    )
    problem.check_floor()
    return problem


@contextmanager
def blamed(seam: str, name: str) -> Iterator[None]:
    """Whatever a plug-in raises of its own becomes one line that says whose it is; a full disk is nobody's."""
    try:
        yield
    except (QSearchError, OSError):
        raise
    except Exception as error:
        raise Failure(f"the {seam} {name!r} raised an error", got=told(error)) from error


def layers_of(workload: Workload) -> tuple[Layer, ...]:
    """The layers of a workload's network; see :func:`anatomy_of`."""
    return anatomy_of(workload).layers


def anatomy_of(workload: Workload) -> Anatomy:
    """Layers, ties and what stays in float of a workload's network, found on its first calibration batch.

    Raises:
        DataError: the calibration loader is empty or yields what is no batch, or the network does not run on it.
    """
    first = read(islice(workload.calibration(), 1), f"calibration loader of workload {workload.name!r}")
    return examine(workload.model(), first.inputs)
