"""Makes the reference: a page per module, optimizer and schedule, from `__all__` and docstrings.

A public name without a page gives a warning, which fails the build.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import cyoptim
import drawings
from methods import MODES, is_in_modes, methods_section, signature
from repository_pages import DOCS, write_if_changed

FOLDER = DOCS / "reference"
TITLES = {
    "cyoptim.optimizers": "Optimizers",
    "cyoptim.lr_scheduler": "Schedulers",
    "cyoptim.lr_finder": "Learning-rate finder",
    "cyoptim.optimizer": "The base, and hooks",
    "cyoptim.parameter": "Parameter",
    "cyoptim._groups.rules": "Groups by rules",
    "cyoptim._groups.storage": "Stored precision",
    "cyoptim._arrays.trees": "Trees",
    "cyoptim.vectors": "One vector",
    "cyoptim.clip": "Clipping",
    "cyoptim._averages.moving": "Averages in the step",
    "cyoptim.swa_utils": "Averages by call",
    "cyoptim.checkpoint": "Checkpoints",
    "cyoptim._saving.masters": "Master weights",
    "cyoptim.distributed": "Many processes",
    "cyoptim.sklearn": "scikit-learn",
    "cyoptim.scipy": "SciPy",
    "cyoptim._config": "Threads and build",
    "cyoptim.kernel": "Kernel, for compiled code",
}
"""In the order of the navigation; other modules follow under their names."""

# The pages of what private modules offer.
PAGES = {
    "cyoptim._groups.rules": "group_rules",
    "cyoptim._groups.storage": "storage",
    "cyoptim._arrays.trees": "trees",
    "cyoptim._averages.moving": "averages",
    "cyoptim._saving.masters": "master_weights",
}
# These have a page for each of their classes.
GALLERIES = {"cyoptim.optimizers": "optimizer", "cyoptim.lr_scheduler": "schedule"}
UNLISTED = {"cyoptim.kernel": ["Kernel", "c_functions"]}  # a compiled module without __all__
# torch's names, which exist only for programs written for torch.
UNDOCUMENTED = {"cyoptim.optimizer.ParamsT", "cyoptim.optimizer.required"}
INHERITED = ("Optimizer", "Parameter", "LRScheduler")  # also what their private bases document

logger = logging.getLogger(__name__)


# --- what is public -------------------------------------------------------------------------------


@functools.cache
def public_names() -> dict[str, list[str]]:
    """Public names, as users write them, by module."""
    top = {name: getattr(cyoptim, name) for name in cyoptim.__all__}
    found: dict[str, list[str]] = {}
    for module in _modules():
        for name in getattr(module, "__all__", UNLISTED.get(module.__name__, ())):
            thing = getattr(module, name)
            within = "cyoptim" if top.get(name) is thing else module.__name__
            if _is_shown(name, thing, module.__name__):
                found.setdefault(module.__name__, []).append(f"{within}.{name}")
    offered = {written for names in found.values() for written in names}
    for name, thing in top.items():
        written = f"cyoptim.{name}"
        if written not in offered and not inspect.ismodule(thing):
            found.setdefault(thing.__module__, []).append(written)
    known = list(TITLES)
    ordered = sorted(found, key=lambda m: (known.index(m) if m in known else len(known), m))
    return {module: sorted(found[module], key=_by_name) for module in ordered}


def _modules() -> Iterator[Any]:
    for module in pkgutil.iter_modules(cyoptim.__path__, "cyoptim."):
        name = module.name.rpartition(".")[2]
        if not name.startswith("_") and name not in ("demo", "torch"):
            yield importlib.import_module(module.name)


def _is_shown(name: str, thing: Any, module: str) -> bool:
    written = f"{module}.{name}"
    return callable(thing) and not name.startswith("_") and written not in UNDOCUMENTED


def _by_name(written: str) -> tuple[bool, str]:
    """The sort key: classes first, in alphabetical order."""
    return not inspect.isclass(named(written)), written.casefold()


# --- pages ----------------------------------------------------------------------------------------


def write_pages(app: Sphinx) -> None:
    pages: dict[str, str] = {}
    for module, names in public_names().items():
        kind = GALLERIES.get(module)
        if kind:
            inside = pages_of(kind)
            pages |= {page: class_page(module, name, kind) for name, page in inside.items()}
            pages[page_of_module(module)] = gallery_page(module, kind)
        else:
            pages[page_of_module(module)] = module_page(module, names)
    for page, text in pages.items():
        write_if_changed(DOCS / f"{page}.md", text)
    for path in FOLDER.rglob("*.md"):
        if path.relative_to(DOCS).with_suffix("").as_posix() not in pages:
            path.unlink()


def module_pages() -> list[str]:
    return [page_of_module(module) for module in public_names()]


def page_of_module(module: str) -> str:
    return f"reference/{PAGES.get(module, module.removeprefix('cyoptim.').lstrip('_'))}"


def pages_of(kind: str) -> dict[str, str]:
    """The pages of a gallery, by class: that of an optimizer has the name of its file."""
    (module,) = (module for module, its in GALLERIES.items() if its == kind)
    pages = {}
    for written in public_names()[module]:
        thing, name = named(written), written.rpartition(".")[2]
        if inspect.isclass(thing):
            file = thing.__module__.rpartition(".")[2] if kind == "optimizer" else name
            pages[name] = f"{page_of_module(module)}/{file}"
    return pages


def named(written: str) -> Any:
    module, _, name = written.rpartition(".")
    return getattr(importlib.import_module(module), name)


def module_page(module: str, names: list[str]) -> str:
    parts = [heading(module)]
    for written in names:
        name = written.rpartition(".")[2]
        if name in drawings.SCHEDULES:
            parts.append(f"```{{drawing}} schedule {name}\n```")
        parts.append(autodoc(written))
    return "\n\n".join(parts) + "\n"


def class_page(module: str, name: str, kind: str) -> str:
    written = next(each for each in public_names()[module] if each.endswith(f".{name}"))
    drawing = f"```{{drawing}} {kind} {name}\n```" if drawings.is_drawn(kind, name) else ""
    methods = eval_rst(*methods_section(named(written)))
    parts = [f"# {name}", drawing, autodoc(written), "## Methods", METHODS_TEXTS[kind], methods]
    return "\n\n".join(parts) + "\n"


def gallery_page(module: str, kind: str) -> str:
    inside = [page.removeprefix("reference/") for page in pages_of(kind).values()]
    functions = [each for each in public_names()[module] if not inspect.isclass(named(each))]
    parts = [
        heading(module),
        GALLERY_TEXTS[kind],
        f"```{{gallery}} {kind}\n```",
        *map(autodoc, functions),
        "\n".join(["```{toctree}", ":hidden:", "", *inside, "```"]),
    ]
    return "\n\n".join(parts) + "\n"


def heading(module: str) -> str:
    """The title; docstrings may refer to a module that users import."""
    title = f"# {TITLES.get(module, module)}"
    private = "._" in module
    return title if private else "\n\n".join([title, eval_rst(f".. module:: {module}")])


def autodoc(written: str) -> str:
    thing, name = named(written), written.rpartition(".")[2]
    if not inspect.isclass(thing):
        return eval_rst(f".. autofunction:: {written}")
    options = ["   :members:"]
    if issubclass(thing, cyoptim.Optimizer) and thing is not cyoptim.Optimizer:
        options.append("   :exclude-members: update")  # documented at its base
    if is_in_modes(thing):
        options = [f"   :members: {', '.join(MODES)}"]
    if name in INHERITED:
        options.append("   :inherited-members: NDArrayOperatorsMixin")
    return eval_rst(f".. autoclass:: {written}", *options)


def eval_rst(*lines: str) -> str:
    return "\n".join(["```{eval-rst}", *lines, "```"])


GALLERY_TEXTS = {
    "optimizer": (
        "Every optimizer in the same valley, from the same start (the ring) towards the minimum "
        "(the cross), in 200 steps. The function is Rosenbrock's, "
        "$(1 - x)^2 + 10 (y - x^2)^2$: it is easy to come down to the floor, which is curved and "
        "nearly flat. Each page tells the options that were used and shows how the loss falls.\n\n"
        "These are drawings of how the rules move, and no contest: with two parameters and no "
        "noise, what is best here need not be so for a model. What all have in common is in "
        "[Optimizers](../optimizers.md) and in [their base](optimizer.md)."
    ),
    "schedule": (
        "Every schedule over 100 steps. Each page has the code that made the curve, and the "
        "arguments; [Schedulers](../schedulers.md) tells how to use them."
    ),
}


METHODS_TEXTS = {
    "optimizer": (
        "Each is explained where its link leads. `param_groups`, `state` and `defaults` are "
        "attributes, as of every [optimizer](../optimizer.md)."
    ),
    "schedule": (
        "Each is explained where its link leads; [Schedulers](../../schedulers.md) tells when to "
        "call them."
    ),
}


# --- docstrings -----------------------------------------------------------------------------------


def list_references(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Make a list of the papers: footnotes would need citations."""
    text = "\n".join(lines)
    text = re.sub(r"^\.\. \[(\d)\] ", r"\1. ", text, flags=re.M)
    lines[:] = re.sub(r"\s?\[(\d)\]_", r" [\1]", text).split("\n")


def arguments_of_class(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, found: str | None, returns: Any
) -> tuple[str | None, Any] | None:
    """Show the arguments of ``__init__`` where those of a general ``__new__`` were found."""
    if what == "class" and found == "(*args, **kwargs)":
        return signature(thing.__init__), returns
    return None


def leave_out(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool:
    """Omit members that scikit-learn generates: their docstrings refer to its own pages."""
    return skip or bool(re.fullmatch(r"set_\w+_request", name))


def check_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names without a page."""
    documented = env.domains.python_domain.objects
    for written in missing(set(documented)):
        logger.warning("%s is public, and documented on no page", written, type="reference")


def missing(documented: set[str]) -> list[str]:
    """The public names that are not among these."""
    names = [f"cyoptim.{name}" for name in cyoptim.__all__]
    names += [name for written in public_names().values() for name in written]
    callables = [name for name in names if not inspect.ismodule(named(name))]
    return sorted(set(callables) - documented)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", list_references, priority=600)
    app.connect("autodoc-process-signature", arguments_of_class)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("env-check-consistency", check_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
