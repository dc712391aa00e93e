"""Everything that can go wrong, as one tree.

::

    QSearchError                    one clear line: the rule; what was given; the nearest fix
    ├── UserError                   the request cannot be carried out as written  (exit code 2)
    │   ├── ConfigError             a campaign file, an option, a command line
    │   ├── PluginError             a plug-in that is unknown or does not fit its seam
    │   ├── SpaceError              bits, sites or assignments outside the search space
    │   ├── InfeasibleError         a constraint that no assignment can meet
    │   └── DataError               data or weights that are missing, empty or malformed
    └── Failure                     the request was fine, the work failed          (exit code 1)
        ├── EvaluationError         an evaluation gave no usable quality
        ├── CostModelError          a cost model broke its contract
        ├── StorageError            a ledger or a run folder cannot be read or written
        ├── Interrupted             the user stopped it                                (exit code 130)
        └── BudgetExhausted         raised by the oracle when nothing is left to spend; a campaign ends on it

Every error says the rule that was broken, the value that broke it and the nearest fix, in one line.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class QSearchError(Exception):
    """Base of all errors raised by qsearch on purpose.

    Args:
        rule: what must hold, as a statement ("bits must be within 0..32").
        got: the value that broke it; shown with ``repr``, or as it is when it is a string of words.
        fix: what the reader should do next.
    """

    exit_code = 1

    def __init__(self, rule: str, *, got: object = None, fix: str | None = None) -> None:
        self.rule, self.got, self.fix = rule, got, fix
        parts = [rule]
        if got is not None:
            parts.append(f"got {got if isinstance(got, str) else repr(got)}")
        if fix:
            parts.append(fix)
        super().__init__("; ".join(" ".join(part.split()) for part in parts))


class UserError(QSearchError):
    """The request cannot be carried out as written."""

    exit_code = 2


class ConfigError(UserError):
    """A campaign file, an option or a command line is not valid."""


class PluginError(UserError):
    """A plug-in is unknown, cannot be loaded, or does not fit its seam."""


class SpaceError(UserError):
    """Bits, sites or an assignment lie outside the search space."""


class InfeasibleError(UserError):
    """No assignment of the space meets a constraint."""


class DataError(UserError):
    """Data or weights are missing, empty or malformed."""


class Failure(QSearchError):
    """The request was valid; carrying it out failed."""


class EvaluationError(Failure):
    """An evaluation gave no usable quality."""


class CostModelError(Failure):
    """A cost model broke its contract."""


class StorageError(Failure):
    """A ledger, a cache or a run folder cannot be read or written."""


class Interrupted(Failure):
    """The user stopped the work."""

    exit_code = 130


class BudgetExhausted(Failure):
    """Nothing is left of the budget; a campaign ends on it."""


def told(error: Exception) -> str:
    """An error that is not ours in words, with the line that raised it: ``KeyError: 'x' (chip.py, line 12)``."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({Path(frame.filename).name}, line {frame.lineno})"


def first_line(error: Exception) -> str:
    """What an error says first; torch's go on for pages."""
    return str(error).strip().partition("\n")[0][:200]


def nearest(name: str, known: Iterable[str]) -> str:
    """The fix for an unknown name: the closest known one, then all of them. Of equally close ones, letters swapped win."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    close.sort(key=lambda other: (-difflib.SequenceMatcher(None, other, name).ratio(), sorted(other) != sorted(name)))
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or 'none'}"
