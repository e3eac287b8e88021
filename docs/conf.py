"""Configuration of Sphinx: python -m sphinx -W --keep-going -b html docs build/site."""

import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import cyoptim

# The extensions, and the cards of the optimizers, which lie in the tests.
sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())

project = "cyoptim"
author = "The cyoptim developers"
copyright = author
version = release = cyoptim.__version__

# Runs the notebooks, and contains myst_parser; without it the site has all pages but these.
has_notebooks = find_spec("myst_nb") is not None

extensions = [
    "myst_nb" if has_notebooks else "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "offline_mathjax",
    "repository_pages",
    "reference",
    "navigation",
    "drawings",
]
# Buttons that copy code; the site can be read without them.
extensions += [name for name in ("sphinx_copybutton",) if find_spec(name)]
copybutton_exclude = ".linenos, .gp, .go"  # prompts, and what is printed
exclude_patterns = ["_ext"]

# Every reference must resolve; types of other packages stay text, as nothing is downloaded.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|matplotlib|sklearn|scipy)\..*"),
    (r"py:class", r"[a-z][\w ]*"),  # types in words
    (r"py:class", r"\d+"),  # shapes
]

nb_execution_mode = "auto"  # those without outputs: none are stored
nb_execution_raise_on_error = True
nb_execution_timeout = 120  # seconds

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

autodoc_typehints = "none"  # the docstrings contain the types
autodoc_member_order = "bysource"
napoleon_google_docstring = False
# As parameters are: Sphinx has no fields for two attributes in one, nor for names that end in _.
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_param = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"cyoptim {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    # Links to view and edit the file of a page.
    "source_repository": pyproject["project"]["urls"]["Source"],
    "source_branch": "main",
    "source_directory": "docs/",
    "light_css_variables": {"color-brand-primary": "#1f63ad", "color-brand-content": "#1f63ad"},
    "dark_css_variables": {"color-brand-primary": "#7db4f0", "color-brand-content": "#7db4f0"},
}
