"""``optuna``: any Optuna sampler as a searcher, by ask and tell.

Each decision is an integer parameter, the index of its bits among its choices, so that samplers know the order. The
study lives in memory and in this search only; the record of a campaign is kept by the oracle.

What a sampler is told, and why:

==============  ==========================================================================================
complete        objective values, and the violation of every bound
infeasible      COMPLETE too, or TPE, NSGA and GP would not learn where the bounds are: true violations and costs.
                Quality is not known: its median so far stands in, and a violation of 0 for bounds on quality. TPE and
                NSGA rank infeasible trials by their violations alone; the GP does fit the values, and the middle is
                where its prior is. (The worst value so far would teach it that many bits are bad.)
pruned          COMPLETE, with the quality that it had when it ended: less than it would have come to, or an estimate of it, so it teaches what
                the pruner found, that this is no place to look. As PRUNED, all samplers but TPE would leave it out, and
                propose it again.
failed          FAIL: every sampler leaves it out
==============  ==========================================================================================

CMA-ES takes no constraints: infeasible trials are told a value beyond any objective, rising with the violation, which
for a method that looks at ranks only is Deb's rule (Comput. Methods Appl. Mech. Eng. 186, 2000). QMC and random do
not learn.

Speed: about 0.02 s a proposal for TPE at 40 decisions. With 1,000 decisions Optuna needs 0.3 s (NSGA-II, QMC), 0.5 s
(TPE) or 1 s (CMA-ES; ``sampler_options: {use_separable_cma: true}`` helps) a proposal; for larger spaces, as with bits
per kernel, prefer ``random`` or ``ilp``. GP takes seconds a proposal from 100 trials on.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from typing import Any, Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import IntDistribution
from optuna.trial import TrialState
from pydantic import Field
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from qsearch import registry
from qsearch.errors import ConfigError, nearest
from qsearch.problem import Problem
from qsearch.protocols import Oracle, Searcher
from qsearch.registry import PluginOptions
from qsearch.search.damage import predicted_damage
from qsearch.search.draws import distinct_within_budget, uniform_vectors
from qsearch.search.lattice import predicted_best
from qsearch.search.optuna_quiet import quiet_optuna
from qsearch.space import SearchSpace
from qsearch.trial import Trial

log = logging.getLogger(__name__)

SamplerName = Literal["tpe", "nsga2", "nsga3", "gp", "cmaes", "qmc", "random"]

SAMPLERS: dict[SamplerName, type[optuna.samplers.BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "nsga2": optuna.samplers.NSGAIISampler,
    "nsga3": optuna.samplers.NSGAIIISampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "qmc": optuna.samplers.QMCSampler,
    "random": optuna.samplers.RandomSampler,
}
CONSTRAINED = frozenset({"tpe", "nsga2", "nsga3", "gp"})
"""Samplers that read a trial's constraints."""

IDLE = 10
"""Proposals in a row that spend nothing, known or over a bound, after which a random assignment is put in.

It is new and projected onto the budget. A sampler that has converged, or that has not found the feasible part of the
space, would otherwise go on proposing for as long as the oracle answers.
"""
BEYOND = 1e300
"""A value that no objective reaches."""
DECISIONS = 2000
"""Decisions beyond which a proposal takes seconds, and a warning is due."""
POPULATION = 16
"""Default population of NSGA-II and NSGA-III, whatever the budget: a run resumed with a larger one replays."""


