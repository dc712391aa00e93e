"""A searcher in one class: hill climbing. In a campaign file: ``searcher: {name: examples/my_searcher.py:HillClimbing}``."""

import numpy as np

from qsearch.projection import project
from qsearch.protocols import Oracle, Searcher


class HillClimbing(Searcher):
    """Change one decision of the best assignment so far; keep what is better."""

    def search(self, oracle: Oracle) -> None:
        rng = np.random.default_rng(oracle.seed)
        problem, space = oracle.problem, oracle.problem.space
        best, x = np.inf, space.highest
        for _ in range(100 * oracle.remaining):  # an end, should it meet known assignments only
            if oracle.remaining == 0:
                return
            step = project(problem, x)
            trial = oracle.evaluate(space.decode(step))
            value = problem.minimised(trial)[0] if trial.feasible else np.inf
            if value < best:
                best, kept = value, step
            x = space.sample(rng, 1)[0] if np.isinf(best) else kept.copy()
            if x.size:
                decision = rng.integers(x.size)
                x[decision] = rng.integers(space.choice_counts[decision])
