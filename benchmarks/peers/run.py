"""qsearch beside Sony's model-compression-toolkit and NVIDIA's ModelOpt: same network, images and budgets.

    python benchmarks/peers/run.py                                      digits-resnet
    QSEARCH_DATA=folder python benchmarks/peers/run.py --network cifar10-resnet20
    python benchmarks/peers/run.py --budgets 2.5 --only "qsearch" "MCT mixed"

Prints two tables in Markdown: full pipelines, and allocations alone. README.md in this folder says what they compare.

The peers get environments of their own, made with pip on first use. Answers are kept below ``--folder``, each in a folder with
its log: a run that is stopped goes on where it was, and one with other options reads what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from entries import BUDGETS, Entry, entries
from environments import interpreter
from exchange import Answer, Given
from judging import Judge, Verdict
from tables import ALLOCATIONS, PIPELINES, allocation_row, pipeline_row, table

from qsearch.files import cache_folder

HERE = Path(__file__).parent
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def ask(python: Path, entry: Entry, budget: float, given: Given, answer: Path, minutes: float) -> None:
    """Let a tool answer, in a process of its own with one thread and an empty cache.

    Raises:
        subprocess.SubprocessError: it failed or took too long; its log is beside the answer.
    """
    answer.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent)))
    script = [python, HERE / f"{entry.tool}_peer.py", given.folder, answer]
    options = ["--budget", str(budget), "--options", json.dumps(dict(entry.options))]
    with tempfile.TemporaryDirectory() as cache, (answer / "log.txt").open("w") as log:
        variables = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": path, "QSEARCH_CACHE": cache}
        # programs of integer programming leave files where they are run
        subprocess.run(
            [*script, *options],
            env=variables,
            cwd=cache,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=60 * minutes,
        )


def answered(entry: Entry, budget: float, given: Given, folder: Path, asked: argparse.Namespace) -> Answer | str:
    """A tool's answer, from ``folder`` where it is there; else in a word why there is none."""
    answer = folder / f"{budget:g}" / entry.folder
    if not (answer / "answer.json").exists():
        if asked.kept:
            return "not asked"
        print(f"{budget:g} bits: {entry.label}", file=sys.stderr)
        python = interpreter(entry.tool, asked.environments.resolve())
        try:
            ask(python, entry, budget, given, answer, asked.minutes)
        except subprocess.TimeoutExpired:
            return f"over {asked.minutes:g} minutes"
        except subprocess.CalledProcessError:
            return f"failed, see {answer / 'log.txt'}"
    return Answer.read(answer)


def compare(asked: argparse.Namespace) -> str:
    """Ask every tool at every budget, and judge."""
    judge = Judge(asked.network)
    folder = (asked.folder / asked.network).resolve()  # the tools run elsewhere
    given = Given(folder / "given")
    judge.hand_out(given)
    plain, corrected = (judge.evaluator(correction=correction) for correction in (False, True))
    pipelines, allocations = [], []
    for budget in asked.budgets:
        for entry in chosen(entries(asked.epochs), asked.only):
            found = answered(entry, budget, given, folder, asked)
            verdict = judged(judge, found)
            pipelines.append(pipeline_row(budget, entry.label, verdict))
            if entry.allocates and isinstance(found, Answer) and isinstance(verdict, Verdict):
                both = (judge.allocation(found.bits, evaluator) for evaluator in (plain, corrected))
                allocations.append(allocation_row(budget, entry.label, *both))
    reference = f"{100 * judge.reference.metric:.1f} %, loss {judge.reference.loss:.3f}"
    return "\n".join(
        (
            f"{asked.network}: float {reference}, {judge.reference.samples} images, activations at 8 bits\n",
            f"Full pipelines:\n\n{table(PIPELINES, pipelines)}\n",
            f"Allocation alone, one quantiser:\n\n{table(ALLOCATIONS, allocations)}\n",
        )
    )


def judged(judge: Judge, found: Answer | str) -> Verdict | str:
    """The verdict; in a word why there is none."""
    if isinstance(found, str):
        return found
    try:
        return judge.pipeline(found)
    except ValueError as error:
        return f"refused: {error}"


def chosen(rows: Sequence[Entry], only: Sequence[str] | None) -> list[Entry]:
    """Rows whose label begins with one of ``only``; all without."""
    return [row for row in rows if only is None or row.label.startswith(tuple(only))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept = cache_folder() / "peers"
    parser.add_argument("--network", choices=("digits-resnet", "cifar10-resnet20"), default="digits-resnet")
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS), help="mean bits per weight")
    parser.add_argument("--only", nargs="+", metavar="LABEL", help="rows whose label begins so; default: all")
    parser.add_argument("--epochs", type=int, default=50, help="of gradient-based rounding; 0: without it")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall time of one process at most")
    parser.add_argument("--kept", action="store_true", help="ask nobody: print what is kept")
    parser.add_argument("--folder", type=Path, default=kept / "answers")
    parser.add_argument("--environments", type=Path, default=kept / "environments")
    torch.set_num_threads(1)
    print(compare(parser.parse_args()))


if __name__ == "__main__":
    main()
