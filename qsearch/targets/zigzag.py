"""``ZigZag``: the accelerator simulator of KU Leuven (Mei et al., IEEE TC 2021), at a precision for each layer.

Notation (loops of a layer, as ZigZag names them)

==============  =========================================================================
B               batch, for a linear layer batch · tokens
G               groups;  K, C output and input channels of one group
OY, OX, FY, FX  extents of the output and of the kernel; a 1-D convolution has OX = FX = 1
W, I            weight and input, at the bits that are asked for
O               output: 16 bits while it is summed up, the input's bits when it is done
==============  =========================================================================

The accelerators and their mappings are the examples in ZigZag's package, or files of one's own. Their energies are
in pJ. ZigZag prices a multiply-accumulate at one energy whatever its bits, so that bits change what moves, not
what is computed. A reading takes seconds: a search over loop orders for the lowest latency.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field

from qsearch.errors import PluginError, nearest
from qsearch.layers import Layer
from qsearch.protocols import Target
from qsearch.registry import PluginOptions
from qsearch.targets.padding import padding

try:
    import zigzag
    from zigzag.mapping.temporal_mapping import TemporalMappingType
    from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
    from zigzag.stages.main import MainStage
    from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
    from zigzag.stages.mapping.temporal_mapping_generator_stage import TemporalMappingGeneratorStage
    from zigzag.stages.parser.accelerator_parser import AcceleratorParserStage
    from zigzag.stages.parser.workload_parser import WorkloadParserStage
    from zigzag.stages.results.reduce_stages import MinimalLatencyStage, SumStage
    from zigzag.stages.workload_iterator import WorkloadStage
except ImportError as error:
    raise PluginError(
        "the target 'zigzag' needs the packages zigzag-dse and six", fix="pip install 'qsearch[simulator]'"
    ) from error

SUM_BITS = 16
"""Bits of sums under way, and the most that the examples' registers hold of any number."""

PICOJOULE = 1e-12
"""J; unit of every energy in ZigZag's input files."""

_ENERGY = "ZigZag: memory accesses at each operand's bits, multiply-accumulates at one energy whatever their bits"


@dataclass(frozen=True)
class Example:
    """An accelerator of ZigZag's package.

    Attributes:
        mapping: the file of its mapping.
        bits: the most that its registers hold of a weight or an input; no loop order is found above.
    """

    mapping: str
    bits: int


EXAMPLES: Mapping[str, Example] = {
    "ascend_like": Example("ascend_like", 8),
    "edge_tpu_like": Example("edge_tpu_like", 8),
    "eyeriss_like": Example("default", 16),
    "meta_prototype": Example("meta_prototype_like", 8),
    "tesla_npu_like": Example("tesla_npu_like", 8),
    "tpu_like": Example("tpu_like", 16),
}


class ZigZag(Target):
    """A simulated accelerator; metrics ``latency`` in cycle, or in s at a frequency, and ``energy`` in J."""

    class Options(PluginOptions):
        """The accelerator."""

        accelerator: str = "tpu_like"
        """An example of ZigZag's, or a path to a file of one's own (.yaml)."""
        mapping: str | None = None
        """A path to a mapping (.yaml); an example has one."""
        frequency: float | None = Field(default=None, gt=0, allow_inf_nan=False)
        """Hz; gives latency in seconds."""
        batch: int = Field(default=1, ge=1)
        """Samples per forward pass."""

    definitions: Mapping[str, str] = {"energy": _ENERGY}
    deterministic = True

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self._hardware, self._mapping = _files(self.options)
        self.units: Mapping[str, str] = {"latency": "s" if self.options.frequency else "cycle", "energy": "J"}

    def precisions(self, layer: Layer) -> Sequence[tuple[int, int]]:
        """See :meth:`Target.precisions`: every pair that fits; 3-D convolutions, embeddings, products of activations and neurons not at all.

        ZigZag holds its operand W in memories of its own, and takes it from nowhere.
        """
        if not layer.weighted or layer.kind == "embedding" or len(layer.kernel) > 2:
            return ()
        example = EXAMPLES.get(self.options.accelerator)
        most = SUM_BITS if example is None else example.bits
        return tuple(product(range(1, most + 1), range(1, most + 1)))

    def versions(self) -> Mapping[str, str]:
        """See :meth:`Target.versions`."""
        return {"zigzag-dse": metadata.version("zigzag-dse"), "accelerator": self.options.accelerator}

    def measure(self, layer: Layer, weight_bits: int, activation_bits: int) -> Mapping[str, float]:
        """See :meth:`Target.measure`."""
        node = workload(layer, weight_bits, activation_bits, self.options.batch)
        with _silence():
            cycles, energy = _cost(node, self._hardware, self._mapping)
        latency = cycles / (self.options.frequency or 1.0)
        return {"latency": latency * layer.uses, "energy": energy * PICOJOULE * layer.uses}


