"""What benchmarks of several files are made of can be imported by tests, as the files import each other."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

sys.path.extend([str(BENCHMARKS), str(BENCHMARKS / "peers")])
