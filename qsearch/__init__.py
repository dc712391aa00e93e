"""qsearch: which precision should each layer and each kernel of a network have?"""

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import QSearchError
from qsearch.layers import Layer
from qsearch.sites import build_space
from qsearch.space import SearchSpace, Site
from qsearch.trial import Cost, Quality, Trial

__version__ = "0.1.0"

__all__ = [
    "FLOAT_BITS",
    "BitAssignment",
    "Cost",
    "Layer",
    "QSearchError",
    "Quality",
    "SearchSpace",
    "Site",
    "Trial",
    "build_space",
]
