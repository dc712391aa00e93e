"""A campaign: one searcher on one problem, recorded from the first trial to the test of what it found."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from filelock import FileLock, Timeout
from pydantic import BaseModel

from qsearch import registry
from qsearch.anatomy import Anatomy
from qsearch.assignment import FLOAT_BITS
from qsearch.config import CampaignConfig, dump
from qsearch.costs import NetworkCost
from qsearch.errors import (
    BudgetExhausted,
    ConfigError,
    DataError,
    Failure,
    InfeasibleError,
    QSearchError,
    StorageError,
    told,
)
from qsearch.evaluate.data import read
from qsearch.layers import Layer
from qsearch.ledger import Ledger
from qsearch.oracle import CampaignOracle, checked
from qsearch.overlay_costs import Charge
from qsearch.problem import Problem, resolve
from qsearch.protocols import Evaluator, HeldOutEvaluator, Progressive, Remembering, Searcher, Workload
from qsearch.pruning import Pruner, check_prunable
from qsearch.quantize.trace import examine
from qsearch.run import CONFIG_FILE, Run, RunInfo, provenance, read_config, read_info, storage_url
from qsearch.serialise import quality_to_json
from qsearch.sites import build_space, overlaid
from qsearch.trial import Quality, Trial

log = logging.getLogger(__name__)


@runtime_checkable
class Choosy(Protocol):
    """A searcher that cannot take every problem. It is asked before the first search of a sweep begins."""

    def check(self, problem: Problem) -> None:
        """Raise a :class:`qsearch.errors.UserError` unless it can search the problem; spends nothing."""
        ...


@dataclass(frozen=True)
class Setting:
    """What the campaigns of a sweep share: the network, how it is judged, and what is asked for."""

    workload: Workload
    evaluator: Evaluator
    problem: Problem
    float_quality: Quality
    anatomy: Anatomy


def prepare(config: CampaignConfig) -> Setting:
    """Build the plug-ins of a campaign, and its problem.

    Raises:
        UserError: whatever is wrong with the campaign, before any evaluation of a search.
    """
    with _blamed("cost model", config.hardware.name):
        cost_model = registry.create("cost_models", config.hardware.name, config.hardware.options)
    with _blamed("workload", config.workload.name):
        workload: Workload = registry.create("workloads", config.workload.name, config.workload.options)
        anatomy = anatomy_of(workload)
        layers = anatomy.layers
    overlay = None if config.space.overlay is None else config.space.overlay.build()
    given = {**config.space.model_dump(), "ties": anatomy.groups(config.space.ties), "overlay": overlay}
    space = build_space(layers, **given)
    layers = overlaid(layers, space, overlay)
    with _blamed("evaluator", config.evaluator.name):
        evaluator = registry.create("evaluators", config.evaluator.name, config.evaluator.options, workload, layers)
        float_quality = checked(evaluator.evaluate(space.reference(FLOAT_BITS)), workload.metric)
    with _blamed("cost model", config.hardware.name):
        charge = Charge() if config.space.overlay is None else config.space.overlay.charge()
        problem = _problem(config, NetworkCost(cost_model, layers, space, charge), float_quality)
    _check_pruner(config, evaluator, problem)
    return Setting(workload, evaluator, problem, float_quality, anatomy)


def build_searcher(config: CampaignConfig) -> Searcher:
    """The searcher of a campaign.

    Raises:
        UserError, Failure: it is unknown, its options are not valid, or it cannot be made.
    """
    with _blamed("searcher", config.searcher.name):
        searcher: Searcher = registry.create("searchers", config.searcher.name, config.searcher.options)
    return searcher


def build_pruner(config: CampaignConfig) -> Pruner | None:
    """The pruner of a campaign, new: it may remember what it has seen of one search. None where it never prunes.

    Raises:
        UserError, Failure: it is unknown, its options are not valid, or it cannot be made.
    """
    with _blamed("pruner", config.pruner.name):
        pruner: Pruner = registry.create("pruners", config.pruner.name, config.pruner.options)
    return pruner if getattr(pruner, "active", True) else None


def _check_pruner(config: CampaignConfig, evaluator: Evaluator, problem: Problem) -> None:
    """Raise unless evaluations can be ended early, where that is asked for.

    Raises:
        UserError: of the pruner; the evaluator's effort does not grow in steps; an objective minimises the metric.
    """
    if build_pruner(config) is None:
        return
    if not isinstance(evaluator, Progressive):
        raise ConfigError(
            f"pruner {config.pruner.name!r} needs an evaluator whose effort grows in steps",
            got=f"evaluator {config.evaluator.name!r}",
            fix="evaluator: qat, or pruner: none",
        )
    check_prunable(problem)


def check_searcher(config: CampaignConfig, searcher: Searcher, problem: Problem) -> None:
    """Raise unless a searcher takes the problem; one that is not :class:`Choosy` takes any.

    Raises:
        UserError: it does not.
    """
    with _blamed("searcher", config.searcher.name):
        if isinstance(searcher, Choosy):
            searcher.check(problem)


def check_same(
    ours: BaseModel, earlier: BaseModel, where: str, free: Collection[str] = ("budget", "max_failures")
) -> None:
    """Raise unless two campaigns, or two sweeps, agree in all but their ``free`` settings.

    Raises:
        ConfigError: the first setting that differs.
    """
    here, there = ours.model_dump(mode="json"), earlier.model_dump(mode="json")
    changed = [key for key in here if key not in free and here[key] != there[key]]
    if changed:
        raise ConfigError(
            f"{where} holds another campaign",
            got=f"{changed[0]}: {there[changed[0]]!r} there, {here[changed[0]]!r} here",
            fix="choose another name, or remove the folder and its ledger",
        )


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
def _blamed(seam: str, name: str) -> Iterator[None]:
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


class Campaign:
    """One searcher on one problem.

    Args:
        config: the campaign.
        root: the folder that holds all runs.
        on_trial: called with the oracle after each trial, and without a trial when the searcher has something to show.
    """

    def __init__(
        self, config: CampaignConfig, root: Path, on_trial: Callable[[CampaignOracle, Trial | None], None] | None = None
    ) -> None:
        self.config, self.root = config, root
        self.folder = root / config.name
        self._on_trial = on_trial or (lambda oracle, trial: None)

    def run(self, setting: Setting | None = None) -> Run:
        """Search, or resume a search, until the budget is spent; then test what was found.

        Args:
            setting: from :func:`prepare`, if campaigns share it.

        Raises:
            InfeasibleError: the search met no assignment within the bounds on costs.
            UserError, Failure: see :mod:`qsearch.errors`; every recorded trial is kept.
        """
        searcher = build_searcher(self.config)
        setting = setting or prepare(self.config)
        check_searcher(self.config, searcher, setting.problem)
        with self._locked():
            ledger, info = self._open(setting)
            oracle = self._oracle(setting, ledger)
            self._remind(setting.evaluator, ledger)
            try:
                with _blamed("searcher", self.config.searcher.name):
                    searcher.search(oracle)
            except BudgetExhausted as end:
                log.debug("%s ended: %s", self.config.name, end)
            run = Run(self.folder, self.config, info, tuple(ledger.trials()))
            info = info.model_copy(
                update={
                    "status": "complete",
                    "seconds": oracle.elapsed,
                    "evaluations": oracle.spent,
                    "sensitivity_samples": oracle.sensitivity_samples,
                    "sensitivity_seconds": oracle.sensitivity_seconds,
                    "training_samples": oracle.training_samples,
                    "training_seconds": oracle.training_seconds,
                    "tested": _test(setting, run),
                }
            )
            ledger.annotate({"qsearch": info.model_dump(mode="json")})
        _check_spent(setting.problem, oracle)
        return Run(run.folder, run.config, info, run.trials)

    def _oracle(self, setting: Setting, ledger: Ledger) -> CampaignOracle:
        oracle = CampaignOracle(
            problem=setting.problem,
            evaluator=setting.evaluator,
            record=ledger,
            budget=self.config.budget.build(),
            seed=self.config.seed,
            max_failures=self.config.max_failures,
            evaluate_infeasible=self.config.evaluate_infeasible,
            pruner=build_pruner(self.config),
            folder=self.folder,
        )
        oracle.on_trial = lambda trial: self._on_trial(oracle, trial)
        oracle.on_note = lambda notes: self._on_trial(oracle, None)
        return oracle

    def _remind(self, evaluator: Evaluator, ledger: Ledger) -> None:
        """Tell an evaluator that may start from earlier trials where it may keep them, and what is recorded."""
        if isinstance(evaluator, Remembering):
            with _blamed("evaluator", self.config.evaluator.name):
                evaluator.remember(self.folder, ledger.trials())

    def _locked(self) -> Any:
        """The run's folder, made if need be, held against other processes; a dead process holds no lock."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return FileLock(self.folder / ".lock", timeout=0).acquire()
        except Timeout:
            raise StorageError(
                "a run may be driven by one process at a time",
                got=str(self.folder),
                fix="wait for the other, or stop it",
            ) from None
        except OSError as error:
            raise StorageError("the run's folder must be writable", got=f"{self.folder}: {error}") from error

    def _open(self, setting: Setting) -> tuple[Ledger, RunInfo]:
        """Write the campaign to its folder and ledger, or check that they hold this very campaign."""
        self.check_folder()
        url, problem = storage_url(self.config, self.root), setting.problem
        ledger = Ledger(url, self.config.name, problem.objectives, problem.space)
        if "qsearch" in ledger.attributes:
            info = self._reopened(read_info(ledger), f"study {self.config.name!r} in {url}")
        else:
            info = _describe(self.config, setting)
        dump(self.config, self.folder / CONFIG_FILE)
        ledger.annotate({"qsearch": info.model_dump(mode="json")})
        return ledger, info

    def _reopened(self, info: RunInfo, where: str) -> RunInfo:
        """What the ledger says of the campaign, running again; it was found, wherever it once lay."""
        earlier = registry.validate(CampaignConfig, info.config, where)
        check_same(self.config, earlier.model_copy(update={"storage": self.config.storage}), where)
        if info.provenance["versions"] != provenance()["versions"]:
            log.warning("%s was begun with other versions of its packages; results may differ", self.config.name)
        return info.model_copy(update={"config": self.config.model_dump(mode="json"), "status": "running"})

    def check_folder(self) -> None:
        """Raise unless the run's folder is free, or holds this campaign: only budget and limits on failures may grow.

        Raises:
            ConfigError: it holds another one.
        """
        if (self.folder / CONFIG_FILE).is_file():
            check_same(self.config, read_config(self.folder), str(self.folder))


