"""The fastest execution on this machine, found by a short trial and kept.

Each layout and each size of a batch is timed on the same samples, the best of a few rounds that take turns, so that a
disturbance strikes all alike. What is found is kept in the cache folder by the machine, the versions, the network and the shape of
its data: a campaign that is resumed here runs as it began. Where the folder is lost, or on another machine, another execution may win,
whose outputs differ in their last bits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, EvaluationError
from qsearch.evaluate.data import Split
from qsearch.evaluate.execution import Execution, Executor, Plan
from qsearch.files import cache_folder, write_atomically
from qsearch.quantize.copies import evaluation_copy
from qsearch.quantize.modules import forward
from qsearch.quantize.network import QuantizedNetwork

log = logging.getLogger(__name__)

SIZES = (16, 32, 64, 128)
"""Samples in a batch that are tried with the network as it is."""
COMPILED_SIZES = (16, 32)
"""Those that are tried with a compiled one, whose maps should stay in the processor's cache; each costs a compilation."""
SAMPLES = 128
"""Samples that a timing takes, at most."""
ROUNDS = 5
"""Timings of which the shortest counts."""
BITS = 8
"""Every site's, in timings of the quantised network: time depends on whether a site is quantised, not on its bits."""


def layout(model: nn.Module, data: Split, execution: Execution, batch_size: int) -> Plan:
    """The plan for a network that is still to be quantised: its layout, and with it the size of batches.

    Args:
        model: the float network.
        execution: what is asked for.
        batch_size: of executions other than "fastest".
    """
    if execution != "fastest":
        compiled = execution == "compiled"
        return Plan(execution == "channels-last", compiled, min(batch_size, len(data)) if compiled else batch_size)
    key = _key(model, data)
    known = _known(key)
    if known is not None:
        return known
    plans = [Plan(last, batch_size=size) for last in _layouts(data) for size in _sizes(SIZES, data)]
    models = {last: Plan(last).laid_out(evaluation_copy(model)) for last in _layouts(data)}
    seconds = _raced({plan: _passing(models[plan.channels_last], data, plan) for plan in plans})
    return min(seconds, key=lambda plan: seconds[plan])


def fastest(network: QuantizedNetwork, model: nn.Module, data: Split, plan: Plan) -> Executor:
    """Executes a network in the fastest way: by a known plan, or by the best of ``plan`` and of what can be compiled.

    Args:
        network: laid out by ``plan``.
        model: the float network that it was made of.
    """
    key = _key(model, data)
    known = _known(key)
    if known is not None:
        try:
            return Executor(network, known, data.head(known.batch_size).inputs)
        except (ConfigError, EvaluationError) as error:  # another compiler, or another network that looks the same
            log.info("what was fastest does not run any more: %s", error)
        plan = replace(known, compiled=False)
    executors = {plan: Executor(network, plan, data.head(plan.batch_size).inputs)}
    for size in _sizes(COMPILED_SIZES, data):
        compiled = Plan(plan.channels_last, True, size)
        try:
            executors[compiled] = Executor(network, compiled, data.head(size).inputs)
        except (ConfigError, EvaluationError) as error:
            log.info("not compiled: %s", error)
            break
    seconds = _raced({plan: _evaluating(executor, network, data) for plan, executor in executors.items()})
    best = min(seconds, key=lambda plan: seconds[plan])
    _keep(key, best, seconds)
    return executors[best]


def _passing(model: nn.Module, data: Split, plan: Plan) -> Callable[[], None]:
    def passing() -> None:
        for batch in _timed(data).batches(plan.batch_size):
            forward(model, plan.arranged(batch.inputs))

    return passing


def _evaluating(executor: Executor, network: QuantizedNetwork, data: Split) -> Callable[[], None]:
    run = executor.take_on(BitAssignment(dict.fromkeys(network.input_sites, BITS)))

    def evaluating() -> None:
        for batch in _timed(data).batches(executor.plan.batch_size):
            run(batch.inputs)

    return evaluating


def _raced(work: Mapping[Plan, Callable[[], None]]) -> dict[Plan, float]:
    """Seconds of each, the least of ``ROUNDS`` that take turns, after one that warms up."""
    found = dict.fromkeys(work, float("inf"))
    with torch.inference_mode():
        for number in range(ROUNDS + 1):
            for plan, run in work.items():
                start = time.perf_counter()
                run()
                if number:
                    found[plan] = min(found[plan], time.perf_counter() - start)
    return found


def _timed(data: Split) -> Split:
    return data.head(SAMPLES)


def _sizes(sizes: tuple[int, ...], data: Split) -> tuple[int, ...]:
    """Those sizes of which a timing has whole batches only; at least the least, or all samples in one."""
    count = min(len(data), SAMPLES)
    return tuple(size for size in sizes if count % size == 0) or (min(count, sizes[0]),)


def _layouts(data: Split) -> tuple[bool, ...]:
    """Whether channels last; there is but one way for what is no map."""
    return (False, True) if isinstance(data.inputs, Tensor) and data.inputs.dim() == 4 else (False,)


def _key(model: nn.Module, data: Split) -> str:
    """What the fastest plan depends on."""
    inputs = data.inputs if isinstance(data.inputs, tuple) else (data.inputs,)
    told = {
        "machine": (platform.machine(), _processor(), os.cpu_count()),
        "versions": (torch.__version__, platform.python_version()),
        "threads": torch.get_num_threads(),
        "network": [
            (type(module).__module__, type(module).__qualname__, module.extra_repr()) for module in model.modules()
        ],
        "types": sorted({str(parameter.dtype) for parameter in model.parameters()}),
        "data": [(tuple(part.shape[1:]), str(part.dtype)) for part in inputs],
        "samples": min(len(data), SAMPLES),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _processor() -> str:
    """The processor's model, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())


def _file(key: str) -> Path:
    return cache_folder() / "execution" / f"{key}.json"


def _known(key: str) -> Plan | None:
    """What was found before; None where nothing was, or what is kept is not readable."""
    try:
        plan = Plan(**json.loads(_file(key).read_text(encoding="utf-8"))["plan"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    sound = type(plan.batch_size) is int and plan.batch_size >= 1
    return plan if sound and type(plan.compiled) is bool and type(plan.channels_last) is bool else None


def _keep(key: str, plan: Plan, seconds: Mapping[Plan, float]) -> None:
    tried = [{**asdict(one), "seconds": round(value, 6)} for one, value in seconds.items()]
    path = _file(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"plan": asdict(plan), "tried": tried}, indent=1).encode())
    except OSError as error:
        log.warning("cannot keep the fastest execution in %s: %s; set QSEARCH_CACHE to a folder", path.parent, error)
