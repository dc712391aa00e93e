"""A virtual environment for each peer, made on demand and kept."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = {
    "mct": ("model-compression-toolkit==2.6.1",),
    # it imports two distributions that it does not name among its requirements
    "modelopt": ("nvidia-modelopt==0.47.0", "requests", "huggingface_hub"),
}
"""Peer → what is installed beside torch and numpy; all else as their own requirements have it."""

PINNED = ("torch", "numpy")
"""Distributions that every peer has at the version of ours."""

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def interpreter(tool: str, folder: Path) -> Path:
    """The Python that runs a tool; where it is a peer's first use, its environment is made below ``folder``.

    Raises:
        subprocess.CalledProcessError: pip could not install it, and has said why.
    """
    if tool not in REQUIREMENTS:
        return Path(sys.executable)
    home = folder / tool
    python = home / "bin" / "python"
    wanted = "\n".join((*pinned(), *REQUIREMENTS[tool]))
    made = home / "installed.txt"
    if made.exists() and made.read_text() == wanted:
        return python
    print(f"making the environment of {tool} in {home}", file=sys.stderr)
    venv.create(home, clear=True, with_pip=True)
    # torch comes first and alone: its pin must be met before anything else may ask for another build of it
    for requirements in (pinned(), REQUIREMENTS[tool]):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *pinned(), *requirements], check=True)
    made.write_text(wanted)
    return python


def pinned() -> tuple[str, ...]:
    """The lines of ``constraints.txt`` for :data:`PINNED`."""
    lines = CONSTRAINTS.read_text().splitlines()
    return tuple(line for line in lines if line.partition("==")[0] in PINNED)
