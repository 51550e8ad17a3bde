"""From rows of results to numbers: by configuration, data set and shots, and what papers report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import reported, settings
from .methods import METHODS
from .results import Row

# One run of a configuration; where a file has it twice, something else has changed in between.
_SAME_RUN = ("protocol", "data", "test", "method", "shots", "seed", "setting", "overrides")
MODEL = ("model", "pretrained", "weights")

Curve = dict[int, float]


def group_by(rows: Iterable[Mapping[str, Any]], *columns: str) -> dict[tuple, list[Row]]:
    """Group rows by the values of columns, in order of appearance."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[c] for c in columns), []).append(dict(row))
    return groups


def latest_runs(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Keep the last of runs that were repeated."""
    return [same[-1] for same in group_by(rows, *_SAME_RUN).values()]


def with_labels(rows: Sequence[Row]) -> list[Row]:
    """Name the configuration of every row, with no more words than tell it from the others.

    Data sets are named by themselves: parameters that go with the data set keep no one from
    averaging over data sets.
    """
    labelled = []
    for part in group_by(rows, "data").values():
        for (method,), of_method in group_by(part, "method").items():
            several = [len({r[c] for r in of_method}) > 1 for c in ("setting", "overrides")]
            for row in of_method:
                values = (row["setting"], row["overrides"])
                details = [v for v, differs in zip(values, several, strict=True) if differs and v]
                if row["shots"] and row["protocol"] != "few-shot":
                    details.append(f"{row['shots']} shots")
                label = METHODS[method].label + (f" ({'; '.join(details)})" if details else "")
                labelled.append({**row, "label": label})
    order = list(METHODS)
    return sorted(labelled, key=lambda row: order.index(row["method"]))


def by_label(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Group rows by their configuration's name."""
    return [(label, part) for (label,), part in group_by(rows, "label").items()]


def shots_of(rows: Sequence[Row]) -> list[int]:
    """List the numbers of shots; zero-shot alone gets one column, too."""
    return sorted({row["shots"] for row in rows} - {0}) or [1]


def scores_at(rows: Sequence[Row], shots: int) -> list[float]:
    """Return the accuracies at a number of shots; zero-shot's are the same at every number."""
    return [row["accuracy"] for row in rows if row["shots"] in (shots, 0)]


def _curves(rows: Sequence[Row]) -> dict[str, Curve]:
    """Return mean accuracies in per cent by label and shots."""
    shots = shots_of(rows)
    return {
        label: {n: mean for n in shots if (mean := mean_percent(scores_at(part, n))) is not None}
        for label, part in by_label(rows)
    }


def mean_curves(rows: Sequence[Row]) -> dict[str, Curve]:
    """Average over data sets what all of them have."""
    each = [_curves(part) for part in group_by(rows, "data").values()]
    labels = dict.fromkeys(label for curves in each for label in curves)
    means: dict[str, Curve] = {}
    for label in labels:
        curves = [c.get(label, {}) for c in each]
        common = sorted(set(curves[0]).intersection(*curves))
        if common:
            means[label] = {n: float(np.mean([curve[n] for curve in curves])) for n in common}
    return means


def mean_over_data(rows: Sequence[Row], test: str) -> float | None:
    """Average over data sets what each scores on `test`; None where one has nothing."""
    means = [
        mean_percent([row["accuracy"] for row in part if row["test"] == test])
        for part in group_by(rows, "data").values()
    ]
    return mean_of_all(means)


def mean_of_all(means: Sequence[float | None]) -> float | None:
    """Return the mean; None where one of them is missing."""
    there = [mean for mean in means if mean is not None]
    return float(np.mean(there)) if len(there) == len(means) else None


def mean_percent(scores: Sequence[float]) -> float | None:
    """Return the mean in per cent; None of nothing."""
    return 100 * float(np.mean(scores)) if scores else None


# --- what to compare with


def families_of(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """Sort the data sets into the papers' two families and others."""
    present = list(dict.fromkeys(row["data"] for row in rows))
    families = [(f, [n for n in names if n in present]) for f, names in settings.FAMILIES.items()]
    published = {*settings.NATURAL, *settings.BIOMEDICAL}
    others = [name for name in present if name not in published]
    families = [(family, names) for family, names in families if names]
    return families + ([("other", others)] if len(others) > 1 else [])


def how_many(family: str, names: Sequence[str]) -> str:
    """Say how many of a family's data sets a mean is of."""
    if family == "other":
        return f"{len(names)} data sets"
    return f"{len(names)} of {len(settings.FAMILIES[family])} {family} data sets"


def reported_curves(family: str) -> dict[str, Curve]:
    """Return what papers report for a family, by label and shots."""
    return {
        f"{label}, reported": dict(zip(reported.SHOTS, numbers, strict=False))
        for label, numbers in reported.FEW_SHOT.get(family, {}).items()
    }
