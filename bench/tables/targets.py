"""Targets of columns."""

from __future__ import annotations

from collections.abc import Mapping

from bench.report import ratio_text

HEADER = ("target", "bound", "worst", "missed by")


def row(
    title: str, bound: float, values: Mapping[str, float], *, most: bool
) -> tuple[str, str, str, str]:
    """The title, the bound (upper or lower), the worst value with its owner, and all that miss the
    target."""
    shown = f"at {'most' if most else 'least'} {bound:g}"
    if not values:
        return title, shown, "", ""
    worst = (max if most else min)(values, key=values.__getitem__)
    missed = [name for name, value in values.items() if (value > bound if most else value < bound)]
    found = f"{ratio_text(values[worst])} ({worst})"
    return title, shown, found, ", ".join(missed) or "nobody"
