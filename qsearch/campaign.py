"""A campaign: one searcher on one problem, recorded from the first trial to the test of what it found."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from qsearch import registry
from qsearch.assignment import FLOAT_BITS
from qsearch.config import CampaignConfig, dump
from qsearch.errors import (
    BudgetExhausted,
    ConfigError,
    DataError,
    Failure,
    InfeasibleError,
    StorageError,
)
from qsearch.ledger import Ledger
from qsearch.oracle import CampaignOracle
from qsearch.problem import Problem
from qsearch.protocols import (
    Batching,
    Evaluator,
    HeldOutEvaluator,
    Remembering,
)
from qsearch.run import CONFIG_FILE, Run, RunInfo, provenance, read_config, read_info, storage_url
from qsearch.serialise import quality_to_json
from qsearch.setting import Setting, blamed, build_pruner, build_searcher, check_searcher, prepare, staffed
from qsearch.trial import Trial

log = logging.getLogger(__name__)


def check_same(
    ours: BaseModel, earlier: BaseModel, where: str, free: Collection[str] = ("budget", "max_failures", "workers")
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
            setting: from :func:`prepare`, if campaigns share it; from :func:`staffed`, if they share workers too.

        Raises:
            InfeasibleError: the search met no assignment within the bounds on costs.
            UserError, Failure: see :mod:`qsearch.errors`; every recorded trial is kept.
        """
        searcher = build_searcher(self.config)
        setting = setting or prepare(self.config)
        check_searcher(self.config, searcher, setting.problem)
        with self._locked(), staffed(self.config, setting) as setting:
            ledger, info = self._open(setting)
            oracle = self._oracle(setting, ledger)
            self._remind(setting.evaluator, ledger)
            try:
                with blamed("searcher", self.config.searcher.name):
                    searcher.search(oracle)
            except BudgetExhausted as end:
                log.debug("%s ended: %s", self.config.name, end)
            if setting.batching is not None:  # the evaluator here has not seen what workers have evaluated
                self._remind(setting.evaluator, ledger)
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
            batching=setting.batching or _together(setting.evaluator),
            folder=self.folder,
        )
        oracle.on_trial = lambda trial: self._on_trial(oracle, trial)
        oracle.on_note = lambda notes: self._on_trial(oracle, None)
        return oracle

    def _remind(self, evaluator: Evaluator, ledger: Ledger) -> None:
        """Tell an evaluator that may start from earlier trials where it may keep them, and what is recorded."""
        if isinstance(evaluator, Remembering):
            with blamed("evaluator", self.config.evaluator.name):
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
        """Raise unless the run's folder is free, or holds this campaign: only budget, limits on failures and workers may differ.

        Raises:
            ConfigError: it holds another one.
        """
        if (self.folder / CONFIG_FILE).is_file():
            check_same(self.config, read_config(self.folder), str(self.folder))


def _together(evaluator: Evaluator) -> Batching | None:
    """An evaluator that answers several assignments together, as such."""
    return evaluator if isinstance(evaluator, Batching) else None


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
