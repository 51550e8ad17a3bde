"""Results as Markdown tables beside the papers' numbers, and as curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..inspection.displays import COLOURS, MARKERS, FewShotCurveDisplay
from ..model_selection import harmonic_mean_score
from . import settings
from .methods import METHODS
from .results import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# One run of a configuration; where a file has it twice, something else has changed in between.
_SAME_RUN = ("protocol", "data", "test", "method", "shots", "seed", "setting", "overrides")
_MODEL = ("model", "pretrained", "weights")

Curve = dict[int, float]


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
    for (model, pretrained, _), of_model in _group(rows, *_MODEL).items():
        for protocol, of_protocol in _group(of_model, "protocol").items():
            latest = _labelled(_latest(of_protocol))
            blocks.append(f"## {protocol[0]}, {model}" + (f" ({pretrained})" if pretrained else ""))
            blocks += _FORMATS[protocol[0]](latest)
            if len(latest) < len(of_protocol):
                older = len(of_protocol) - len(latest)
                blocks.append(f"{older} older rows of runs that were repeated do not count.")
    return "\n\n".join(blocks) + "\n"


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
    models = list(_group(few_shot, *_MODEL))
    if len(models) != 1:
        raise ValueError(f"plot_shots draws few-shot results of one model; got {models or 'none'}.")
    labelled = _labelled(_latest(few_shot))
    panels = [(data[0], _all_scores(part)) for data, part in _group(labelled, "data").items()]
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


# --- one protocol each


def _few_shot_tables(rows: list[Row]) -> list[str]:
    shots = _shots(rows)
    header = ["accuracy, %", *(f"{n} shot{'s' if n > 1 else ''}" for n in shots)]
    blocks = []
    for (data,), part in _group(rows, "data").items():
        lines = []
        for label, of_label in _by_label(part):
            cells = (_cell(_scores(of_label, n)) for n in shots)
            lines.append([label, *cells])
        blocks += [f"### {data}", _markdown(header, lines), _parameters(part)]
    for family, names in _families(rows):
        part = [row for row in rows if row["data"] in names]
        lines = [
            [label, *(_number(curve.get(n)) for n in shots)]
            for label, curve in _mean_curves(part).items()
        ]
        lines += [
            [f"*{label}*", *(_number(curve.get(n)) for n in shots)]
            for label, curve in _reported_curves(family).items()
        ]
        blocks += [f"### Mean of {_how_many(family, names)}", _markdown(header, lines)]
        blocks += _note(family)
    return blocks


def _base_to_novel_tables(rows: list[Row]) -> list[str]:
    header = ["accuracy, %", "base", "novel", "harmonic mean"]
    blocks = []
    for (data,), part in _group(rows, "data").items():
        lines = []
        for label, of_label in _by_label(part):
            scores = [[r["accuracy"] for r in of_label if r["test"] == t] for t in _HALVES]
            lines.append([label, *map(_cell, scores), _harmonic(*map(_mean, scores))])
        blocks += [f"### {data}", _markdown(header, lines), _parameters(part)]
    for family, names in _families(rows):
        part = [row for row in rows if row["data"] in names]
        lines = []
        for label, of_label in _by_label(part):
            if {row["data"] for row in of_label} == set(names):
                means = [_mean_over_data(of_label, test) for test in _HALVES]
                # Of the means, as the papers do.
                lines.append([label, *map(_number, means), _harmonic(*means)])
        reported = settings.REPORTED_BASE_TO_NOVEL.get(family, {})
        lines += [
            [f"*{label}, 16 shots*", *(f"{n:.2f}" for n in numbers)]
            for label, numbers in reported.items()
        ]
        blocks += [f"### Mean of {_how_many(family, names)}", _markdown(header, lines)]
        blocks += _note(family)
    return blocks


def _transfer_tables(rows: list[Row]) -> list[str]:
    blocks = []
    for (data,), part in _group(rows, "data").items():
        tests = list(dict.fromkeys(row["test"] for row in part))
        others = [test for test in tests if test != data]
        lines = []
        for label, of_label in _by_label(part):
            scores = [[r["accuracy"] for r in of_label if r["test"] == test] for test in tests]
            means = [_mean(s) for test, s in zip(tests, scores, strict=True) if test in others]
            overall = _mean_of_all(means) if means else None
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


# --- from rows to numbers


def _group(rows: Iterable[Mapping[str, Any]], *columns: str) -> dict[tuple, list[Row]]:
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[c] for c in columns), []).append(dict(row))
    return groups


def _latest(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    return [same[-1] for same in _group(rows, *_SAME_RUN).values()]


def _labelled(rows: Sequence[Row]) -> list[Row]:
    """Name the configuration of every row, with no more words than tell it from the others.

    Data sets are named by themselves: parameters that go with the data set keep no one from
    averaging over data sets.
    """
    labelled = []
    for part in _group(rows, "data").values():
        for (method,), of_method in _group(part, "method").items():
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


def _by_label(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    return [(label, part) for (label,), part in _group(rows, "label").items()]


def _parameters(rows: Sequence[Row]) -> str:
    """Tell what the methods of a table were given."""
    of_configuration = _group(rows, "setting", "overrides")
    return "\n".join(
        f"- {setting} setting{', ' + overrides if overrides else ''}: "
        + "; ".join(dict.fromkeys(METHODS[row["method"]].label for row in part))
        for (setting, overrides), part in of_configuration.items()
    )


def _shots(rows: Sequence[Row]) -> list[int]:
    """List the numbers of shots; zero-shot alone gets one column, too."""
    return sorted({row["shots"] for row in rows} - {0}) or [1]


def _scores(rows: Sequence[Row], shots: int) -> list[float]:
    """Return the accuracies at a number of shots; zero-shot's are the same at every number."""
    return [row["accuracy"] for row in rows if row["shots"] in (shots, 0)]


