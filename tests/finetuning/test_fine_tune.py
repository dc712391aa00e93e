"""Fine-tuning as a library: what is kept, what it is compared with, and that a stop anywhere changes nothing."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from campaigns import settings
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from taught_plugins import taught

from qsearch import finetuned
from qsearch.assignment import BitAssignment
from qsearch.config import PluginConfig, SpaceConfig, parse
from qsearch.errors import ConfigError, DataError, EvaluationError, StorageError
from qsearch.evaluate.scoring import Scoring
from qsearch.finetuned import CHECKPOINT, HISTORY, NETWORK, RESULT, Epoch, FineTuned, read, read_history
from qsearch.finetuning import tuning
from qsearch.finetuning.checkpoint import Checkpoint
from qsearch.finetuning.network_file import read_settled, settled_network, write_settled
from qsearch.finetuning.options import EPOCHS, training_options
from qsearch.finetuning.tuning import Job, fine_tune
from qsearch.quantize.network import Settled
from qsearch.run import Run
from qsearch.setting import prepare
from qsearch.sweep import run_sweep
from qsearch.training.families import family
from qsearch.training.finetuning import FineTuning
from qsearch.training.network import TrainableNetwork
from qsearch.training.options import TrainingOptions

LOW = {"weight_bits": [2, 3], "activation_bits": [2, 3]}
ADMM = "qsearch.evaluate.admm:JointCompression"
QUICK = TrainingOptions(epochs=4, batch_size=50)


def a_run(root: Path, **changes: object) -> Run:
    given_ = {"workload": taught("Taught"), "space": LOW, "constraints": [], "budget": {"evaluations": 2}, **changes}
    return run_sweep(parse(settings(**given_), "test"), root / "runs")[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return a_run(tmp_path_factory.mktemp("runs"))


def job(run: Run, folder: Path, options: TrainingOptions = QUICK, patience: int | None = None) -> Job:
    assert run.best is not None
    return Job(run, run.best, options, patience, folder)


def kept(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (RESULT, NETWORK)}


class Killed(BaseException):
    """Stops a training as a signal does: nothing but ``finally`` runs."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the training die within its n-th epoch of this call, on its second step."""

    def at(epoch: int) -> None:
        step, count = FineTuning._step, [0]

        def dying(self: FineTuning, *arguments: object) -> float:
            count[0] += 1
            if count[0] == (epoch - 1) * self.steps + 2:
                monkeypatch.setattr(FineTuning, "_step", step)
                raise Killed
            return step(self, *arguments)

        monkeypatch.setattr(FineTuning, "_step", dying)

    return at


# what is best, and when it ends

epochs = st.lists(
    st.tuples(st.sampled_from([0.5, 0.6, 0.7]), st.sampled_from([1.0, 2.0])).map(
        lambda pair: {"metric": pair[0], "validation_loss": pair[1], "loss": 1.0, "seconds": 0.0}
    ),
    min_size=1,
    max_size=12,
).map(lambda rows: tuple(Epoch(number=number, **row) for number, row in enumerate(rows, 1)))


@given(epochs)
def test_the_best_epoch_is_the_first_of_highest_metric_and_least_loss(history: tuple[Epoch, ...]) -> None:
    top = max(epoch.metric for epoch in history)
    least = min(epoch.validation_loss for epoch in history if epoch.metric == top)
    first = next(epoch for epoch in history if (epoch.metric, epoch.validation_loss) == (top, least))
    assert finetuned.best_of(history) == first


@given(epochs, st.integers(1, 5))
def test_it_ends_when_the_last_epochs_bring_nothing_better(history: tuple[Epoch, ...], patience: int) -> None:
    before, last = history[:-patience], history[-patience:]
    best = finetuned.best_of(before)
    hopeless = best is not None and not any(epoch.better_than(best) for epoch in last)
    assert finetuned.ended_early(history, patience) == hopeless
    assert not finetuned.ended_early(history, None)


