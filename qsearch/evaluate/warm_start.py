"""What was trained before, and which of it another training starts from.

Notation: sites s of a network, n_s weights of the layer that a site belongs to, or leaks or thresholds, or neurons of a state;
b̄_s mean bits of a site's kernels, and
of an overlay the weights that it keeps. Patterns do not enter.

::

    distance of two assignments a, b        Σ_s n_s · |b̄_s(a) − b̄_s(b)|

A training starts from the state of the nearest assignment that was trained before it, of equally near ones from the
first. Where a state is not kept any more, it is trained again, from the start that it had. So what is kept saves time,
and changes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import StorageError
from qsearch.files import write_atomically
from qsearch.layers import Layer
from qsearch.training.network import TrainableNetwork, float_name
from qsearch.trial import Trial

log = logging.getLogger(__name__)

FLOAT = "float"
"""The start of a training that begins with the float network."""

State = Mapping[str, Tensor]
"""A trained network's tensors: "network NAME" in float, and "SITE NAME" of the quantiser of a site."""


@dataclass(frozen=True)
class Course:
    """How a network was trained, beside the options of the evaluator.

    Attributes:
        assignment: its bits.
        seed: of the training.
        epochs: that were done.
        planned: epochs that the schedule was made for; more than ``epochs`` of a training that was ended early.
        start: digest of the assignment whose trained state it began with, or :data:`FLOAT`.
    """

    assignment: BitAssignment
    seed: int
    epochs: int
    planned: int
    start: str

    @property
    def details(self) -> dict[str, float | int | str]:
        """What a quality says of it; :func:`course_of` reads it back."""
        found = asdict(self)
        del found["assignment"]
        return found


def course_of(trial: Trial) -> Course | None:
    """The training behind a recorded trial; None where there was none, or nothing came of it."""
    if trial.state not in ("complete", "pruned") or trial.quality is None:
        return None
    found = trial.quality.details
    if not {"seed", "epochs", "planned", "start"} <= set(found):
        return None
    seed, epochs, planned = (int(found[key]) for key in ("seed", "epochs", "planned"))
    return Course(trial.assignment, seed, epochs, planned, str(found["start"]))


class Past:
    """What was trained before, in order, and the states of the last of it.

    Args:
        layers: of the network.
        keep: how many of the last states are kept; trainings start from these.
    """

    def __init__(self, layers: Sequence[Layer], keep: int) -> None:
        self._weights = {
            site: float(layer.neurons if site.endswith(".state") else layer.params)
            for layer in layers
            for site in _sites(layer)
        }
        self._keep = keep
        self.open(None, ())

    def open(self, folder: Path | None, trials: Iterable[Trial]) -> None:
        """Forget all, and take what is recorded.

        Args:
            folder: where states are kept; in memory if None.
            trials: in the order in which they were evaluated.
        """
        self._folder = folder
        self._states: dict[str, State] = {}
        found = [course for trial in trials if (course := course_of(trial)) is not None]
        self._courses = {course.assignment.digest: course for course in found}

    def course(self, assignment: BitAssignment) -> Course | None:
        """How an assignment was trained when it was evaluated; None where it was not."""
        return self._courses.get(assignment.digest)

    def named(self, digest: str) -> Course:
        """How the assignment of a digest was trained.

        Raises:
            StorageError: it was not.
        """
        if digest not in self._courses:
            raise StorageError(
                "the start of a training must be among the trials before it",
                got=f"assignment {digest}",
                fix="restore the ledger from a copy",
            )
        return self._courses[digest]

    def nearest(self, assignment: BitAssignment) -> str:
        """Digest of the nearest assignment whose state is kept; :data:`FLOAT` where there is none."""
        return min(self._kept(), key=lambda digest: self._distance(assignment, digest), default=FLOAT)

    def add(self, course: Course) -> None:
        """Note what was trained; what an assignment was first noted with stays."""
        self._courses.setdefault(course.assignment.digest, course)

    def store(self, course: Course, state: State) -> None:
        """Keep the state of a course that was added, as long as it is among the last."""
        digest, kept = course.assignment.digest, self._kept()
        if digest not in kept:
            return
        if self._folder is None:
            self._states = {key: value for key, value in self._states.items() if key in kept} | {digest: state}
            return
        try:
            write_atomically(self._path(digest), save(dict(state), metadata=_metadata(course)))
            for path in self._path(digest).parent.glob("*.safetensors"):
                if path.stem not in kept:
                    path.unlink()
        except OSError as error:  # it can be trained again
            log.warning("the trained state of assignment %s is not kept: %s", digest, error)

    def load(self, course: Course) -> State | None:
        """The state of a course; None where it is not kept, or is that of another."""
        digest = course.assignment.digest
        if self._folder is None:
            return self._states.get(digest)
        path = self._path(digest)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                if file.metadata() != _metadata(course):
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except (OSError, SafetensorError) as error:
            log.warning("%s cannot be read, and is trained again: %s", path, error)
            return None

    def _kept(self) -> tuple[str, ...]:
        """Digests of the last assignments, in order."""
        return tuple(self._courses)[-self._keep :]

    def _distance(self, assignment: BitAssignment, digest: str) -> float:
        other = self._courses[digest].assignment
        return sum(
            weight * abs(_mean_bits(assignment, site) - _mean_bits(other, site))
            for site, weight in self._weights.items()
        )

    def _path(self, digest: str) -> Path:
        assert self._folder is not None
        return self._folder / "trained" / f"{digest}.safetensors"


def state_of(network: TrainableNetwork) -> State:
    """All that a training may start from; a copy, on the processor."""
    found = {f"network {name}": value.contiguous() for name, value in network.float_state().items()}
    for site, learner in {**network.weights, **network.inputs}.items():
        for name, value in learner.state_dict().items():
            found[f"{site} {name}"] = value.detach().cpu().clone().contiguous()
    return found


@torch.no_grad()
def begin_from(network: TrainableNetwork, assignment: BitAssignment, state: State, trained: BitAssignment) -> None:
    """Let a network begin with the state that another assignment was trained to.

    Quantisers whose site has the same bits, and the same overlay, begin as they were left, others as calibration found them.

    Args:
        assignment: of the network.
        trained: of the state.
    """
    for name, value in network.model.state_dict().items():
        if (found := state.get(f"network {float_name(name)}")) is not None:
            value.copy_(found)
    for site, learner in {**network.weights, **network.inputs}.items():
        if all(assignment.get(part) == trained.get(part) for part in (site, *_overlay_sites(site))):
            learner.load_state_dict({name: state[f"{site} {name}"] for name in learner.state_dict()})


def _sites(layer: Layer) -> tuple[str, ...]:
    """Sites of a layer whose bits training depends on; a threshold has no activation."""
    activation = () if layer.kind == "threshold" else (layer.activation_site,)
    return (layer.weight_site, *activation, *((layer.overlay_site,) if layer.overlay else ()))


def _overlay_sites(site: str) -> tuple[str, str]:
    """Names that the sites of a weight's overlay have where it has one."""
    layer = site.removesuffix(".weight")
    return f"{layer}.overlay", f"{layer}.pattern"


def _metadata(course: Course) -> dict[str, str]:
    return {"assignment": course.assignment.to_json(), "course": json.dumps(course.details, sort_keys=True)}


def _mean_bits(assignment: BitAssignment, site: str) -> float:
    return assignment.mean_bits(site) if site in assignment else FLOAT_BITS