def _curves(rows: Sequence[Row]) -> dict[str, Curve]:
    """Return mean accuracies in per cent by label and shots."""
    shots = _shots(rows)
    return {
        label: {n: mean for n in shots if (mean := _mean(_scores(part, n))) is not None}
        for label, part in _by_label(rows)
    }


def _mean_curves(rows: Sequence[Row]) -> dict[str, Curve]:
    """Average over data sets what all of them have."""
    each = [_curves(part) for part in _group(rows, "data").values()]
    labels = dict.fromkeys(label for curves in each for label in curves)
    means: dict[str, Curve] = {}
    for label in labels:
        curves = [c.get(label, {}) for c in each]
        common = sorted(set(curves[0]).intersection(*curves))
        if common:
            means[label] = {n: float(np.mean([curve[n] for curve in curves])) for n in common}
    return means


def _mean_over_data(rows: Sequence[Row], test: str) -> float | None:
    means = [
        _mean([row["accuracy"] for row in part if row["test"] == test])
        for part in _group(rows, "data").values()
    ]
    return _mean_of_all(means)


def _mean_of_all(means: Sequence[float | None]) -> float | None:
    """Return the mean; None where one of them is missing."""
    there = [mean for mean in means if mean is not None]
    return float(np.mean(there)) if len(there) == len(means) else None


def _mean(scores: Sequence[float]) -> float | None:
    return 100 * float(np.mean(scores)) if scores else None


def _harmonic(base: float | None, novel: float | None) -> str:
    return "" if base is None or novel is None else _number(harmonic_mean_score(base, novel))


# --- what to compare with


def _families(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """Sort the data sets into the papers' two families and others."""
    present = list(dict.fromkeys(row["data"] for row in rows))
    families = [(f, [n for n in names if n in present]) for f, names in settings.FAMILIES.items()]
    published = {*settings.NATURAL, *settings.BIOMEDICAL}
    others = [name for name in present if name not in published]
    families = [(family, names) for family, names in families if names]
    return families + ([("other", others)] if len(others) > 1 else [])


def _how_many(family: str, names: Sequence[str]) -> str:
    if family == "other":
        return f"{len(names)} data sets"
    return f"{len(names)} of {len(settings.FAMILIES[family])} {family} data sets"


def _reported_curves(family: str) -> dict[str, Curve]:
    reported = settings.REPORTED_FEW_SHOT.get(family, {})
    return {
        f"{label}, reported": dict(zip(settings.REPORTED_SHOTS, numbers, strict=True))
        for label, numbers in reported.items()
    }


def _note(family: str) -> list[str]:
    if family == "other":
        return []
    n, model = len(settings.FAMILIES[family]), "ViT-B/16" if family == "natural" else "BiomedCLIP"
    return [
        f"In italics: reported by {settings.REPORTED_SOURCE} for {model}, mean of all {n} {family} "
        "data sets; a mean of fewer of them, or another model, does not compare."
    ]


# --- formatting


def _cell(scores: Sequence[float]) -> str:
    mean = _mean(scores)
    if mean is None or len(scores) == 1:
        return _number(mean)
    return f"{mean:.2f} ± {100 * np.std(scores, ddof=1):.2f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---", *("---:" for _ in header[1:])], *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in r) + " |" for r in rows)


def _all_scores(rows: Sequence[Row]) -> dict[str, dict[int, list[float]]]:
    """Return all accuracies by label and shots, zero shots included."""
    return {
        label: {
            shots: [row["accuracy"] for row in same]
            for (shots,), same in _group(part, "shots").items()
        }
        for label, part in _by_label(rows)
    }


def _mean_panel(rows: list[Row]) -> tuple[str, dict[str, dict[int, list[float]]]]:
    """Average all data sets; with the reported numbers where all are of one family."""
    names = {row["data"] for row in rows}
    family = next((f for f, members in settings.FAMILIES.items() if names <= set(members)), "other")
    curves = {
        label: scores
        for label, part in _by_label(rows)
        if (scores := _mean_scores(part, len(names)))
    }
    for label, curve in _reported_curves(family).items():
        # Eight more lines would be too many: those of the methods that are here.
        if _method_of(label) in {_method_of(ours) for ours in curves}:
            curves[label] = {shots: [percent / 100] for shots, percent in curve.items()}
    return f"mean of {_how_many(family, sorted(names))}", curves


def _mean_scores(rows: Sequence[Row], n_data: int) -> dict[int, list[float]]:
    """Average over data sets, seed by seed, where all of them have the same seeds.

    Elsewhere only the mean over seeds can be averaged, and has no spread.
    """
    means = {}
    for (shots,), part in _group(rows, "shots").items():
        of_data = [{r["seed"]: r["accuracy"] for r in p} for p in _group(part, "data").values()]
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