class OptunaSampler(Searcher):
    """A sampler of Optuna, in one or several objectives."""

    stochastic = True

    class Options(PluginOptions):
        """Which sampler, and how it is set up."""

        sampler: SamplerName = "tpe"
        """Which one. CMA-ES takes one objective only."""
        sampler_options: dict[str, Any] = Field(default_factory=dict)
        """Arguments of the sampler's class, as Optuna documents them. The seed is the campaign's."""
        warm_start: bool | str | None = None
        """Propose first what this plug-in for sensitivities predicts to be best; true: the uniform assignments."""
        warm_start_options: dict[str, Any] = Field(default_factory=dict)
        warm_starts: int = Field(default=8, ge=1)
        """How many to propose from sensitivities."""
        batch: int = Field(default=1, ge=1)
        """Proposals that are asked for together, before any of them is told, for workers to divide. They depend on it:
        more know less of each other. TPE spreads them with ``sampler_options: {constant_liar: true}``."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        _check_options(self.options.sampler, self.options.sampler_options)
        if self.options.warm_start_options and not isinstance(self.options.warm_start, str):
            raise ConfigError(
                "warm_start_options are those of a sensitivity, which warm_start must name",
                got=f"warm_start: {self.options.warm_start}",
                fix="warm_start: one-at-a-time",
            )

    def check(self, problem: Problem) -> None:
        """Raise unless the sampler can search the problem.

        Raises:
            ConfigError: several objectives for a sampler that takes one; options that the sensitivity does not take.
            PluginError: the sensitivity is unknown.
        """
        if isinstance(self.options.warm_start, str):
            registry.create("sensitivities", self.options.warm_start, self.options.warm_start_options)
        if self.options.sampler == "cmaes" and len(problem.objectives) > 1:
            raise ConfigError(
                "sampler 'cmaes' takes one objective", got=len(problem.objectives), fix="use tpe, nsga2, nsga3 or gp"
            )

    def search(self, oracle: Oracle) -> None:
        """Ask, evaluate, tell, by batches, until the budget is spent or the space is exhausted.

        Raises:
            BudgetExhausted: within a batch.
            ConfigError: see :meth:`check`.
        """
        problem = oracle.problem
        self.check(problem)
        if problem.space.dimension > DECISIONS:
            log.warning(
                "optuna proposes slowly beyond %s decisions, got %s: use the searcher 'random' or 'ilp', or granularity: layer",
                f"{DECISIONS:,}",
                f"{problem.space.dimension:,}",
            )
        with quiet_optuna():
            study = optuna.create_study(
                directions=[objective.direction for objective in problem.objectives],
                sampler=build_sampler(self.options, oracle.seed),
            )
            self._loop(oracle, study, _Teller(problem, study, self.options.sampler))

    def _loop(self, oracle: Oracle, study: optuna.Study, teller: _Teller) -> None:
        space = oracle.problem.space
        names = decision_names(space)
        ranges = {name: IntDistribution(0, int(n) - 1) for name, n in zip(names, space.choice_counts, strict=True)}
        for x in self._first(oracle):
            study.enqueue_trial(dict(zip(names, x.tolist(), strict=True)))
        fresh = distinct_within_budget(oracle.problem, np.random.default_rng(oracle.seed))
        seen: set[bytes] = set()
        idle = 0
        while oracle.remaining > 0 and len(seen) < space.size:
            asked = [
                self._ask(study, ranges) for _ in range(self.options.batch)
            ]  # not fewer at the end: a larger budget goes on
            rows = [np.asarray([one.params[name] for name in names], dtype=np.int64) for one in asked]
            trials = oracle.evaluate_many([space.decode(x) for x in rows])
            for one, x, trial in zip(asked, rows, trials, strict=True):
                idle = 0 if trial.evaluated and x.tobytes() not in seen else idle + 1
                seen.add(x.tobytes())
                teller.tell(one, trial)
            if idle >= IDLE:
                unknown = next((drawn for drawn in fresh if drawn.tobytes() not in seen), None)
                if unknown is None:
                    return
                study.enqueue_trial(dict(zip(names, unknown.tolist(), strict=True)))
                idle = 0

    def _first(self, oracle: Oracle) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        """Index vectors to propose before the sampler is asked."""
        name = self.options.warm_start
        if not isinstance(name, str):
            return uniform_vectors(oracle.problem.space) if name else []
        table = oracle.sensitivity(name, self.options.warm_start_options)
        damage = predicted_damage(oracle.problem.space, table)
        return predicted_best(oracle.problem, damage, self.options.warm_starts)

    def _ask(self, study: optuna.Study, ranges: dict[str, IntDistribution]) -> optuna.Trial:
        """The next proposal. The GP's many small operations are some 15 times slower on two threads than on one."""
        if self.options.sampler != "gp":
            return study.ask(dict(ranges))
        with threadpool_limits(limits=1):
            return study.ask(dict(ranges))


class _Teller:
    """Reports trials to a study, see the module."""

    def __init__(self, problem: Problem, study: optuna.Study, sampler: SamplerName) -> None:
        self._problem, self._study, self._sampler = problem, study, sampler
        self._known: dict[str, list[float]] = {objective.metric: [] for objective in problem.objectives}

    def tell(self, asked: optuna.Trial, trial: Trial) -> None:
        """Report the oracle's answer to a proposal."""
        if trial.state == "failed":
            self._study.tell(asked, state=TrialState.FAIL)
            return
        if self._sampler in CONSTRAINED:
            for bound in self._problem.bounds:
                asked.set_constraint(bound.label, trial.violations.get(bound.label, 0.0))
        self._study.tell(asked, self._values(trial))

    def _values(self, trial: Trial) -> list[float]:
        """Objective values, in the study's directions."""
        over = sum(value for value in trial.violations.values() if value > 0)
        if self._sampler == "cmaes" and over > 0:
            return [self._problem.objectives[0].sign * BEYOND * (1 + min(over, 1e6))]
        values = []
        for metric, known in self._known.items():
            value = trial.value(metric)
            if np.isfinite(value):
                known.append(value)
            values.append(value if np.isfinite(value) else float(np.median(known)) if known else 0.0)
        return values


def decision_names(space: SearchSpace) -> list[str]:
    """A parameter name per decision: its site, with the kernel's number where kernels have bits of their own."""
    return [
        variable.name if variable.length == 1 else f"{variable.name}[{kernel}]"
        for variable in space.variables
        for kernel in range(variable.length)
    ]


def build_sampler(options: OptunaSampler.Options, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler, with defaults that suit budgets of tens to hundreds of evaluations.

    NSGA's own population of 50 would make its first 50 evaluations random; here it is ``POPULATION``.
    The Sobol sequence is scrambled, or every seed would see the same points, the lowest assignment first.

    Raises:
        ConfigError: options that the sampler does not take.
    """
    given = dict(options.sampler_options)
    if options.sampler in ("nsga2", "nsga3"):
        given.setdefault("population_size", POPULATION)
    if options.sampler == "qmc":
        given.setdefault("scramble", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return SAMPLERS[options.sampler](seed=seed, **given)  # type: ignore[call-arg]  # the base class hides it
        except (TypeError, ValueError) as error:
            raise ConfigError(f"sampler_options must suit sampler {options.sampler!r}", got=str(error)) from None


def _check_options(sampler: SamplerName, given: dict[str, Any]) -> None:
    known = set(inspect.signature(SAMPLERS[sampler].__init__).parameters) - {"self", "seed", "constraints_func"}
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown option {name!r} of sampler {sampler!r}", fix=nearest(name, known))
    build_sampler(OptunaSampler.Options(sampler=sampler, sampler_options=given), 0)
