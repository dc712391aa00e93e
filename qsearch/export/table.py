"""The assignment as JSON or CSV, with the geometry of its layers beside it."""

from __future__ import annotations

import csv
import io
import json

from qsearch.run import Run
from qsearch.trial import Trial


def to_json(run: Run, trial: Trial) -> str:
    """An object: run, trial, bits by site, cost with units, quality on validation data."""
    value = {
        "run": run.config.name,
        "trial": trial.number,
        "assignment": dict(trial.assignment),
        "cost": None if trial.cost is None else dict(trial.cost.totals),
        "units": run.info.units,
        "validation": None if trial.quality is None else trial.quality.values,
    }
    return json.dumps(value, indent=2) + "\n"


def to_csv(run: Run, trial: Trial) -> str:
    """A line per site: layer, site, kind, parameters, MACs, bits (one number, or one per kernel behind spaces)."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["layer", "site", "kind", "params", "macs", "bits"])
    for layer in run.info.layers:
        for site in (layer.weight_site, layer.activation_site):
            if site in trial.assignment:
                bits = trial.assignment[site]
                shown = bits if isinstance(bits, int) else " ".join(map(str, bits))
                table.writerow([layer.name, site, layer.kind, layer.params, layer.macs, shown])
    return text.getvalue()
