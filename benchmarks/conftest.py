"""The table that ``make benchmark`` ends with: each target, what was measured, and its spread."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the targets of benchmarks that have told of one."""
    session = getattr(config, "_benchmarksession", None)
    rows = [bench.extra_info for bench in getattr(session, "benchmarks", []) if "target" in bench.extra_info]
    if not rows:
        return
    terminalreporter.section("targets")
    terminalreporter.line(f"{'target':<68}{'at most':>9}{'median':>9}   quartiles")
    for row in rows:
        low, middle, high = row["quartiles"]
        verdict = "" if middle <= row["limit"] else "   missed"
        terminalreporter.line(f"{row['target']:<68}{row['limit']:>9g}{middle:>9.3g}   {low:.3g} .. {high:.3g}{verdict}")
