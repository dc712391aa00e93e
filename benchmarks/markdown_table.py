"""Tables of benchmarks as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def show(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, row by row as they come."""
    for cells in (header, ["---"] * len(header)):
        print(f"| {' | '.join(cells)} |")
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)
    print()
