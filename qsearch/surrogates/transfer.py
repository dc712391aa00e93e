"""Transfer: what is known of one target, as the start for another.

With a source, y = ρ·m_s + δ (:mod:`qsearch.surrogates.model`). In logs ρ is an exponent, a constant factor between the targets
is δ's mean, and as δ also sees m_s it learns f_target = 2·f_source + 1, which is a curve in logs, from a handful of points. What the source is unsure
of is not carried over: δ is learnt from the target and covers it.

A source that has nothing to say must not hurt. Both models are fitted, with and without it, and each observation is
predicted from all others: the source is used where it makes the log density of these predictions better by more than :data:`GAIN`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from qsearch.surrogates.model import Batch, LogCost

Floats = NDArray[np.float64]

GAIN = 10.0
"""Nats, of all observations together, that a source must be worth. ρ and the lengths were found from the very observations that
judge it: on the tests' network, shuffled costs as a source seemed to be worth up to 8 at 10 to 20 samples, f of 2·f + 1 10 to 55."""


def fit_with_source(
    batch: Batch,
    y: Floats,
    *,
    seed: int,
    per_kind: bool = False,
    source: LogCost | None = None,
    known: LogCost | None = None,
) -> LogCost:
    """The better of the models with and without the source, by leave-one-out; arguments are those of :meth:`LogCost.fit`.

    Raises:
        DataError: as :meth:`LogCost.fit`.
    """
    fit = partial(LogCost.fit, batch, y, seed=seed, per_kind=per_kind)
    if source is None:
        return fit(known=known)
    used, alone = (
        fit(source=chosen, known=known if known is not None and (known.source is None) == (chosen is None) else None)
        for chosen in (source, None)
    )
    return used if len(y) * (used.leave_one_out - alone.leave_one_out) > GAIN else alone
