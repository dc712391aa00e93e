"""``qsearch hardware show``: what each layer of a network costs at uniform bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qsearch import registry
from qsearch.commands import print_json
from qsearch.errors import ConfigError
from qsearch.hardware_tools.check_options import make, options_of
from qsearch.hardware_tools.show_costs import axes, check_metric, uniform_costs
from qsearch.hardware_tools.show_page import document
from qsearch.hardware_tools.show_table import as_json as to_json
from qsearch.hardware_tools.show_table import constants_table, notes, parts, print_narrow, table
from qsearch.protocols import CostModel
from qsearch.report.write import write_document
from qsearch.setting import layers_of
from qsearch.terminal import set_up_logging


def run(
    names: Sequence[str],
    workload: str,
    bits: Sequence[int],
    metric: str | None,
    constants: bool,
    set_: Sequence[str],
    output: Path | None,
    as_json: bool,
) -> None:
    """Print costs by layer of one cost model, or of several side by side; write a page into a folder if one is given.

    Args:
        names: cost models, by name or file.py:Class.
        workload: whose layers.
        bits: of all weights and inputs alike.
        metric: only this one; all without it.
        constants: also every number that the models use.
        set_: options, ``key=value``, or ``name.key=value`` where there are several cost models.
        output: a folder.
        as_json: print JSON instead of tables.

    Raises:
        ConfigError: an option, an unknown metric, or one that two of the models define differently.
        QSearchError: a cost model cannot be made, or refuses.
    """
    set_up_logging()
    if len(set(names)) < len(names):
        raise ConfigError("cost models side by side must differ", got=", ".join(names))
    options = options_of(names, set_)
    models: dict[str, CostModel] = {name: make("cost_models", name, options[name]) for name in names}
    check_metric(models, metric)
    layers = layers_of(registry.create("workloads", workload))
    found = [uniform_costs(name, model, layers, bits) for name, model in models.items()]
    shown = axes(models, found, metric)
    written = (
        None if output is None else write_document(document(workload, found, shown, constants), output, "hardware")
    )
    if as_json:
        print_json(to_json(workload, found, shown, constants))
        return
    for axis in shown:
        for part in parts(axis):
            print_narrow(table(part), notes(part))
    for costs in found if constants else ():
        print_narrow(constants_table(costs.model, costs.constants))
    if written is not None:
        print(f"report     {written.html}")
