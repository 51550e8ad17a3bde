"""Which rate and how many steps a fit should take when it is told neither.

Candidates x backbones x data sets x shots x seeds, one CSV row a run, resumable: a run whose row is
in the file is not repeated. Chosen on letters, clothing10's validation part, caltech20 and steel6;
reported on digits, grocery50, trashnet6, aid18, busi3 and knee5, which had no say.

    SKCLIPSVD_DATA=../shared/data python -m benchmarks.defaults --cache FOLDER --backbone tiny \\
        --data caltech20 --shots 1 4 16 --seeds 1 --candidate published:lr=0.03,steps=40

FOLDER holds ``fonts/`` (fonts that the tiny model's training never saw) and the photographic
backbone as ``lite0-64`` and ``lite0-96`` (its image sizes), see ``tools/build_photographic.py``.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from skclipsvd import CLIPEncoder, CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.adaptation import SpectralAdaptation
from skclipsvd.model_selection import sample_shots
from skclipsvd.training import automatic_lr

from . import _study_report
from ._report import RESULTS, write
from ._rows import append, read
from ._study_data import HELD_OUT, N_TEST, SELECTION, Study, study

COLUMNS = (
    "backbone", "data", "shots", "seed", "candidate", "accuracy", "loss", "lr", "steps", "seconds",
)  # fmt: skip
# What most other candidates were compared with.
_BASE = "published:lr=0.03,steps=40"
PENALTIES = (1.0, 3.16, 10.0, 31.6, 100.0, 316.0, 1000.0)


class _Scaled(Mapping):
    """Singular values as ``s0 + unit d``, of trained ``d``."""

    def __init__(self, factors, own_units: bool):
        self.start = {name: f.s for name, f in factors.items()}
        self.d = {name: nn.Parameter(torch.zeros_like(s)) for name, s in self.start.items()}
        self.unit = {name: float(s.mean()) for name, s in self.start.items()}
        if not own_units:
            common = float(np.exp(np.mean(np.log(list(self.unit.values())))))
            self.unit = dict.fromkeys(self.unit, common)

    def __getitem__(self, name: str) -> Tensor:
        return self.start[name] + self.unit[name] * self.d[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.start)

    def __len__(self) -> int:
        return len(self.start)


class ScaledAdaptation(SpectralAdaptation):
    """Candidate (b): matrices move in units of their mean singular value, each or all together."""

    def __init__(self, targets, factors, own_units: bool):
        super().__init__(targets, factors)
        self.s = _Scaled(self.factors, own_units)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.s.d.values())


class Studied(CLIPSVDClassifier):
    """CLIP-SVD with the candidates that the library does not have."""

    kind = "published"
    anchor = 0.0
    times = 1.0

    def _recipe(self, task, adaptation, ignorance):
        recipe = super()._recipe(task, adaptation, ignorance)
        return replace(recipe, lr=self.times * recipe.lr)

    def _started(self, backbone, targets, rng):
        adaptation = super()._started(backbone, targets, rng)
        if self.kind in ("relative", "scalar"):
            own_units = self.kind == "relative"
            adaptation = ScaledAdaptation(targets, adaptation.factors, own_units)
        if self.anchor:
            for values in adaptation.parameters():
                values.register_hook(_pull(values, 2 * self.anchor))
        return adaptation


def _pull(values: nn.Parameter, strength: float):
    start = values.detach().clone()
    return lambda grad: grad + strength * (values.detach() - start)


def fit_candidate(candidate: str, backbone: str, data: Study, rows, shots: int, seed: int):
    """Fit what a candidate's name says: ``kind:name=value,...``."""
    kind, _, text = candidate.partition(":")
    given = {k: float(v) for k, v in (part.split("=") for part in text.split(",") if part)}
    common = dict(
        templates=data.template,
        class_names=data.class_names,
        augment=data.augment,
        random_state=seed,
    )
    clf = (CLIPLoRAClassifier if kind == "lora" else Studied)(backbone, **common)
    clf.kind = kind
    clf.anchor = given.pop("anchor", 0.0) / shots
    if "steps" in given:
        given["max_steps"] = given.pop("steps")
    clf.times = given.pop("times", 1.0)
    if kind == "full":
        # The automatic rate as it is where the backbone knows nothing of the classes.
        given["lr"] = automatic_lr(clf.n_steps_for(len(rows)), shots, 1.0)
    if given.pop("head", 0):
        clf.head = "logistic"
    types = {"max_steps": int, "batch_size": int, "augment": bool}
    clf.set_params(**{name: types.get(name, float)(value) for name, value in given.items()})
    return clf.fit(data.paths[rows], data.labels[rows])


