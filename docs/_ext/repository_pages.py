"""Adapts pages written for a repository browser to the site.

- Links into the repository lead to the page of the site that shows the file. A link to a file
  without a page becomes text; a link to a missing file gives a warning.
- README's companions (CONTRIBUTING.md and others) become pages, and so does each example.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COPIES = {
    "CONTRIBUTING.md": "project/contributing",
    "CHANGELOG.md": "project/changelog",
    "bench/README.md": "project/measuring",
}
EXAMPLES = [path.stem for path in sorted((ROOT / "examples").glob("*.py"))]
# As conf.py has it: they are pages where there is a package that runs them.
NOTEBOOKS = [
    path.stem for path in sorted((DOCS / "notebooks").glob("*.ipynb")) if find_spec("myst_nb")
]
SHOWN = {
    **COPIES,
    **{f"examples/{name}.py": f"project/examples/{name}" for name in EXAMPLES},
    **{f"docs/notebooks/{name}.ipynb": f"notebooks/{name}" for name in NOTEBOOKS},
    "README.md": "index",
    "python/cyoptim/_schedulers/swa.py": "reference/swa_utils",
}
# Pictures that a drawing replaces, as it follows the theme.
DRAWN = {"bench/results/adam.png": "speed"}

# Code comes first, so that no text inside it counts as a link.
PIECE = re.compile(
    r"^```.*?^```$|(?P<link>(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\))|`[^`\n]*`",
    re.M | re.S,
)
logger = logging.getLogger(__name__)


def copy_companions(app: Sphinx) -> None:
    for source, docname in COPIES.items():
        write_if_changed(DOCS / f"{docname}.md", (ROOT / source).read_text())
    for name in EXAMPLES:
        code = f"```{{literalinclude}} ../../../examples/{name}.py\n:language: python\n```\n"
        write_if_changed(DOCS / f"project/examples/{name}.md", f"# {name}.py\n\n{code}")


def write_if_changed(path: Path, text: str) -> None:
    """Write a page if it has changed, so that the next build does not read it again."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def adapt_page(app: Sphinx, docname: str, content: list[str]) -> None:
    # Made for the site, or with links inside of docs/ alone.
    if not docname.startswith(("reference/", "project/examples/", "notebooks/")):
        content[0] = with_links_of_the_site(content[0], docname)


def with_links_of_the_site(text: str, docname: str) -> str:
    sources = {copy: source for source, copy in COPIES.items()}
    folder = (ROOT / sources.get(docname, f"docs/{docname}.md")).parent

    def adapted(piece: re.Match[str]) -> str:
        target = piece["target"] or "#"
        if target.startswith("#") or re.match(r"[a-z]+:", target):
            return piece[0]  # code, an anchor of the page itself, or another site
        name, _, anchor = target.partition("#")
        path = Path(os.path.normpath(folder / name))
        if not path.exists():
            logger.warning("link to %s, which is not there", target, location=docname)
        return _link(piece, path.relative_to(ROOT).as_posix(), anchor, docname)

    return PIECE.sub(adapted, text)


def leave_out_source(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Show no link to the file of a page that is made: the repository has none."""
    if pagename.startswith(("reference/", "project/")):
        context["page_source_suffix"] = ""


def _link(piece: re.Match[str], path: str, anchor: str, docname: str) -> str:
    if piece["image"]:
        return _picture(piece["text"], path, docname)
    shown = page_of(path, piece["text"])
    if shown is None:
        return piece["text"]
    suffix = "ipynb" if shown.startswith("notebooks/") else "md"
    page = os.path.relpath(f"{shown}.{suffix}", os.path.dirname(docname) or ".")
    return f"[{piece['text']}]({page}{'#' + anchor if anchor and shown != 'index' else ''})"


def page_of(path: str, text: str = "") -> str | None:
    """The page that shows a file of the repository; a file with many schedules has one for that
    which the text of the link names."""
    if path in SHOWN:
        return SHOWN[path]
    if match := re.fullmatch(r"docs/(\w+)\.md", path):
        return match[1]
    if match := re.fullmatch(r"python/cyoptim/((?:optimizers/)?[a-z]\w*)\.py", path):
        return f"reference/{match[1]}"
    named = re.match(r"`(\w+)", text)
    if named and path.startswith("python/cyoptim/_schedulers/"):
        return f"reference/lr_scheduler/{named[1]}"
    return None


def _picture(text: str, path: str, docname: str) -> str:
    if path in DRAWN:
        return f"```{{drawing}} {DRAWN[path]} {docname}\n```"
    return f"![{text}]({os.path.relpath(ROOT / path, (DOCS / docname).parent)})"


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", copy_companions)
    app.connect("source-read", adapt_page)
    app.connect("html-page-context", leave_out_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