def _check_spent(problem: Problem, oracle: CampaignOracle) -> None:
    """Raise when a search has ended without an evaluation.

    Raises:
        InfeasibleError: everything it tried was over a bound on a cost.
        Failure: it tried nothing.
    """
    if any(trial.evaluated for trial in oracle.trials):
        return
    if not oracle.trials:
        raise Failure("the search ended before its first evaluation", got=str(oracle.budget), fix="raise the budget")
    raise InfeasibleError(
        f"none of the {len(oracle.trials)} assignments that the search tried meets all bounds on costs together",
        got=", ".join(bound.label for bound in problem.cost_bounds),
        fix="loosen one; the searcher 'ilp' finds an assignment within them, or shows that there is none",
    )


def _describe(config: CampaignConfig, setting: Setting) -> RunInfo:
    problem = setting.problem
    return RunInfo(
        config=config.model_dump(mode="json"),
        quality_name=problem.quality_name,
        units=dict(problem.cost.units),
        definitions=dict(problem.cost.definitions),
        layers=problem.layers,
        variables={variable.name: list(variable.choices) for variable in problem.space.variables},
        space_log10=math.log10(problem.space.size),
        bounds=problem.bounds,
        reference=dict(problem.cost.estimate(problem.space.reference(8)).totals),
        float_quality=quality_to_json(setting.float_quality),
        provenance=provenance(),
    )


def _test(setting: Setting, run: Run) -> dict[str, dict[str, Any]]:
    """Quality on test data of the float network and of the best trial; nothing where there is no test data."""
    chosen, evaluator = run.best, setting.evaluator
    if chosen is None or not isinstance(evaluator, HeldOutEvaluator):
        return {}
    known = run.info.tested
    try:
        return {
            "float": known.get("float") or quality_to_json(evaluator.test(setting.problem.space.reference(FLOAT_BITS))),
            str(chosen.number): known.get(str(chosen.number)) or quality_to_json(evaluator.test(chosen.assignment)),
        }
    except DataError as error:
        log.warning("%s: not tested: %s", run.config.name, error)
    except Exception as error:  # the search has ended; a plug-in that fails now must not take its record along
        reason = " ".join(str(error).split())
        log.warning("%s: not tested: %s: %s", run.config.name, type(error).__name__, reason)
    return {}
