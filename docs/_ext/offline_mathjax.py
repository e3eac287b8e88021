"""Formulas without a network: the files of MathJax come from an installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset

PACKAGE = "sphinx-mathjax-offline"  # with hyphens: the name of the module, too
SCRIPT = "tex-chtml.js"
FONTS = "output/chtml/fonts/woff-v2"


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        for part in (SCRIPT, FONTS):
            target = Path(app.outdir, "_static", "mathjax", part).parent
            copy_asset(_mathjax() / part, target if part == SCRIPT else target / Path(part).name)


def _mathjax() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ImportError(f'formulas need {PACKAGE}: pip install "cyoptim[docs]"')
    return Path(spec.origin).parent / "static" / "mathjax"


def setup(app: Sphinx) -> dict[str, Any]:
    _mathjax()
    app.config["mathjax_path"] = f"mathjax/{SCRIPT}"
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
