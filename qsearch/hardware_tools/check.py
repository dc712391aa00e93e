"""``qsearch hardware check``: the contract of cost models, or of targets, run on a user's class and told in words."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

from qsearch.errors import CostModelError, Failure, QSearchError, told
from qsearch.hardware_tools.check_options import make, options_of
from qsearch.protocols import CostModel, Target
from qsearch.registry import Seam, load, names
from qsearch.terminal import set_up_logging
from qsearch.testing.cost_model import CostModelContract, contract_of
from qsearch.testing.target import TargetContract

Outcome = Literal["holds", "broken", "not checked"]

_MARKS: dict[Outcome, tuple[str, str]] = {
    "holds": ("✓", "green"),
    "broken": ("✗", "bold red"),
    "not checked": ("–", "dim"),
}
_FIRST = (
    "test_answers_are_numbers_by_metric",
    "test_units_name_every_metric",
    "test_costs_are_finite_and_not_negative",
)
"""Where one of these is broken, the rules behind it would only say so again."""


@dataclass(frozen=True)
class Finding:
    """One rule of the contract, on one model.

    Attributes:
        rule: what must hold, in words.
        outcome: whether it does.
        reason: what was found instead, with its numbers; empty where it holds.
        fix: what to do; empty where it holds.
    """

    rule: str
    outcome: Outcome
    reason: str = ""
    fix: str = ""


def run(name: str, set_: Sequence[str], as_json: bool) -> None:
    """Check a cost model or a target, and print a line for each rule.

    Raises:
        UserError: no such class, it is neither, or an option is not valid.
        CostModelError: a cost model breaks a rule.
        Failure: the class cannot be made, or a target breaks a rule.
    """
    set_up_logging()
    seam = _seam(name)
    plugin = make(seam, name, options_of([name], set_)[name])
    findings = check(plugin) if seam == "cost_models" else check_target(plugin)
    broken = sum(finding.outcome == "broken" for finding in findings)
    if as_json:
        print(json.dumps({"name": name, "passed": not broken, "rules": [asdict(f) for f in findings]}, indent=2))
    else:
        _print(name, findings)
    if broken:
        kind = CostModelError if seam == "cost_models" else Failure
        raise kind(f"{name} breaks {broken} of the {len(findings)} rules that others rely on")


def _seam(name: str) -> Seam:
    """Where a name belongs: a class that measures, and prices nothing, is a target."""
    if ":" not in name:
        return "targets" if name in names("targets") and name not in names("cost_models") else "cost_models"
    plugin = load("cost_models", name)
    return "targets" if hasattr(plugin, "measure") and not hasattr(plugin, "layer_cost") else "cost_models"


def check(model: CostModel) -> list[Finding]:
    """Every rule of the contract on one model; none behind a broken one that all others rest on."""
    try:
        contract = contract_of(model)
    except Exception as error:  # the user's class may fail in any way
        return [Finding("domain says what the model answers for", "broken", _reason(error))]
    return _run(contract)


def check_target(target: Target) -> list[Finding]:
    """Every rule of the contract on one target; it measures, which takes its time."""
    contract = TargetContract()
    contract.target = lambda: target  # type: ignore[method-assign]  # the one method that there is to override
    return _run(contract)


def _run(contract: CostModelContract | TargetContract) -> list[Finding]:
    """The rules in the order in which they are written down."""
    findings: list[Finding] = []
    stopped = False
    for name in (key for key in vars(type(contract)) if key.startswith("test_")):
        test = getattr(contract, name)
        findings.append(Finding(_rule(test), "not checked") if stopped else _try(test))
        stopped = stopped or (name in _FIRST and findings[-1].outcome == "broken")
    return findings


def _try(test: Callable[[], None]) -> Finding:
    """One rule: whether it holds, and if not, the numbers."""
    try:
        test()
    except Exception as error:  # a broken rule, or the user's class failing in any way
        _, _, fix = inspect.cleandoc(test.__doc__ or "").partition("Fix: ")
        known = isinstance(error, AssertionError)  # whatever else was raised has a cause of its own
        return Finding(
            _rule(test), "broken", _reason(error), _plain(fix).removesuffix(".") if known else _inherited(error)
        )
    return Finding(_rule(test), "holds")


def _inherited(error: Exception) -> str:
    """What to do about an attribute that a class of one's own lacks and a base class of ours has."""
    if isinstance(error, AttributeError):
        for base in (Target, CostModel):
            if error.name and hasattr(base, error.name) and base not in type(error.obj).__mro__:
                return f"inherit from qsearch.protocols.{base.__name__}, which has {error.name}"
    return ""


def _rule(test: Callable[[], None]) -> str:
    return _plain(inspect.cleandoc(test.__doc__ or test.__name__).partition("\n\n")[0]).removesuffix(".")


def _plain(text: str) -> str:
    """A docstring's text on one line, without its marks of code."""
    return re.sub(r"``", "", " ".join(text.split()))


def _reason(error: Exception) -> str:
    """What went wrong in one line; of an error that is not ours, also where."""
    if isinstance(error, AssertionError | QSearchError) and str(error):
        return " ".join(str(error).split())
    return told(error)


def _print(name: str, findings: Sequence[Finding]) -> None:
    console = Console(highlight=False)
    width = min(console.width, 100)
    console.print(Text(name, style="bold"), soft_wrap=True)
    told: set[str] = set()
    for finding in findings:
        mark, colour = _MARKS[finding.outcome]
        _paragraph(console, f"{mark} ", finding.rule, width, colour)
        if finding.outcome == "broken" and finding.reason in told:
            _paragraph(console, "    ", "as above", width, "dim")
        elif finding.outcome == "broken":
            told.add(finding.reason)
            _paragraph(console, "    ", finding.reason, width)
            _paragraph(console, "    ", f"fix: {finding.fix}" if finding.fix else "", width, "dim")
    held = sum(finding.outcome == "holds" for finding in findings)
    skipped = sum(finding.outcome == "not checked" for finding in findings)
    behind = f"; {skipped} were not checked, as they rest on the broken one" if skipped else ""
    console.print(f"{held} of {len(findings)} rules hold{behind}")


def _paragraph(console: Console, first: str, text: str, width: int, colour: str = "") -> None:
    lines = textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False)
    for line in lines:
        console.print(Text(line, style=colour), soft_wrap=True)
