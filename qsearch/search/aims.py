"""What a problem asks for, as searchers tell problems apart."""

from __future__ import annotations

from qsearch.errors import UserError
from qsearch.problem import Bound, Problem


def minimised_costs(problem: Problem, searcher: str) -> list[str]:
    """Cost metrics among the objectives.

    Raises:
        UserError: one is to be maximised, which ``searcher`` cannot do.
    """
    costs = [objective for objective in problem.objectives if objective.metric in problem.cost.units]
    for objective in costs:
        if objective.direction == "maximize":
            raise UserError(
                f"{searcher} minimises costs",
                got=f"maximize {objective.metric}",
                fix="use the searcher 'optuna' or 'gp'",
            )
    return [objective.metric for objective in costs]


def quality_bounds(problem: Problem) -> list[Bound]:
    """Bounds on the metric and on the loss."""
    return [bound for bound in problem.bounds if bound.metric not in problem.cost.units]


def is_threshold(problem: Problem) -> bool:
    """Whether a problem asks for the least cost at a quality that is bounded from its bad side."""
    kept = any(bound.at_least == (bound.metric == problem.quality_name) for bound in quality_bounds(problem))
    return kept and all(
        objective.metric in problem.cost.units and objective.direction == "minimize" for objective in problem.objectives
    )


def require_threshold(problem: Problem, searcher: str) -> None:
    """Raise unless :func:`is_threshold`.

    Raises:
        UserError: says what the problem asks for instead.
    """
    if is_threshold(problem):
        return
    raise UserError(
        f"{searcher} minimises a cost under a bound that keeps the quality",
        got=_asked(problem),
        fix=f"e.g. objective {next(iter(problem.cost.units))}:min and constraint {problem.quality_name}>=0.99*float",
    )


def require_bits(problem: Problem, searcher: str) -> None:
    """Raise where an assignment says more of a weight than its bits.

    Raises:
        UserError: weights may be overlaid.
    """
    if any(site.role == "overlay" for site in problem.space.sites):
        raise UserError(
            f"{searcher} decides on bits only",
            got="a space with overlays",
            fix="use the searcher 'optuna', 'gp', 'random' or 'grid'",
        )


def _asked(problem: Problem) -> str:
    objectives = ", ".join(f"{objective.direction} {objective.metric}" for objective in problem.objectives)
    labels = [bound.label for bound in problem.bounds]
    return f"{objectives} under {', '.join(labels) or 'no bound'}"