def _files(options: ZigZag.Options) -> tuple[Path, Path]:
    """The accelerator's file and that of the mapping.

    Raises:
        PluginError: no example of that name, no such file, or a file of one's own without a mapping.
    """
    inputs = Path(zigzag.__file__).parent / "inputs"
    example, own = EXAMPLES.get(options.accelerator), Path(options.accelerator)
    if example is None and own.suffix not in {".yaml", ".yml"}:
        raise PluginError(
            f"unknown accelerator {options.accelerator!r} of target 'zigzag'",
            fix=nearest(options.accelerator, EXAMPLES),
        )
    if example is None and options.mapping is None:
        raise PluginError("an accelerator from a file needs a mapping", got=str(own), fix="set mapping=FILE.yaml")
    hardware = inputs / "hardware" / f"{options.accelerator}.yaml" if example is not None else own
    mapping = Path(options.mapping or inputs / "mapping" / f"{example.mapping if example else ''}.yaml")
    for path in (hardware, mapping):
        if not path.is_file():
            raise PluginError("a file of an accelerator or of its mapping must exist", got=str(path))
    return hardware, mapping


def _cost(node: Mapping[str, Any], hardware: Path, mapping: Path) -> tuple[float, float]:
    """Cycles and pJ of the mapping of least latency, with the settings of ZigZag's own interface.

    That interface also draws each mapping into files, and fails where a layer fits the array at once: no loop is
    left to draw.
    """
    stages: list[Any] = [
        WorkloadParserStage,
        AcceleratorParserStage,
        SumStage,
        WorkloadStage,
        MinimalLatencyStage,
        SpatialMappingGeneratorStage,
        MinimalLatencyStage,
        TemporalMappingGeneratorStage,
        CostModelStage,
    ]
    simulation: Any = MainStage(
        list_of_callables=stages,
        accelerator=str(hardware),
        workload=[node],
        mapping=str(mapping),
        loma_lpf_limit=6,
        loma_show_progress_bar=False,
        nb_mappings_generated=3,
        enable_mix_spatial_mapping_generation=False,
        access_same_data_considered_as_no_access=True,
        temporal_mapping_type=TemporalMappingType.UNEVEN,
    )
    cost = simulation.run()[0][0]
    return float(cost.latency_total2), float(cost.energy_total)


def workload(layer: Layer, weight_bits: int, activation_bits: int, batch: int = 1) -> dict[str, Any]:
    """A layer, used once, in the words of ZigZag's workload files."""
    node = {
        "id": 0,
        "name": "layer",
        "operator_type": "Conv",  # the operator whose mappings name K and C; the equation says what is computed
        "operand_precision": {"W": weight_bits, "I": activation_bits, "O": SUM_BITS, "O_final": activation_bits},
        "operand_source": {"W": 0, "I": 0},
    }
    if layer.kind == "linear":
        return {
            **node,
            "equation": "O[b][k]+=W[k][c]*I[b][c]",
            "dimension_relations": [],
            "loop_dims": ["B", "K", "C"],
            "loop_sizes": [batch * layer.positions, layer.out_channels, layer.in_channels],
        }
    (kernel_y, kernel_x), (stride_y, stride_x) = _two(layer.kernel, 1), _two(layer.stride, 1)
    (out_y, out_x), (in_y, in_x) = _two(layer.output_size, 1), _two(layer.input_size, 1)
    pad_y, pad_x = _two(padding(layer), (0, 0))
    channels = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    return {
        **node,
        "equation": "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]",
        "dimension_relations": [f"ix={stride_x}*ox+1*fx", f"iy={stride_y}*oy+1*fy"],
        "loop_dims": ["B", "G", "K", "C", "OY", "OX", "FY", "FX"],
        "loop_sizes": [batch, layer.groups, *channels, out_y, out_x, kernel_y, kernel_x],
        "pr_loop_dims": ["IX", "IY"],
        "pr_loop_sizes": [in_x, in_y],
        "padding": [list(pad_x), list(pad_y)],
    }


def _two(extents: Sequence[Any], missing: Any) -> tuple[Any, Any]:
    """Extents in y and x, of which a 1-D convolution has the first only."""
    return (extents[0], extents[1]) if len(extents) == 2 else (extents[0], missing)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """ZigZag prints and logs: none of it leaves here."""
    logger = logging.getLogger("zigzag")
    propagate, quiet = logger.propagate, logging.NullHandler()
    logger.propagate = False
    logger.addHandler(quiet)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(quiet)
