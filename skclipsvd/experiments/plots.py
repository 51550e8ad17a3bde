"""Results as curves beside the papers' numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..inspection.displays import COLOURS, MARKERS, FewShotCurveDisplay
from . import settings
from .methods import METHODS
from .results import Row
from .summaries import (
    MODEL,
    by_label,
    group_by,
    how_many,
    latest_runs,
    reported_curves,
    with_labels,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_shots(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw accuracy against shots: a panel for each data set, and one for their mean.

    Parameters
    ----------
    rows : sequence of dict
        Few-shot results of one model; others are not looked at.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Save it with ``figure.savefig("shots.png")``.

    Raises
    ------
    ImportError
        There is no matplotlib.
    ValueError
        There are no few-shot results, or of several models.

    Examples
    --------
    >>> from skclipsvd.experiments import plot_shots, read_results
    >>> plot_shots(read_results("results.csv")).savefig("shots.png")  # doctest: +SKIP
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plot_shots needs matplotlib; install it with `pip install 'skclipsvd[plot]'`."
        ) from error
    few_shot = [row for row in rows if row["protocol"] == "few-shot"]
    models = list(group_by(few_shot, *MODEL))
    if len(models) != 1:
        raise ValueError(f"plot_shots draws few-shot results of one model; got {models or 'none'}.")
    labelled = with_labels(latest_runs(few_shot))
    panels = [(data[0], _all_scores(part)) for data, part in group_by(labelled, "data").items()]
    if len(panels) > 1:
        panels.append(_mean_panel(labelled))
    styles = _styles(label for _, curves in panels for label in curves)
    figure = Figure(figsize=(3.8 * len(panels) + 2.5, 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, curves) in zip(axes, panels, strict=True):
        FewShotCurveDisplay(curves, title).plot(ax, styles=styles, legend=False)
        if ax is not axes[0]:
            ax.set_ylabel("")
    lines = {str(line.get_label()): line for ax in axes for line in ax.lines}
    figure.legend(
        list(lines.values()),
        list(lines),
        loc="outside right upper",
        fontsize="small",
        frameon=False,
    )
    return figure


def _all_scores(rows: Sequence[Row]) -> dict[str, dict[int, list[float]]]:
    """Return all accuracies by label and shots, zero shots included."""
    return {
        label: {
            shots: [row["accuracy"] for row in same]
            for (shots,), same in group_by(part, "shots").items()
        }
        for label, part in by_label(rows)
    }


def _mean_panel(rows: list[Row]) -> tuple[str, dict[str, dict[int, list[float]]]]:
    """Average all data sets; with the reported numbers where all are of one family."""
    names = {row["data"] for row in rows}
    family = next((f for f, members in settings.FAMILIES.items() if names <= set(members)), "other")
    curves = {
        label: scores
        for label, part in by_label(rows)
        if (scores := _mean_scores(part, len(names)))
    }
    for label, curve in reported_curves(family).items():
        # Eight more lines would be too many: those of the methods that are here.
        if _method_of(label) in {_method_of(ours) for ours in curves}:
            curves[label] = {shots: [percent / 100] for shots, percent in curve.items()}
    return f"mean of {how_many(family, sorted(names))}", curves


def _mean_scores(rows: Sequence[Row], n_data: int) -> dict[int, list[float]]:
    """Average over data sets, seed by seed, where all of them have the same seeds.

    Elsewhere only the mean over seeds can be averaged, and has no spread.
    """
    means = {}
    for (shots,), part in group_by(rows, "shots").items():
        of_data = [{r["seed"]: r["accuracy"] for r in p} for p in group_by(part, "data").values()]
        if len(of_data) < n_data:
            continue
        if all(scores.keys() == of_data[0].keys() for scores in of_data):
            means[shots] = [float(np.mean([s[seed] for s in of_data])) for seed in of_data[0]]
        else:
            means[shots] = [float(np.mean([np.mean(list(s.values())) for s in of_data]))]
    return means


def _method_of(label: str) -> str:
    """Find the method that a label, ours or the paper's, begins with."""
    label = label.replace("zero-shot BiomedCLIP", "zero-shot CLIP")
    label = label.replace("linear probing", "linear probe")
    names = [m.label for m in METHODS.values() if label.startswith(m.label)]
    return max(names, key=len, default=label)


def _styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Give a configuration the same look in every panel, and what was reported its colour."""
    styles: dict[str, dict[str, Any]] = {}
    colours: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        if label.endswith(", reported"):  # these come last
            styles[label] = {"linestyle": ":", "marker": "", "color": colours[_method_of(label)]}
        else:
            colour, marker = COLOURS[len(styles) % 8], MARKERS[len(styles) % 7]
            styles[label] = {"color": colour, "marker": marker}
            colours.setdefault(_method_of(label), colour)
    return styles
