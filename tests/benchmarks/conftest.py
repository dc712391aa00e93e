"""What benchmarks of several files are made of can be imported by tests, as the files import each other."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "peers"))
