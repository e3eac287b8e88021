"""What pictures need of matplotlib, which is imported when something is drawn."""

from __future__ import annotations

from typing import Any


def new_axes() -> Any:
    """Axes in a figure of their own."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('plot needs matplotlib: pip install "cyoptim[demo]"') from error
    return plt.subplots()[1]
