"""A :class:`Document` as one self-contained HTML page: styles and plots are inside, nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from qsearch.report.document import Document


def render(document: Document, drawings: Mapping[str, str]) -> str:
    """The document as a page. All text is escaped.

    Args:
        drawings: name of a plot → its ``<svg>`` element.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_resource("page.html"))
    safe = {name: Markup(svg) for name, svg in drawings.items()}  # matplotlib escapes the text within
    return template.render(document=document, drawings=safe, css=Markup(_resource("page.css")))


def _resource(name: str) -> str:
    return resources.files("qsearch.report").joinpath(name).read_text(encoding="utf-8")
