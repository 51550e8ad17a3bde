"""What the study of defaults says: means over seeds, the tables of its page, and a picture."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ._report import table
from ._study_data import HELD_OUT, SELECTION

PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "defaults.svg"
_TRAVELLERS = ("published", "auto")


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


def draw(rows: list[Mapping], path: Path = PICTURE) -> None:
    """Draw accuracy over lr x steps, one panel per backbone, of the selection sets."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "defaults"
    from matplotlib import pyplot as plt

    backbones = list(dict.fromkeys(row["backbone"] for row in rows))
    figure, axes = plt.subplots(1, len(backbones), figsize=(4.2 * len(backbones), 3.6))
    for axis, backbone in zip(np.atleast_1d(axes), backbones, strict=True):
        curves = defaultdict(lambda: defaultdict(list))
        for row in rows:
            kind, _, numbers = row["candidate"].partition(":")
            plain = "anchor" not in numbers and "batch" not in numbers and "augment" not in numbers
            chosen = row["data"] in SELECTION and row["backbone"] == backbone
            if kind == "published" and plain and chosen:
                few = "40 steps" if int(row["steps"]) <= 60 else "80 to 200 steps"
                name = f"{row['data']}, {row['shots']} shots", few
                curves[name][round(travel(row), 2)].append(float(row["accuracy"]))
        names = sorted({name for name, _ in curves})
        for (name, few), points in sorted(curves.items()):
            x = sorted(points)
            style = dict(linestyle="-", marker="o") if few == "40 steps" else dict(
                linestyle=":", marker="^"
            )  # fmt: skip
            label = name if few == "40 steps" else None
            axis.plot(
                x, [np.mean(points[v]) for v in x], color=f"C{names.index(name)}", label=label,
                markersize=4, **style,
            )  # fmt: skip
        axis.set(xscale="log", xlabel="learning rate x steps", title=backbone)
        axis.legend(fontsize=6)
    np.atleast_1d(axes)[0].set_ylabel("accuracy, %")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