def test_patience_ends_a_training_early(run: Run, tmp_path: Path) -> None:
    # rates so small that no epoch changes a prediction: ties go to the lower loss, and rounding hardly moves it
    options = TrainingOptions(epochs=9, batch_size=50, rate=1e-12, batch_norm="frozen", augment=False)
    found = fine_tune(job(run, tmp_path / "early", options, patience=2))
    history = read_history(tmp_path / "early")
    assert found.stopped == (len(history) < 9)
    assert found.epochs == len(history) == found.best + 2 < 9


# what is kept


def test_the_table_compares_three_networks_on_the_same_samples(run: Run, tmp_path: Path) -> None:
    seen: list[int] = []
    found = fine_tune(job(run, tmp_path), lambda history: seen.append(len(history)))
    assert seen == [1, 2, 3, 4]
    assert run.best is not None
    judged = {stage: one.quality("validation") for stage, one in found.judged.items()}
    assert list(judged) == ["float", "post-training", "fine-tuned"]
    assert judged["float"] == run.float_quality
    np.testing.assert_array_equal(judged["post-training"].outcomes, run.best.quality.outcomes)
    best = finetuned.best_of(read_history(tmp_path))
    assert best is not None
    assert (best.number, best.metric) == (found.best, judged["fine-tuned"].metric)
    assert best.validation_loss == pytest.approx(judged["fine-tuned"].loss, rel=1e-6)
    assert judged["fine-tuned"].loss < judged["post-training"].loss
    tested = {stage: one.quality("test") for stage, one in found.judged.items()}
    assert tested["float"].metric == run.tested("float").metric
    assert tested["post-training"].metric == run.tested(str(run.best.number)).metric


def test_the_kept_network_is_the_one_that_was_judged(run: Run, tmp_path: Path) -> None:
    found = fine_tune(job(run, tmp_path))
    setting = prepare(run.config)
    network = settled_network(setting, read_settled(tmp_path))
    assert run.best is not None
    network.apply(run.best.assignment)
    scoring = Scoring(setting.workload, lambda inputs: network(inputs), 17)
    quality = scoring.quality(network, tuning.validation_of(setting))
    np.testing.assert_array_equal(quality.outcomes, found.judged["fine-tuned"].quality("validation").outcomes)


def test_a_network_is_kept_to_the_last_bit(run: Run, tmp_path: Path) -> None:
    """Every kind of kernel and input: pruned, two levels, several bits in one weight, float; inputs at 1, 2, 8 bits."""
    setting = prepare(run.config)
    lessons = setting.evaluator.lessons()
    bits = {"0.weight": (0, 1, 3, 32), "2.weight": 8, "0.input": 1, "2.input": 2, "5.weight": 32, "5.input": 8}
    network = TrainableNetwork(lessons, BitAssignment(bits), family("lsq"))
    FineTuning(network, lessons, QUICK, seed=0).epoch()
    settled = network.settled()
    write_settled(settled, tmp_path)
    again = read_settled(tmp_path)
    assert_same(again, settled)
    found = settled_network(setting, again)
    found.apply(BitAssignment(bits))
    with torch.inference_mode():
        samples = lessons.data.inputs[:50]
        assert torch.equal(found(samples), network(samples))


def assert_same(one: Settled, other: Settled) -> None:
    assert one.state.keys() == other.state.keys()
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
    assert one.weights.keys() == other.weights.keys()
    for site, found in one.weights.items():
        for ours, theirs in zip(found, other.weights[site], strict=True):
            assert ours.bits == theirs.bits
            for part in ("codes", "scales", "values", "errors"):
                left, right = getattr(ours, part), getattr(theirs, part)
                assert left.dtype == right.dtype
                assert torch.equal(left, right)
    assert one.inputs.keys() == other.inputs.keys()
    for site, ours in one.inputs.items():
        theirs = other.inputs[site]
        assert (ours.bits, ours.grid, float(ours.scale)) == (theirs.bits, theirs.grid, float(theirs.scale))


def test_the_history_is_read_as_it_was_written(run: Run, tmp_path: Path) -> None:
    seen: list[Sequence[Epoch]] = []
    fine_tune(job(run, tmp_path), seen.append)
    assert read_history(tmp_path) == tuple(seen[-1])
    assert (tmp_path / HISTORY).read_text().startswith("number,loss,metric,validation_loss,seconds\n1,")


