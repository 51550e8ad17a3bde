"""What the study of defaults says: means over seeds, the tables of its page, and a picture."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ._report import table
from ._study_data import HELD_OUT, SELECTION

PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "defaults.svg"


def summarise(rows: Iterable[Mapping]) -> list[dict]:
    """Average over the seeds, in the form of every benchmark's rows."""
    runs = defaultdict(list)
    for row in rows:
        data = f"{row['data']}, {row['backbone']}"
        runs[data, row["candidate"], int(row["shots"])].append(float(row["accuracy"]))
    order = {name: i for i, name in enumerate((*SELECTION, *HELD_OUT))}
    keys = sorted(runs, key=lambda k: (order[k[0].partition(",")[0]], *k))
    return [
        {
            "data": data,
            "method": candidate,
            "shots": shots,
            "accuracy, %": round(float(np.mean(runs[data, candidate, shots])), 2),
            "by seed": runs[data, candidate, shots],
        }
        for data, candidate, shots in keys
    ]


class Scores:
    """Accuracies by run, and means over what several candidates have in common."""

    def __init__(self, rows: Iterable[Mapping]):
        self.of = {
            (r["backbone"], r["data"], r["candidate"], int(r["shots"]), int(r["seed"])): float(
                r["accuracy"]
            )
            for r in rows
        }

    def cells(self, backbone: str, candidate: str, sets: Iterable[str]) -> set[tuple]:
        """List the (data, shots, seed) that were run."""
        return {(d, k, s) for b, d, c, k, s in self.of if (b, c) == (backbone, candidate)} & {
            (d, k, s) for _, d, _, k, s in self.of if d in sets
        }

    def get(self, backbone: str, candidate: str, cell: tuple) -> float:
        """Look up one run; zero-shot does not depend on shots and seed."""
        data, shots, seed = cell
        if candidate == "zero-shot":
            shots = seed = 0
        return self.of[backbone, data, candidate, shots, seed]

    def best_penalty(self, backbones: Iterable[str]) -> str:
        """Choose the probe's one C on the selection sets."""
        found = defaultdict(list)
        for (backbone, data, candidate, _, _), score in self.of.items():
            if candidate.startswith("probe:") and data in SELECTION and backbone in backbones:
                found[candidate].append(score)
        return max(found, key=lambda name: np.mean(found[name]))


def compare(scores: Scores, backbone: str, sets, others: Iterable[str], base: str = "auto") -> str:
    """Tabulate, per number of shots, every other candidate beside the base on the same cells."""
    own = scores.cells(backbone, base, sets)
    shots = sorted({k for _, k, _ in own})
    lines = []
    for other in others:
        if other == base:
            continue
        there = own if other == "zero-shot" else scores.cells(backbone, other, sets) & own
        line = [other]
        for k in shots:
            cells = sorted(c for c in there if c[1] == k)
            if not cells:
                line.append("")
                continue
            theirs = np.mean([scores.get(backbone, other, c) for c in cells])
            ours = np.mean([scores.get(backbone, base, c) for c in cells])
            line.append(f"{theirs:.1f} / {ours:.1f} ({len(cells)})")
        if any(line[1:]):
            lines.append(line)
    return table([f"{backbone}: other / {base} (runs)", *(f"{k} shots" for k in shots)], lines)


def by_set(scores: Scores, backbone: str, sets, candidates: Iterable[str]) -> str:
    """Tabulate every set: means over the seeds that the first candidate has."""
    candidates = list(candidates)
    shots = sorted({k for _, k, _ in scores.cells(backbone, candidates[0], sets)})
    lines = []
    for data in sets:
        for candidate in candidates:
            line, found = [data, candidate], False
            for k in shots:
                own = scores.cells(backbone, candidates[0], [data])
                there = own if candidate == "zero-shot" else own & scores.cells(
                    backbone, candidate, [data]
                )  # fmt: skip
                values = [scores.get(backbone, candidate, c) for c in there if c[1] == k]
                found |= bool(values)
                line.append(f"{np.mean(values):.1f}" if values else "")
            if found:
                lines.append(line)
    return table(["data", backbone, *(f"{k} shots" for k in shots)], lines)


def travel(row: Mapping) -> float:
    """Compute the rate times the steps of a run."""
    return float(row["lr"]) * int(row["steps"])


_COLOURS = {"letters": "C0", "clothing10": "C1", "caltech20": "C2", "steel6": "C3"}
_MARKERS = {1: "o", 4: "s", 16: "^"}


def _curves(rows: Iterable[Mapping], backbone: str) -> dict[tuple, dict[float, list[float]]]:
    """Collect what the published parametrisation reached, by data, shots and length."""
    curves: dict[tuple, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        kind, _, numbers = row["candidate"].partition(":")
        plain = kind == "published" and numbers.count("=") == 2
        if plain and row["data"] in SELECTION and row["backbone"] == backbone:
            name = row["data"], int(row["shots"]), int(row["steps"]) > 60
            curves[name][round(travel(row), 2)].append(float(row["accuracy"]))
    return curves


def draw(rows: list[Mapping], path: Path = PICTURE) -> None:
    """Draw accuracy over lr x steps, one panel per backbone, of the selection sets."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "defaults"
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    panels = {b: _curves(rows, b) for b in dict.fromkeys(row["backbone"] for row in rows)}
    panels = {name: curves for name, curves in panels.items() if len(curves) > 3}
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 3.8), sharex=True, sharey=True)
    for axis, (backbone, curves) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        for (data, shots, many), points in sorted(curves.items()):
            x = sorted(points)
            y = [np.mean(points[v]) for v in x]
            line = ":" if many else "-"
            axis.plot(x, y, color=_COLOURS[data], marker=_MARKERS[shots], linestyle=line, ms=5)
        axis.set(xscale="log", xlabel="learning rate x steps", title=backbone)
    np.atleast_1d(axes)[0].set_ylabel("accuracy, %")
    handles = [Line2D([], [], color=c, label=d) for d, c in _COLOURS.items()]
    for shots, marker in _MARKERS.items():
        label = f"{shots} per class"
        handles.append(Line2D([], [], color="grey", marker=marker, linestyle="", label=label))
    for line, label in (("-", "40 to 60 steps"), (":", "80 steps and more")):
        handles.append(Line2D([], [], color="grey", linestyle=line, label=label))
    figure.legend(handles=handles, loc="lower center", ncols=5, fontsize=8)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(path, metadata={"Date": None})
