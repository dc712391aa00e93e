"""``Document``: what a report says, before it is Markdown or HTML.

All text is plain: the writers escape it, so that names from a campaign file cannot become markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text; ``strong`` for a result or a warning that must not be missed."""

    text: str
    strong: bool = False
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Table:
    """A table. The first ``text_columns`` hold words, the others numbers, which are set to the right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    note: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Plot:
    """A figure; ``name`` is its file name without suffix, ``title`` says what it shows where it cannot be seen."""

    name: str
    title: str
    figure: Figure
    caption: str = ""
    kind: ClassVar[str] = "plot"


@dataclass(frozen=True)
class Code:
    """Text as it stands in a file, folded away where that is possible."""

    title: str
    text: str
    kind: ClassVar[str] = "code"


Block: TypeAlias = Paragraph | Table | Plot | Code


@dataclass(frozen=True)
class Section:
    """A headed part of a document."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A page: its title, the result in a sentence, and its sections."""

    title: str
    lead: str
    sections: tuple[Section, ...]

    @property
    def plots(self) -> tuple[Plot, ...]:
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Plot))


def pairs(values: Mapping[str, str], header: tuple[str, str] = ("", "")) -> Table:
    """A table of two columns of words: what, and its value."""
    return Table(header, tuple(values.items()), text_columns=2)


def section(title: str, blocks: Sequence[Block | None]) -> Section:
    """A section of the blocks there are."""
    return Section(title, tuple(block for block in blocks if block is not None))
