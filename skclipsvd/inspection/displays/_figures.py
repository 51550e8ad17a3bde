"""What the displays share: matplotlib, colours, panels, legends, and labels as text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow, which is too
# faint on white. Markers repeat with another period, so that 56 classes look different.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BEFORE, AFTER, WRONG = "#A6A6A6", "#0072B2", "#D55E00"


def as_records(table: Any) -> list[dict[str, Any]]:
    """Turn a frame, where pandas is there, or a list of dict into the latter."""
    return table.to_dict("records") if hasattr(table, "to_dict") else list(table)


def pyplot(owner: Any) -> Any:
    """Import matplotlib, or say which display needs it and how to install it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        name = owner.__name__ if isinstance(owner, type) else type(owner).__name__
        raise ImportError(
            f"{name} needs matplotlib; install it with `pip install 'skclipsvd[plot]'`."
        ) from error
    return plt


def one_panel(owner: Any, ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Take `ax`, or make a new figure with one."""
    plt = pyplot(owner)
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    return _figure_of(ax), ax


def panels(
    owner: Any,
    ax: Axes | None,
    n: int,
    size: tuple[float, float],
    ratios: Sequence[float] | None = None,
    across: bool = False,
) -> tuple[Figure, NDArray]:
    """Make panels below or beside each other, in a new figure or in the place of `ax`."""
    plt = pyplot(owner)
    shape = (1, n) if across else (n, 1)
    widths, heights = (ratios, None) if across else (None, ratios)
    place = None if ax is None else ax.get_subplotspec()
    if ax is None:
        figure = plt.figure(figsize=size, layout="constrained")
        grid = figure.add_gridspec(*shape, width_ratios=widths, height_ratios=heights)
    elif place is None:
        raise ValueError(
            f"ax: {type(owner).__name__} divides the place of its ax, and this one was made "
            "without a grid; pass one of plt.subplots() or figure.add_subplot()."
        )
    else:
        figure = _figure_of(ax)
        grid = place.subgridspec(*shape, width_ratios=widths, height_ratios=heights)
        ax.set_axis_off()
    return figure, np.array([figure.add_subplot(grid[i]) for i in range(n)])


def _figure_of(ax: Axes) -> Figure:
    """Return what holds an ax: a figure, or what has all that is asked of one here."""
    return cast("Figure", ax.figure)


def legend_beside(ax: Axes, handles: Sequence[Any] | None = None) -> None:
    """Put the legend to the right of the axes, where it covers no data."""
    n = len(handles if handles is not None else ax.get_legend_handles_labels()[0])
    if n:
        place: dict[str, Any] = dict(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        ax.legend(handles=handles, frameon=False, fontsize="small", ncols=-(-n // 20), **place)


def legend_above(ax: Axes, n_columns: int) -> None:
    """Put a legend of one line above the axes, at the right, beside a title at the left."""
    place: dict[str, Any] = dict(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    ax.legend(frameon=False, fontsize="small", ncols=n_columns, **place)


def remove_spines(*axes: Axes) -> None:
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)


def whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def width_in_inches(ax: Axes) -> float:
    return ax.get_window_extent().width / ax.figure.dpi


def in_one_line(label: Any) -> str:
    return " ".join(str(label).split())


def short(label: Any, n: int = 28) -> str:
    """Write a label in one line of at most `n` letters, as text that matplotlib shows as it is.

    To matplotlib, dollar signs enclose a formula and a first underscore hides a label.
    """
    text = in_one_line(label)
    text = text if len(text) <= n else text[: n - 1] + "…"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def wrap(text: str, width: int) -> list[str]:
    """Break a text into at most three lines."""
    return textwrap.wrap(text, width, max_lines=3, placeholder="…") or [""]
