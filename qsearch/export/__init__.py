"""What leaves a run: a trial's assignment as text, or its network in a form that runs without qsearch.

Text is made here at once. Networks go through :mod:`qsearch.export.deployment`, from which every binary format is
written, and through :mod:`qsearch.export.agreement`, which holds what the format's own runtime computes against what
was evaluated.
"""

from qsearch.export.table import to_csv, to_json

TEXTS = {"json": to_json, "csv": to_csv}
"""Format → function of a run and one of its trials that gives the text of the file."""

NETWORKS = {
    "onnx": "qsearch.export.onnx_qdq",
    "qonnx": "qsearch.export.onnx_quant",
    "safetensors": "qsearch.export.packed",
    "torch": "qsearch.export.program",
    "nir": "qsearch.export.nir",
}
"""Format → module with its ``FORMATS``, loaded when a network is written in it: see :mod:`qsearch.export.formats`."""

INTEGERS = frozenset({"onnx", "qonnx", "safetensors"})
"""Those that store a weight of b bits as integers of b bits."""

FORMATS = (*TEXTS, *NETWORKS)
"""Names of all formats."""
