"""``Run``: a campaign's folder and ledger, read back. What the report, the comparison and the CLI look at.

A run's folder holds ``campaign.yaml``, every setting spelt out. The ledger (``study.db`` in the top folder of the
run unless the campaign names a storage) holds the trials and, as attributes of the study, what :class:`RunInfo` says.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from qsearch import registry
from qsearch.config import CampaignConfig, sqlite_url
from qsearch.config import load as load_config
from qsearch.errors import ConfigError, StorageError
from qsearch.layers import Layer
from qsearch.ledger import Ledger, exists
from qsearch.problem import Bound, Objective, best, front
from qsearch.serialise import quality_from_json
from qsearch.trial import Quality, Trial

CONFIG_FILE = "campaign.yaml"
_PACKAGES = ("qsearch", "torch", "numpy", "scipy", "scikit-learn", "optuna", "gymnasium", "stable-baselines3")


class RunInfo(BaseModel):
    """What a campaign was and how it ended; the attributes of its study.

    Attributes:
        config: the campaign, resolved.
        quality_name: what the workload's metric is called.
        units: cost metric → unit.
        definitions: cost metric → what is counted, and by whose numbers, where the cost model says so.
        layers: the layers of the network.
        variables: what was searched: name → bit choices.
        space_log10: decimal logarithm of the number of assignments in the space.
        bounds: the constraints as numbers.
        reference: cost of uniform 8 bits: metric → value.
        float_quality: of the float network on validation data.
        provenance: versions, machine, git commit, start.
        status: "running" until the search has ended.
        seconds, evaluations: spent by the search; of an evaluation that was ended early, the share that was spent.
        sensitivity_samples, sensitivity_seconds: spent on sensitivities, on calibration data.
        training_samples, training_seconds: spent by the searcher on training, on training data.
        tested: quality on test data: "float" and the number of a trial → quality.
    """

    model_config = ConfigDict(extra="forbid")

    config: dict[str, Any]
    quality_name: str
    units: dict[str, str]
    definitions: dict[str, str] = {}
    layers: tuple[Layer, ...]
    variables: dict[str, list[int]]
    space_log10: float
    bounds: tuple[Bound, ...]
    reference: dict[str, float]
    float_quality: dict[str, Any]
    provenance: dict[str, Any]
    status: Literal["running", "complete"] = "running"
    seconds: float = 0.0
    evaluations: int | float = 0
    sensitivity_samples: int = 0
    sensitivity_seconds: float = 0.0
    training_samples: int = 0
    training_seconds: float = 0.0
    tested: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Run:
    """A campaign read back from its folder and ledger."""

    folder: Path
    config: CampaignConfig
    info: RunInfo
    trials: tuple[Trial, ...]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Of the campaign, in its order."""
        return tuple(objective.build() for objective in self.config.objectives)

    @property
    def float_quality(self) -> Quality:
        """Of the float network, on validation data."""
        return quality_from_json(self.info.float_quality)

    @cached_property
    def best(self) -> Trial | None:
        """See :func:`qsearch.problem.best`."""
        return best(self.objectives, self.trials)

    @cached_property
    def front(self) -> list[Trial]:
        """See :func:`qsearch.problem.front`."""
        return front(self.objectives, self.trials)

    def tested(self, which: str) -> Quality | None:
        """Quality on test data: of "float", or of a trial by its number."""
        found = self.info.tested.get(which)
        return None if found is None else quality_from_json(found)


def storage_url(config: CampaignConfig, root: Path) -> str:
    """The ledger's storage: the campaign's, or a SQLite file in the top folder of the run."""
    return config.storage or sqlite_url(root / config.name.split("/")[0] / "study.db")


def read_config(folder: Path) -> CampaignConfig:
    """The campaign of a run's folder.

    Raises:
        ConfigError: no run there, or its file is damaged.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise no_run(folder)
    campaigns = load_config(path).campaigns()
    if len(campaigns) != 1:
        raise ConfigError(f"{path} must describe one campaign", got=f"{len(campaigns)}")
    return campaigns[0]


def no_run(folder: Path) -> ConfigError:
    """The error of a folder that holds no run; it names the runs below it."""
    inner = sorted(str(found.parent) for found in folder.glob(f"*/{CONFIG_FILE}"))
    fix = f"its runs are: {', '.join(inner)}" if inner else "qsearch run FILE makes one"
    return ConfigError(f"a run's folder must hold {CONFIG_FILE}", got=str(folder), fix=fix)


def root_of(folder: Path, name: str) -> Path:
    """The folder that holds all runs, as a run's name has one or two parts below it.

    Raises:
        ConfigError: the folder was renamed or copied; its name is what ties it to its ledger.
    """
    parts = tuple(name.split("/"))
    if folder.resolve().parts[-len(parts) :] != parts:
        raise ConfigError(f"the folder of run {name!r} must keep its name", got=str(folder), fix=f"rename it to {name}")
    return folder.resolve().parents[len(parts) - 1]


def load(folder: Path) -> Run:
    """Read a run back.

    Raises:
        ConfigError: no run there.
        StorageError: its ledger cannot be read, or has no campaign in it.
    """
    config = read_config(folder)
    objectives = [objective.build() for objective in config.objectives]
    url = storage_url(config, root_of(folder, config.name))
    if not exists(url, config.name):
        raise StorageError(
            "the ledger of a run must exist", got=f"no study {config.name!r} in {url}", fix=f"qsearch resume {folder}"
        )
    ledger = Ledger(url, config.name, objectives)
    return Run(folder, config, read_info(ledger), tuple(ledger.trials()))


def read_info(ledger: Ledger) -> RunInfo:
    """The campaign's attributes from its ledger.

    Raises:
        StorageError: there are none, or they are damaged.
    """
    attributes = ledger.attributes.get("qsearch")
    if not isinstance(attributes, Mapping):
        raise StorageError(
            f"study {ledger.name!r} in {ledger.url} holds no campaign yet", fix="resume the run to write it"
        )
    try:
        found: RunInfo = registry.validate(RunInfo, dict(attributes), f"study {ledger.name!r}")
    except ConfigError as error:
        raise StorageError("the campaign's record is damaged", got=str(error)) from None
    return found


def provenance() -> dict[str, Any]:
    """Where and with what this process runs."""
    return {
        "versions": {name: metadata.version(name) for name in _PACKAGES if _installed(name)},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "git": _git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git_commit() -> str | None:
    """Commit of the working folder the campaign was started in, "+" if it had changes; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")
