"""How objects show themselves: calls of their constructors, and tables in notebooks."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

MOST_ROWS = 30


def arguments_of(thing: Any, *without: str) -> dict[str, Any]:
    """The arguments of the constructor that the object has as attributes of the same names."""
    attributes = vars(thing)
    return {
        name: _plain(attributes[name])
        for name in inspect.signature(type(thing)).parameters
        if name in attributes and name not in without
    }


def _plain(value: Any) -> Any:
    """The milestones of a schedule, which it counts, as the list that they were."""
    return sorted(value.elements()) if isinstance(value, Counter) else value


def call(name: str, arguments: Mapping[str, Any]) -> str:
    """The call with these arguments, as Python writes it."""
    return f"{name}({', '.join(f'{key}={in_short(value)}' for key, value in arguments.items())})"


def in_short(value: Any) -> str:
    """A value in a line: of an array its shape and dtype, of a function its name."""
    if isinstance(value, np.ndarray) and value.size > 1:
        return f"array of {value.shape} {value.dtype}"
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    return repr(value)


def table(title: str, rows: Mapping[str, Any]) -> str:
    """Names and values as a table of HTML."""
    return columns(title, ("", ""), ((name, (value,)) for name, value in rows.items()))


def columns(
    title: str, heads: Iterable[object], rows: Iterable[tuple[object, Iterable[Any]]]
) -> str:
    """Rows of values under heads as a table of HTML; the first rows if there are many."""
    from html import escape  # here, as few programs show anything in a notebook

    def row(tag: str, cells: Iterable[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    every = list(rows)
    lines = [f"<caption><b>{escape(title)}</b></caption>"]
    names = [str(head) for head in heads]
    if any(names):
        lines.append(row("th", names))
    for name, values in every[:MOST_ROWS]:
        lines.append(row("td", [str(name), *map(_cell, values)]))
    if len(every) > MOST_ROWS:
        lines.append(row("td", [f"... and {len(every) - MOST_ROWS} more"]))
    return f"<table>{''.join(lines)}</table>"


def lines_of_groups(name: str, groups: list[dict[str, Any]]) -> str:
    """The groups of an optimizer and their options, as torch shows them."""
    shown = []
    for number, group in enumerate(groups):
        options = [f"    {key}: {group[key]}\n" for key in sorted(group) if key != "params"]
        shown.append(f"\nParameter Group {number}\n" + "".join(options))
    return f"{name} ({''.join(shown)})"


def table_of_groups(name: str, groups: list[dict[str, Any]]) -> str:
    """The same as a table of HTML, with a column for each group."""
    options = sorted({option for group in groups for option in group} - {"params", "param_names"})
    rows = [("parameters", [len(group["params"]) for group in groups])]
    rows += [(option, [group.get(option, "") for group in groups]) for option in options]
    return columns(name, ["", *(f"group {number}" for number in range(len(groups)))], rows)


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else in_short(value)