def test_without_test_data_validation_data_must_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = a_run(tmp_path, workload=taught("Untested"))
    found = fine_tune(job(run, tmp_path / "there", TrainingOptions(epochs=1)))
    assert all(judged.test is None for judged in found.judged.values())
    assert "not tested: workload 'untested' has no test split" in caplog.text


# stopping and going on


@pytest.mark.parametrize(("optimiser", "stops"), [("sgd", [1]), ("sgd", [2, 2]), ("adam", [3]), ("rmsprop", [3])])
def test_a_training_killed_anywhere_ends_as_one_that_was_not(
    run: Run, tmp_path: Path, killed: Callable[[int], None], optimiser: str, stops: list[int]
) -> None:
    options = QUICK.model_copy(update={"optimiser": optimiser, "rate": 1e-3})
    whole = fine_tune(job(run, tmp_path / "whole", options))
    there = job(run, tmp_path / "stopped", options)
    for epoch in stops:
        killed(epoch)
        with pytest.raises(Killed):
            fine_tune(there)
        assert read(there.folder) is None
    seen: list[int] = []
    assert fine_tune(there, lambda history: seen.append(len(history))) == whole
    assert seen == list(range(max(1, sum(stops) - len(stops)), 5))
    assert kept(there.folder) == kept(tmp_path / "whole")


def test_a_training_killed_before_its_result_is_written_is_concluded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fine_tune(job(run, tmp_path / "whole"))
    there = job(run, tmp_path / "stopped")
    with monkeypatch.context() as patched:
        patched.setattr(tuning, "write_settled", lambda settled, folder: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            fine_tune(there)
    monkeypatch.setattr(FineTuning, "epoch", None)  # nothing is left to train
    assert fine_tune(there) == whole
    assert kept(there.folder) == kept(tmp_path / "whole")


def test_a_finished_training_answers_at_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fine_tune(job(run, tmp_path))
    before = kept(tmp_path)
    monkeypatch.setattr(tuning, "prepare", None)
    assert fine_tune(job(run, tmp_path)) == found
    assert kept(tmp_path) == before


def test_what_is_removed_of_a_finished_training_is_made_again(run: Run, tmp_path: Path) -> None:
    fine_tune(job(run, tmp_path))
    before, history = kept(tmp_path), (tmp_path / HISTORY).read_bytes()
    for name in (RESULT, NETWORK, HISTORY):
        (tmp_path / name).unlink()
        fine_tune(job(run, tmp_path))
        assert kept(tmp_path) == before
        assert (tmp_path / HISTORY).read_bytes() == history


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 5}, "depends on how many epochs there are; got epochs: 4 there, 5 here"),
        (
            {"rate": 0.5},
            "holds another training; got rate: 0.01 there, 0.5 here; keep this one elsewhere with --output",
        ),
        ({"patience": 3}, "got patience: None there, 3 here"),
        ({"trial": 1}, "got trial: "),
    ],
)
def test_another_training_in_the_same_folder(
    run: Run, tmp_path: Path, killed: Callable[[int], None], change: dict[str, object], said: str, ended: bool
) -> None:
    if not ended:
        killed(2)
    first = replace(job(run, tmp_path), trial=run.trials[0])
    if ended:
        fine_tune(first)
    else:
        with pytest.raises(Killed):
            fine_tune(first)
    options = QUICK.model_copy(update={key: value for key, value in change.items() if key in {"epochs", "rate"}})
    other = replace(first, options=options, patience=change.get("patience"), trial=run.trials[change.get("trial", 0)])
    with pytest.raises(ConfigError, match="holds another training") as error:
        fine_tune(other)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("workload", PluginConfig(name=taught("Untested"))),
        ("workload", PluginConfig(name=taught("Taught"), options={"noise": 0.5})),
        ("space", SpaceConfig(weight_bits=(2, 3), activation_bits=(2, 3, 4))),
        ("evaluator", PluginConfig(name="ptq", options={"threads": 1, "calibration_samples": 16})),
    ],
)
def test_another_run_of_the_same_name(run: Run, tmp_path: Path, part: str, change: object) -> None:
    fine_tune(job(run, tmp_path, TrainingOptions(epochs=1)))
    other = replace(run, config=run.config.model_copy(update={part: change}))
    with pytest.raises(
        ConfigError, match=f"holds another training; got other settings of the {part} there, in a run of"
    ):
        fine_tune(job(other, tmp_path, TrainingOptions(epochs=1)))


