"""``torch``: a program of ``torch.export`` that torch alone runs.

::

    program = torch.export.load("trial-7.pt2").module()
    logits = program(images)

Its weights are integer buffers with a scale per kernel, decoded as they are used; its arithmetic is that of the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from qsearch.export.capture import capture, sample_by_sample
from qsearch.export.deployment import Deployment
from qsearch.export.formats import Runtime
from qsearch.quantize.modules import Inputs, forward


class Program:
    """Writes and loads ``.pt2`` files."""

    suffix = ".pt2"
    told = "a program of torch.export"

    def write(self, deployment: Deployment, path: Path) -> list[str]:
        """See :class:`qsearch.export.formats.Format`."""
        captured = capture(deployment.module(), deployment.example)
        captured.program.example_inputs = None  # samples of the data set must not travel along
        torch.export.save(captured.program, path)
        return [captured.note, "load it with torch.export.load(FILE).module()"]

    def load(self, path: Path, deployment: Deployment) -> Mapping[str, Runtime]:
        """The program in torch."""
        program = torch.export.load(path)
        module = program.module()

        def run(inputs: Inputs) -> Tensor:
            with torch.inference_mode():
                output: Tensor = forward(module, inputs)
            return output

        return {"torch": run if _any_batch(program) else sample_by_sample(run)}


def _any_batch(program: torch.export.ExportedProgram) -> bool:
    """Whether a program was captured for any number of samples."""
    return bool(program.range_constraints)


FORMATS = (Program(),)
