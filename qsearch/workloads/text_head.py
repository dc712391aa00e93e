"""A classifier's head: a logistic regression on the encoder's features, fitted once and kept in the cache folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from safetensors.torch import save
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types
from torch import nn

from qsearch.errors import StorageError
from qsearch.files import cache_folder
from qsearch.workloads.base import Samples
from qsearch.workloads.files import is_file, sha256
from qsearch.workloads.text_network import PooledClassifier, pooled_features
from qsearch.workloads.training import isolated
from qsearch.workloads.weight_cache import restore, store

INVERSE_PENALTY = 0.1
"""C of scikit-learn: 1 / strength of the L2 penalty. Of 0.01, 0.03 … 3 the best on validation data of TREC."""

VERSION = 1
"""Raised whenever fitting changes in a way that its numbers do not show."""

log = logging.getLogger(__name__)


def put_head(network: PooledClassifier, samples: Samples, validation: Samples, name: str) -> None:
    """Give a network its head: from the cache where that is whole, else fitted and put there.

    A file that is damaged is told of and replaced; a folder that cannot be written is told of and done without.

    Args:
        samples: what to fit to, inputs (N, 2, T).
        validation: what to judge by; its accuracy is kept with the head.
        name: opening of the file's name; a key of the encoder's weights, the samples and the recipe follows.
    """
    path = cache_folder() / f"{name}-{_key(network, samples)}.safetensors"
    if is_file(path) and _restored(network.head, path):
        return
    log.info("fitting a head to %d texts, a minute or so, once", len(samples))
    fit_head(network, samples)
    with torch.no_grad():
        right = network.head(pooled_features(network, validation.inputs)).argmax(1) == validation.targets
    accuracy = float(right.double().mean())
    log.info("accuracy on validation data: %.4f", accuracy)
    try:
        store(path, network.head.state_dict(), accuracy)
    except OSError as error:
        log.warning(
            "cannot keep the head in %s: %s; set QSEARCH_CACHE to a folder that can be written, or each run fits it again",
            path.parent,
            error.strerror or error,
        )


def fit_head(network: PooledClassifier, samples: Samples) -> None:
    """Fit the head to samples (N, 2, T), the encoder as it is; on one thread, which makes the result reproducible."""
    with isolated(0), threadpool_limits(1):
        x = pooled_features(network, samples.inputs).numpy()
        found = LogisticRegression(C=INVERSE_PENALTY, max_iter=5000).fit(x, samples.targets.numpy())
        weight, bias = torch.from_numpy(found.coef_), torch.from_numpy(found.intercept_)
    if len(weight) == 1:  # of two classes scikit-learn keeps the difference
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    with torch.no_grad():
        network.head.weight.copy_(weight)
        network.head.bias.copy_(bias)


def _key(network: PooledClassifier, samples: Samples) -> str:
    """Twelve hexadecimal digits that differ wherever the head may."""
    weights = {name: value.contiguous() for name, value in network.model.state_dict().items()}
    texts = {"inputs": samples.inputs, "targets": samples.targets}
    recipe = {"C": INVERSE_PENALTY, "version": VERSION, "model": type(network.model).__name__}
    return sha256((sha256(save(weights)) + sha256(save(texts)) + json.dumps(recipe, sort_keys=True)).encode())[:12]


def _restored(head: nn.Module, path: Path) -> bool:
    """Whether the head could be read from the cache; a file of no use is told of."""
    try:
        state, _ = restore(path, head.state_dict())
    except StorageError as error:
        log.warning("%s; discarded, fitting again", error)
        return False
    head.load_state_dict(state)
    return True
