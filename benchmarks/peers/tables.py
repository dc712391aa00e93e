"""The two tables, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from judging import Verdict

PIPELINES = ("bits ≤", "tool", "bits", "accuracy %", "less float, paired 95 %", "loss", "CPU s", "passes", "MiB")
ALLOCATIONS = (
    "bits ≤",
    "bits from",
    "bits",
    "accuracy %",
    "loss",
    "corrected: accuracy %",
    "less float, paired 95 %",
    "corrected: loss",
)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of Markdown; the first two columns to the left, numbers to the right."""
    rule = ["---"] * 2 + ["--:"] * (len(titles) - 2)
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, rule, *rows))


def pipeline_row(budget: float, label: str, found: Verdict | str) -> list[str]:
    """A row of full pipelines; a string says why there is no verdict."""
    if isinstance(found, str):
        return [f"{budget:g}", label, found, *[""] * (len(PIPELINES) - 3)]
    price = found.price
    assert price is not None  # pipelines are metered
    spent = [f"{price.seconds:.0f}", f"{price.passes / 1000:.1f}", f"{price.mebibytes:.0f}"]
    return [f"{budget:g}", label, mean_bits(found, budget), accuracy(found), difference(found), loss(found), *spent]


def allocation_row(budget: float, label: str, plain: Verdict, corrected: Verdict) -> list[str]:
    """A row of allocations."""
    repaired = [accuracy(corrected), difference(corrected), loss(corrected)]
    return [f"{budget:g}", label, mean_bits(plain, budget), accuracy(plain), loss(plain), *repaired]


def mean_bits(found: Verdict, budget: float) -> str:
    """Bits, marked where they are over the budget."""
    return f"{found.bits:.3f}" + (" (over)" if found.bits > budget + 1e-9 else "")


def accuracy(found: Verdict) -> str:
    return f"{100 * found.quality.metric:.1f}"


def difference(found: Verdict) -> str:
    mean, low, high = (
        100 * (end or 0.0) for end in (found.difference.mean, found.difference.low, found.difference.high)
    )
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def loss(found: Verdict) -> str:
    return f"{found.quality.loss:.3f}"
