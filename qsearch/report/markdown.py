"""A :class:`Document` as Markdown (GitHub's dialect), with plots as files beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from qsearch.report.document import Block, Code, Document, Paragraph, Plot, Table


def render(document: Document, images: Mapping[str, str]) -> str:
    """The document as Markdown.

    Args:
        images: name of a plot → path relative to the Markdown file.
    """
    parts = [f"# {escape(document.title)}", f"**{escape(document.lead)}**"]
    for section in document.sections:
        parts.append(f"## {escape(section.title)}")
        parts += [_block(block, images) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Plain text in which no character is markup."""
    text = " ".join(text.split())
    text = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([|*`~$])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return text.replace("](", "]\\(")


def _block(block: Block, images: Mapping[str, str]) -> str:
    if isinstance(block, Paragraph):
        return f"**{escape(block.text)}**" if block.strong else escape(block.text)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Plot):
        return _plot(block, images)
    return _code(block)


def _table(table: Table) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return f"| {' | '.join(escape(cell) for cell in cells)} |"

    rule = ["---" if index < table.text_columns else "--:" for index in range(len(table.header))]
    lines = [line(table.header), f"|{'|'.join(rule)}|", *(line(row) for row in table.rows)]
    return "\n".join(lines) + (f"\n\n{escape(table.note)}" if table.note else "")


def _plot(plot: Plot, images: Mapping[str, str]) -> str:
    image = f"![{escape(plot.title)}]({images[plot.name]})"
    return f"{image}\n\n{escape(plot.caption)}" if plot.caption else image


def _code(block: Code) -> str:
    """A fence longer than any run of backticks within."""
    longest = max((len(run) for run in re.findall(r"`+", block.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{escape(block.title)}:\n\n{fence}yaml\n{block.text.rstrip()}\n{fence}"
