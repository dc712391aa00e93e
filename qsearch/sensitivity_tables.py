"""What a table of sensitivities must be to be believed: whole, finite, and of the shape of its space."""

from __future__ import annotations

import numpy as np

from qsearch.errors import EvaluationError
from qsearch.protocols import SensitivityTable
from qsearch.space import SearchSpace


def check_table(space: SearchSpace, table: SensitivityTable) -> None:
    """Raise unless damages and interactions fit the space.

    Raises:
        EvaluationError: see :func:`check_damage` and :func:`check_interactions`.
    """
    check_damage(space, table)
    check_interactions(space, table)


def check_damage(space: SearchSpace, table: SensitivityTable) -> None:
    """Raise unless there is a number for each choice of each decision.

    Raises:
        EvaluationError: a sensitivity that is missing, not finite or of the wrong shape.
    """
    for variable in space.variables:
        rows = np.asarray(table.damage.get(variable.name, np.nan), dtype=np.float64)
        shape = (variable.length, len(variable.choices))
        if rows.shape != shape or not np.all(np.isfinite(rows)):
            raise EvaluationError(
                f"sensitivities of {variable.name!r} must be finite, of shape {shape}",
                got=f"shape {rows.shape}, {int(np.sum(~np.isfinite(rows)))} not finite",
            )


def check_interactions(space: SearchSpace, table: SensitivityTable) -> None:
    """Raise unless each interaction has a number for each pair of choices of two layer-wise variables.

    Raises:
        EvaluationError: a pair that the space does not have, or in another order; values that are not finite or of the
            wrong shape.
    """
    variables = {variable.name: variable for variable in space.variables}
    for names, given in table.interactions.items():
        found = [variables[name] for name in names if name in variables and variables[name].length == 1]
        values = np.asarray(given, dtype=np.float64)
        fits = len(found) == 2 and found[0].start < found[1].start
        if not fits or values.shape != tuple(len(v.choices) for v in found) or not np.isfinite(values).all():
            raise EvaluationError(
                "an interaction must be of two layer-wise variables in the order of the space, finite, a number per "
                "pair of choices",
                got=f"{' and '.join(map(repr, names))}, shape {values.shape}",
            )
