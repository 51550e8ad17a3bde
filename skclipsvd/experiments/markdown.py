"""Results as Markdown tables beside the papers' numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..model_selection import harmonic_mean_score
from . import reported, settings
from .methods import METHODS
from .results import Row
from .summaries import (
    MODEL,
    by_label,
    families_of,
    group_by,
    how_many,
    latest_runs,
    mean_curves,
    mean_of_all,
    mean_over_data,
    mean_percent,
    reported_curves,
    scores_at,
    shots_of,
    with_labels,
)


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format results as Markdown, beside what the papers report.

    Parameters
    ----------
    rows : sequence of dict
        From a protocol or `read_results`.

    Returns
    -------
    text : str
        A section for every protocol and model; accuracies in per cent, mean and standard deviation
        (of a sample) over seeds. Of runs that a file has more than once, with other data, weights
        or defaults, the last one counts.

    Raises
    ------
    ValueError
        There are no rows.

    Examples
    --------
    >>> from skclipsvd.experiments import read_results, tables
    >>> print(tables(read_results("results.csv")))  # doctest: +SKIP
    """
    if not rows:
        raise ValueError("rows is empty: there are no results to put into tables.")
    blocks: list[str] = []
    for (model, pretrained, _), of_model in group_by(rows, *MODEL).items():
        for protocol, of_protocol in group_by(of_model, "protocol").items():
            latest = with_labels(latest_runs(of_protocol))
            blocks.append(f"## {protocol[0]}, {model}" + (f" ({pretrained})" if pretrained else ""))
            blocks += _FORMATS[protocol[0]](latest)
            if len(latest) < len(of_protocol):
                older = len(of_protocol) - len(latest)
                blocks.append(f"{older} older rows of runs that were repeated do not count.")
    return "\n\n".join(blocks) + "\n"


# --- one protocol each


def _few_shot_tables(rows: list[Row]) -> list[str]:
    shots = shots_of(rows)
    header = ["accuracy, %", *(f"{n} shot{'s' if n > 1 else ''}" for n in shots)]
    blocks: list[str] = []
    for (data,), part in group_by(rows, "data").items():
        lines = []
        for label, of_label in by_label(part):
            cells = (_cell(scores_at(of_label, n)) for n in shots)
            lines.append([label, *cells])
        with_images = [
            header[0],
            *(_images(h, n, part) for h, n in zip(header[1:], shots, strict=True)),
        ]
        blocks += [f"### {data}", _markdown(with_images, lines), _parameters(part)]
    for family, names in families_of(rows):
        part = [row for row in rows if row["data"] in names]
        lines = [
            [label, *(_number(curve.get(n)) for n in shots)]
            for label, curve in mean_curves(part).items()
        ]
        lines += [
            [f"*{label}*", *(_number(curve.get(n)) for n in shots)]
            for label, curve in reported_curves(family).items()
        ]
        blocks += [f"### Mean of {how_many(family, names)}", _markdown(header, lines)]
        blocks += _note(family)
    return blocks


def _images(header: str, shots: int, rows: list[Row]) -> str:
    """Add how many different images these shots are: a class of fewer repeats them."""
    counts = {row["n_train"] for row in rows if row["shots"] == shots and shots}
    return f"{header} ({counts.pop()} images)" if len(counts) == 1 else header


def _base_to_novel_tables(rows: list[Row]) -> list[str]:
    header = ["accuracy, %", "base", "novel", "harmonic mean"]
    blocks = []
    for (data,), part in group_by(rows, "data").items():
        lines = []
        for label, of_label in by_label(part):
            scores = [[r["accuracy"] for r in of_label if r["test"] == t] for t in _HALVES]
            lines.append([label, *map(_cell, scores), _harmonic(*map(mean_percent, scores))])
        blocks += [f"### {data}", _markdown(header, lines), _parameters(part)]
    for family, names in families_of(rows):
        part = [row for row in rows if row["data"] in names]
        lines = []
        for label, of_label in by_label(part):
            if {row["data"] for row in of_label} == set(names):
                means = [mean_over_data(of_label, test) for test in _HALVES]
                # Of the means, as the papers do.
                lines.append([label, *map(_number, means), _harmonic(*means)])
        lines += [
            [f"*{label}, 16 shots*", *(f"{n:.2f}" for n in numbers)]
            for label, numbers in reported.BASE_TO_NOVEL.get(family, {}).items()
        ]
        blocks += [f"### Mean of {how_many(family, names)}", _markdown(header, lines)]
        blocks += _note(family)
    return blocks


def _transfer_tables(rows: list[Row]) -> list[str]:
    blocks = []
    for (data,), part in group_by(rows, "data").items():
        tests = list(dict.fromkeys(row["test"] for row in part))
        others = [test for test in tests if test != data]
        lines = []
        for label, of_label in by_label(part):
            scores = [[r["accuracy"] for r in of_label if r["test"] == test] for test in tests]
            means = [
                mean_percent(s) for test, s in zip(tests, scores, strict=True) if test in others
            ]
            overall = mean_of_all(means) if means else None
            lines.append([label, *map(_cell, scores), _number(overall)])
        blocks += [
            f"### Trained on {data}",
            _markdown(["accuracy, %", *tests, "mean of the others"], lines),
            _parameters(part),
        ]
    return blocks


_HALVES = ("base", "novel")
_FORMATS: dict[str, Callable[[list[Row]], list[str]]] = {
    "few-shot": _few_shot_tables,
    "base-to-novel": _base_to_novel_tables,
    "cross-dataset": _transfer_tables,
    "domain-generalisation": _transfer_tables,
}


# --- formatting


def _parameters(rows: Sequence[Row]) -> str:
    """Tell what the methods of a table were given."""
    of_configuration = group_by(rows, "setting", "overrides")
    return "\n".join(
        f"- {setting} setting{', ' + overrides if overrides else ''}: "
        + "; ".join(dict.fromkeys(METHODS[row["method"]].label for row in part))
        for (setting, overrides), part in of_configuration.items()
    )


def _harmonic(base: float | None, novel: float | None) -> str:
    return "" if base is None or novel is None else _number(harmonic_mean_score(base, novel))


def _note(family: str) -> list[str]:
    if family == "other":
        return []
    n, model = len(settings.FAMILIES[family]), "ViT-B/16" if family == "natural" else "BiomedCLIP"
    return [
        f"In italics: reported for {model}, by {reported.SOURCE} where no other source is named, "
        f"mean of all {n} {family} data sets; a mean of fewer of them, or another model, does not "
        "compare."
    ]


def _cell(scores: Sequence[float]) -> str:
    mean = mean_percent(scores)
    if mean is None or len(scores) == 1:
        return _number(mean)
    return f"{mean:.2f} ± {100 * np.std(scores, ddof=1):.2f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---", *("---:" for _ in header[1:])], *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in r) + " |" for r in rows)
