"""The rows of the tables: which tool, in which environment, with which options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BUDGETS = (4.0, 3.0, 2.5, 2.2)
"""Mean bits per weight, over all weights that are quantised."""

ALL = list(range(2, 9))
"""Bits that weights may take."""

AUTO = 12
"""Evaluations of our searcher that makes more than one; about three times the passes of the others in all."""


@dataclass(frozen=True)
class Entry:
    """A row.

    Attributes:
        label: what it is called.
        tool: script ``{tool}_peer.py``, and the environment that it runs in.
        options: see the script's ``quantize``.
        allocates: whether its bits are worth a row in the comparison of allocations; the same bits with other
            ranges or another recovery are not.
    """

    label: str
    tool: str
    options: Mapping[str, Any]
    allocates: bool = True

    @property
    def folder(self) -> str:
        """The label as a file name."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.label)


def qsearch(searcher: str, granularity: str, evaluations: int, **arguments: Any) -> Entry:
    """A searcher of ours, for so many evaluations."""
    label = f"qsearch {searcher}" + (f", per {granularity}" if searcher != "uniform" else "")
    options = {"searcher": searcher, "arguments": arguments, "granularity": granularity, "evaluations": evaluations}
    return Entry(label, "qsearch", options)


def modelopt(label: str, ranges: str, *, uniform: bool = False, allocates: bool = True) -> Entry:
    """ModelOpt, with ranges by the largest weight ("max") or by squared error ("mse")."""
    return Entry(f"ModelOpt {label}", "modelopt", {"uniform": uniform, "bits": ALL, "ranges": ranges}, allocates)


def mct(label: str, epochs: int = 0, *, uniform: bool = False, bits: tuple[int, ...] = (), allocates: bool) -> Entry:
    """The model compression toolkit, with so many epochs of gradient-based rounding."""
    return Entry(f"MCT {label}", "mct", {"uniform": uniform, "bits": bits or ALL, "epochs": epochs}, allocates)


def entries(epochs: int) -> list[Entry]:
    """All rows.

    Args:
        epochs: of gradient-based rounding, over the calibration images; 0 leaves its rows out.
    """
    one = {"sensitivity": "fisher", "solutions": 1}
    return [
        qsearch("uniform", "layer", len(ALL)),
        qsearch("ilp", "layer", 1, **one),
        qsearch("ilp", "kernel", 1, **one),
        qsearch("auto", "layer", AUTO),
        qsearch("auto", "kernel", AUTO),
        modelopt("uniform", "max", uniform=True, allocates=False),
        modelopt("auto_quantize", "max"),
        modelopt("auto_quantize, mse", "mse"),
        mct("uniform", uniform=True, allocates=False),
        mct("mixed", allocates=True),
        *(rounding(epochs) if epochs else []),
    ]


def rounding(epochs: int) -> list[Entry]:
    """The rows with gradient-based rounding, which takes many times as long as all else."""
    label = f"GPTQ, {epochs} epochs"
    return [
        mct(f"uniform + {label}", epochs, uniform=True, allocates=False),
        mct(f"mixed + {label}", epochs, allocates=False),
        mct(f"mixed {{2,4,8}} + {label}", epochs, bits=(2, 4, 8), allocates=False),
    ]
