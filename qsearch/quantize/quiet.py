"""Exporting without what torch says of its own parts: it prints graphs that failed, and packages that it would also export."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

LOGGERS = ("torch.export", "torch.fx.experimental.symbolic_shapes", "torch.onnx._internal.exporter._registration")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence standard error, warnings of torch's deprecations, and the loggers of its exporters; errors still raise."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.filterwarnings("ignore", category=category)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
