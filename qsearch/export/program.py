"""``torch``: a program of ``torch.export`` that torch alone runs.

::

    program = torch.export.load("trial-7.pt2").module()
    logits = program(images)

Its weights are integer buffers with a scale per kernel, decoded as they are used; its arithmetic is that of the evaluation.
"""

from __future__ import annotations

from pathlib import Path

import torch

from qsearch.export.capture import capture, sample_by_sample
from qsearch.export.deployment import Deployment
from qsearch.export.formats import Runtime, in_torch


class Program:
    """Writes and loads ``.pt2`` files."""

    suffix = ".pt2"
    told = "a program of torch.export"
    runtime = "torch"

    def write(self, deployment: Deployment, path: Path) -> list[str]:
        """See :class:`qsearch.export.formats.Format`."""
        captured = capture(deployment.module(), deployment.example)
        captured.program.example_inputs = None  # samples of the data set must not travel along
        torch.export.save(captured.program, path)
        return [captured.note, "load it with torch.export.load(FILE).module()"]

    def load(self, path: Path, deployment: Deployment) -> Runtime:
        """The program in torch."""
        program = torch.export.load(path)
        run = in_torch(program.module())
        return run if _any_batch(program) else sample_by_sample(run)


def _any_batch(program: torch.export.ExportedProgram) -> bool:
    """Whether a program was captured for any number of samples."""
    return bool(program.range_constraints)


FORMATS = (Program(),)
