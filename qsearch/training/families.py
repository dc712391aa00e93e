"""The quantisers of training, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qsearch.errors import ConfigError, nearest
from qsearch.training.dorefa import Dorefa
from qsearch.training.ewgs import Ewgs
from qsearch.training.lsq import Lsq
from qsearch.training.pact import Pact
from qsearch.training.quantizers import Family

FAMILIES: Mapping[str, Family] = MappingProxyType({"lsq": Lsq(), "pact": Pact(), "dorefa": Dorefa(), "ewgs": Ewgs()})
"""Name → family."""


def family(name: str) -> Family:
    """A family by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in FAMILIES:
        raise ConfigError(f"unknown quantizer {name!r}", fix=nearest(name, FAMILIES))
    return FAMILIES[name]