def test_data_that_have_moved_are_the_same_training(run: Run, tmp_path: Path) -> None:
    found = fine_tune(job(run, tmp_path, TrainingOptions(epochs=1)))
    workload = run.config.workload.model_copy(update={"options": {"data": "elsewhere"}})
    moved = replace(run, config=run.config.model_copy(update={"workload": workload}))
    assert fine_tune(job(moved, tmp_path, TrainingOptions(epochs=1))) == found


# what is wrong


def test_an_evaluator_that_prunes_weights(tmp_path: Path) -> None:
    """A network with all of its weights is another than was judged."""
    options = {"keep": {"2": 0.5}, "epochs": 1, "batch_size": 50, "admm": {"iterations": 1, "every": 1}}
    run = a_run(tmp_path, evaluator={"name": ADMM, "options": options}, budget={"evaluations": 1})
    with pytest.raises(ConfigError, match=r"weights that the evaluator has pruned.*got .*prunes '2.weight'; .*epochs"):
        fine_tune(job(run, tmp_path / "there"))


def unfinished(run: Run, folder: Path, killed: Callable[[int], None]) -> Path:
    """A folder with a checkpoint after one epoch; the path of that."""
    killed(2)
    with pytest.raises(Killed):
        fine_tune(job(run, folder))
    return folder / CHECKPOINT


