"""All campaigns of a campaign file, one after the other, on one network that is loaded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from qsearch.campaign import Campaign, prepare
from qsearch.config import CampaignConfig, Sweep, dump, load
from qsearch.oracle import CampaignOracle
from qsearch.run import CONFIG_FILE, Run, no_run, root_of
from qsearch.trial import Trial

SWEEP_FILE = "sweep.yaml"

Progress = Callable[[CampaignConfig, CampaignOracle, Trial], None]


def run_sweep(
    sweep: Sweep,
    root: Path,
    *,
    on_start: Callable[[CampaignConfig], None] = lambda config: None,
    on_trial: Progress = lambda config, oracle, trial: None,
    on_run: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Run, or resume, every campaign of a sweep.

    Args:
        root: the folder that holds all runs.
        on_start: called before each campaign.
        on_trial: called after each trial.
        on_run: called after each campaign, before the next begins.

    Raises:
        UserError, Failure: of the first campaign that fails; trials recorded so far are kept.
    """
    campaigns = sweep.campaigns()
    if len(campaigns) > 1:
        dump(sweep, root / sweep.name / SWEEP_FILE)
    setting = prepare(campaigns[0])
    runs = []
    for config in campaigns:
        on_start(config)
        runs.append(Campaign(config, root, partial(on_trial, config)).run(setting))
        on_run(runs[-1])
    return runs


def run_folders(folder: Path) -> list[Path]:
    """The run in a folder, or the runs of a sweep's folder; empty where there is none."""
    if (folder / CONFIG_FILE).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))


def read_sweep(folder: Path) -> tuple[Sweep, Path]:
    """The campaign file behind a run's or a sweep's folder, and the folder that holds all runs.

    Raises:
        ConfigError: there is no run.
    """
    path = next((path for path in (folder / SWEEP_FILE, folder / CONFIG_FILE) if path.is_file()), None)
    if path is None:
        raise no_run(folder)
    sweep = load(path)
    return sweep, root_of(folder, sweep.name)
