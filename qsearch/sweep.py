"""All campaigns of a campaign file, one after the other, on one network that is loaded once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from qsearch.campaign import Campaign, check_same
from qsearch.config import CampaignConfig, Sweep, dump, load, merged
from qsearch.errors import ConfigError, InfeasibleError
from qsearch.oracle import CampaignOracle
from qsearch.run import CONFIG_FILE, Run, no_run, root_of
from qsearch.setting import Setting, build_searcher, check_searcher, prepare, staffed
from qsearch.trial import Trial

log = logging.getLogger(__name__)

SWEEP_FILE = "sweep.yaml"

Progress = Callable[[CampaignConfig, CampaignOracle, Trial | None], None]


def run_sweep(
    sweep: Sweep,
    root: Path,
    *,
    on_start: Callable[[CampaignConfig], None] = lambda config: None,
    on_trial: Progress = lambda config, oracle, trial: None,
    on_run: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Run, or resume, every campaign of a sweep.

    All its searchers are made, and asked whether they take the problem, before the first one runs. Its campaigns share
    their workers.

    Args:
        root: the folder that holds all runs.
        on_start: called before each campaign.
        on_trial: called after each trial, and without one when a searcher has something to show.
        on_run: called after each campaign, before the next begins.

    Raises:
        InfeasibleError: no campaign met an assignment within the bounds; where another one did, that is a warning.
        UserError, Failure: of the first campaign that fails; trials recorded so far are kept.
    """
    campaigns = sweep.campaigns()
    searchers = [build_searcher(config) for config in campaigns]
    whole = _joined(sweep, campaigns, root)
    setting = prepare(campaigns[0])
    for config, searcher in zip(campaigns, searchers, strict=True):
        check_searcher(config, searcher, setting.problem)
    if whole is not None:
        dump(whole, root / sweep.name / SWEEP_FILE)

    def run(config: CampaignConfig, setting: Setting) -> Run:
        on_start(config)
        found = Campaign(config, root, partial(on_trial, config)).run(setting)
        on_run(found)
        return found

    with staffed(campaigns[0], setting) as setting:
        return _each(campaigns, lambda config: run(config, setting))


def _each(campaigns: Sequence[CampaignConfig], run: Callable[[CampaignConfig], Run]) -> list[Run]:
    """Run campaign after campaign.

    Raises:
        InfeasibleError: as :func:`run_sweep`.
    """
    runs: list[Run] = []
    missed: list[InfeasibleError] = []
    for config in campaigns:
        try:
            runs.append(run(config))
        except InfeasibleError as error:
            missed.append(error)
            if len(campaigns) > 1:
                log.warning("%s: %s", config.name, error)
    if not runs:
        raise missed[0]
    return runs


def _joined(sweep: Sweep, campaigns: Sequence[CampaignConfig], root: Path) -> Sweep | None:
    """The sweep to be recorded in its folder: with what was begun there before; None for a single campaign.

    Raises:
        ConfigError: the folder, or one of its runs, holds something else; nothing has been written.
    """
    folder, alone = root / sweep.name, campaigns[0].name == sweep.name
    if (folder / (SWEEP_FILE if alone else CONFIG_FILE)).is_file():
        raise ConfigError(
            f"{folder} holds {'a sweep' if alone else 'a single campaign'}",
            got=f"{'a single campaign' if alone else 'a sweep'} of the same name",
            fix="choose another name, or remove the folder",
        )
    for config in campaigns:
        Campaign(config, root).check_folder()
    if alone:
        return None
    if not run_folders(folder) or not (folder / SWEEP_FILE).is_file():
        return sweep
    earlier = load(folder / SWEEP_FILE)
    check_same(sweep, earlier, str(folder), free={"budget", "max_failures", "searcher", "seed", "workers"})
    return merged(sweep, earlier)


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