def run(backbone: str, data: Study, shots: int, seed: int, candidate: str) -> dict:
    """Fit and score once."""
    rows = sample_shots(data.labels, shots, random_state=seed)
    started = time.process_time()
    clf = fit_candidate(candidate, backbone, data, rows, shots, seed)
    score = clf.score(data.test_paths, data.test_labels)
    return {
        "accuracy": round(100 * score, 3),
        "loss": round(float(clf.loss_curve_[-4:].mean()), 4) if len(clf.loss_curve_) else "",
        "lr": getattr(clf, "lr_", clf.lr),
        "steps": clf.n_iter_,
        "seconds": round(time.process_time() - started, 1),
    }


def reference(backbone: str, data: Study, shots: list[int], seeds: list[int]) -> Iterator[dict]:
    """Zero-shot, and linear probes of the frozen features."""
    zero = CLIPZeroShotClassifier(
        backbone, templates=data.template, class_names=data.class_names
    ).fit(None, sorted(data.class_names))
    score = zero.score(data.test_paths, data.test_labels)
    yield {"shots": 0, "seed": 0, "candidate": "zero-shot", "accuracy": round(100 * score, 3)}
    encoder = CLIPEncoder(backbone)
    train = encoder.fit_transform(data.paths)
    test = encoder.transform(data.test_paths)
    for k in shots:
        for seed in seeds:
            rows = sample_shots(data.labels, k, random_state=seed)
            for penalty in PENALTIES:
                probe = LogisticRegression(C=penalty, max_iter=2000)
                probe.fit(train[rows], data.labels[rows])
                score = probe.score(test, data.test_labels)
                yield {
                    "shots": k,
                    "seed": seed,
                    "candidate": f"probe:C={penalty:g}",
                    "accuracy": round(100 * score, 3),
                }


def key(row: Mapping) -> tuple:
    """What makes a run the same run."""
    return tuple(str(row[name]) for name in COLUMNS[:5])


def report(rows: list[dict]) -> None:
    """Print the tables of docs/defaults.md, draw its picture, write the summary."""
    scores = _study_report.Scores(rows)
    backbones = list(dict.fromkeys(row["backbone"] for row in rows))
    penalty = scores.best_penalty(backbones)
    candidates = sorted({row["candidate"] for row in rows})
    others = [c for c in candidates if not c.startswith("probe:") or c == penalty]
    for backbone in backbones:
        # Older runs are of the rate that did not ask for the loss before the first step.
        default = (
            "auto" if any(run[0] == backbone and run[2] == "auto" for run in scores.of) else "full"
        )
        for sets, base in ((SELECTION, _BASE), (SELECTION, default), (HELD_OUT, default)):
            print(_study_report.compare(scores, backbone, sets, others, base), end="\n\n")
            if base != _BASE:
                shown = [default, "zero-shot", penalty]
                print(_study_report.by_set(scores, backbone, sets, shown), end="\n\n")
    _study_report.draw(rows)
    chosen = {"selection": SELECTION, "held out": HELD_OUT, "test images at most": N_TEST}
    write("defaults", {**chosen, "probe": penalty}, _study_report.summarise(rows))


def main() -> None:
    """Run what is asked for and not yet there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, help="fonts, letters and backbones")
    parser.add_argument("--report", action="store_true", help="nothing but tables and picture")
    parser.add_argument("--out", type=Path, default=RESULTS / "defaults.csv")
    parser.add_argument("--backbone", default="tiny", help="tiny, or a folder in the cache")
    parser.add_argument("--data", nargs="+", choices=SELECTION + HELD_OUT, default=SELECTION)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--candidate", nargs="+", default=["auto"])
    parser.add_argument("--references", action="store_true", help="zero-shot and linear probes")
    options = parser.parse_args()
    if options.report:
        return report(read(options.out))
    if options.cache is None:
        parser.error("--cache is needed for everything but --report")
    done = {key(row) for row in read(options.out)}
    model = options.backbone
    if model != "tiny":
        model = f"local-dir:{options.cache / model}"
    for name in options.data:
        data = study(name, options.cache)
        about = {"backbone": options.backbone, "data": name}
        if options.references:
            for row in reference(model, data, options.shots, options.seeds):
                if key({**about, **row}) not in done:
                    append(options.out, [{**about, **row}], COLUMNS)
            continue
        for candidate in options.candidate:
            for shots in options.shots:
                for seed in options.seeds:
                    run_about = {**about, "shots": shots, "seed": seed, "candidate": candidate}
                    if key(run_about) in done:
                        continue
                    row = {**run_about, **run(model, data, shots, seed, candidate)}
                    append(options.out, [row], COLUMNS)
                    print(*row.values(), flush=True)


if __name__ == "__main__":
    np.seterr(all="warn")
    torch.set_num_threads(1)
    main()
