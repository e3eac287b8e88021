"""Makes the navigation from the tables in index.md: a section is a caption, its links are pages.

The examples and the notebooks follow below the page of examples, which begins with
a gallery of them. So index.md stays a page like the others, and a page
that it does not name fails the build.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sphinx.application import Sphinx

import example_cards
from reference import module_pages
from repository_pages import COPIES


def add_navigation(app: Sphinx, docname: str, content: list[str]) -> None:
    if docname == "index":
        content[0] += navigation(content[0])
    elif docname == "examples":
        title, _, text = content[0].partition("\n")
        pages = example_cards.pages().values()
        content[0] = "\n\n".join([title, "```{gallery} example\n```", text, _toctree(pages)])


def navigation(index: str) -> str:
    """The tables of contents that follow from the sections of the index."""
    parts = []
    for section in re.split(r"^## ", index, flags=re.M)[1:]:
        caption, _, rest = section.partition("\n")
        pages = dict.fromkeys(re.findall(r"^\|[^|]*\]\((\w+)\.md\)", rest, re.M))
        if pages:
            parts.append(_toctree(pages, caption))
    parts.append(_toctree(module_pages(), "Reference"))
    parts.append(_toctree(COPIES.values(), "Project"))
    return "\n".join(parts)


def _toctree(pages: Iterable[str], caption: str = "") -> str:
    options = [":hidden:", f":caption: {caption}" if caption else ":maxdepth: 1"]
    return "\n".join(["", "```{toctree}", *options, "", *pages, "```", ""])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", add_navigation)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