class Executed:
    """A pickle that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (open, (str(self.path), "w"))


def test_a_checkpoint_that_is_damaged(run: Run, tmp_path: Path, killed: Callable[[int], None]) -> None:
    path = unfinished(run, tmp_path, killed)
    whole = path.read_bytes()
    for content in (b"", b"nonsense" * 100, whole[: len(whole) // 2], pickle.dumps(Executed(tmp_path / "made"))):
        path.write_bytes(content)
        with pytest.raises(
            StorageError, match=r"must be whole to go on from; got .*checkpoint\.pt.*remove it to train"
        ):
            fine_tune(job(run, tmp_path))
    torch.save({"version": 1, "settings": {}}, path)
    with pytest.raises(StorageError, match="must be whole"):
        fine_tune(job(run, tmp_path))
    torch.save({"version": 9}, path)
    with pytest.raises(StorageError, match="version 9"):
        fine_tune(job(run, tmp_path))
    assert not (tmp_path / "made").exists()
    path.unlink()
    assert fine_tune(job(run, tmp_path)).epochs == 4


def test_a_checkpoint_of_another_network(run: Run, tmp_path: Path, killed: Callable[[int], None]) -> None:
    path = unfinished(run, tmp_path, killed)
    found = Checkpoint.read(tmp_path)
    assert found is not None
    best = {name: value[:1] if value.dim() else value for name, value in found.best.items()}
    replace(found, best=best).write(tmp_path)
    with pytest.raises(StorageError, match=r"must be whole to go on from; got .*size mismatch"):
        fine_tune(job(run, tmp_path))
    assert path.is_file()


@pytest.mark.parametrize("content", ["", "{}", '{"epochs": 3}', "\x00"])
def test_a_result_that_is_damaged(run: Run, tmp_path: Path, content: str) -> None:
    fine_tune(job(run, tmp_path))
    (tmp_path / RESULT).write_text(content)
    with pytest.raises(StorageError, match=r"must be readable; got .*result\.json.*makes it again"):
        fine_tune(job(run, tmp_path))


def test_a_kept_network_that_is_damaged(run: Run, tmp_path: Path) -> None:
    fine_tune(job(run, tmp_path))
    content = (tmp_path / NETWORK).read_bytes()
    for damaged in (b"", content[:200], b"\xff" * 300):
        (tmp_path / NETWORK).write_bytes(damaged)
        with pytest.raises(StorageError, match=r"must be readable; got .*network\.safetensors"):
            read_settled(tmp_path)


def test_no_training_data(tmp_path: Path) -> None:
    run = a_run(tmp_path, workload=str(Path(taught("Taught")).parents[1] / "campaign" / "tiny_plugins.py:Tiny"))
    with pytest.raises(DataError, match=r"'tiny' must have training data to be trained on"):
        fine_tune(job(run, tmp_path / "there"))


def test_an_evaluator_that_hands_out_no_network(tmp_path: Path) -> None:
    run = a_run(tmp_path, evaluator=taught("Distance"))
    with pytest.raises(ConfigError, match=r"hands out its network; got Distance; .*'ptq' or 'qat'"):
        fine_tune(job(run, tmp_path / "there"))


def test_a_training_that_diverges(run: Run, tmp_path: Path) -> None:
    options = TrainingOptions(epochs=3, batch_size=20, rate=1e8, step_rate=1e-9, explosion=1.5)
    with pytest.raises(EvaluationError, match=r"must not diverge|must be finite"):
        fine_tune(job(run, tmp_path, options))
    assert read(tmp_path) is None


def test_a_folder_that_another_process_trains_in(run: Run, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(StorageError, match="by one process at a time; got"):
        fine_tune(job(run, tmp_path))


def test_a_folder_that_cannot_be_made(run: Run) -> None:
    with pytest.raises(
        StorageError, match=r"must be writable; got /dev/null/there: Not a directory; .*--output FOLDER"
    ):
        fine_tune(job(run, Path("/dev/null/there")))


# options


def with_evaluator(run: Run, **evaluator: object) -> Run:
    config = run.config.model_copy(update={"evaluator": run.config.evaluator.model_copy(update=evaluator)})
    return replace(run, config=config)


QAT = "qsearch.evaluate.qat:QuantizationAware"


def test_options_are_those_of_the_evaluator_but_for_the_epochs(run: Run) -> None:
    assert training_options(run, None) == TrainingOptions(epochs=EPOCHS), "'ptq' has a batch size of another meaning"
    assert training_options(with_evaluator(run, options={"batch_size": 7}), None).batch_size == 100
    trained = with_evaluator(run, name=QAT, options={"rate": 0.3, "epochs": 2, "samples": 50})
    assert training_options(trained, None) == TrainingOptions(rate=0.3, epochs=EPOCHS)
    changes = ["rate=0.2", "epochs=7", "schedule=constant"]
    assert training_options(trained, None, changes) == TrainingOptions(rate=0.2, epochs=7, schedule="constant")
    assert training_options(trained, 9, changes).epochs == 9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rat=1", "unknown option 'rat' in options of the training; did you mean 'rate'?"),
        ("rate=-1", "rate in options of the training"),
        ("rate", "changed by path.to.setting=value"),
        ("quantizer=lsk", "unknown quantizer 'lsk'; did you mean 'lsq'?"),
        ("device=gpu", "needs a device that is there, not 'gpu'"),
        ("precision=float16", "does not train in float16"),
    ],
)
def test_options_that_are_wrong(run: Run, change: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        training_options(run, None, [change])
    assert said in str(error.value)


def test_results_of_a_run(run: Run, tmp_path: Path) -> None:
    """By the number of the trial; one that another assignment had is none of this run's."""
    here = replace(run, folder=tmp_path)
    assert finetuned.read_all(here) == []
    for number in (1, 0):
        trial = run.trials[number]
        fine_tune(Job(here, trial, TrainingOptions(epochs=1), None, finetuned.folder_of(here, trial)))
    found = finetuned.read_all(here)
    assert [(folder.name, one.settings.trial) for folder, one in found] == [("trial-0", 0), ("trial-1", 1)]
    assert all(isinstance(one, FineTuned) for _, one in found)
    swapped = replace(here, trials=(run.trials[1], run.trials[1]))
    assert [folder.name for folder, _ in finetuned.read_all(swapped)] == ["trial-1"]
    shorter = replace(here, trials=run.trials[:1])
    assert [folder.name for folder, _ in finetuned.read_all(shorter)] == ["trial-0"]
