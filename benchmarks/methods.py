"""The methods side by side: accuracy, and what a fit costs.

Zero-shot, linear probe, ProKeR, Tip-Adapter-F, SO, CLIP-LoRA, CLIP-SVD and two-stage adaptation, on
the sets of ``benchmarks.defaults``: the same words, templates and at most 300 test images. On
photographs, with the photographic backbone (``tools/build_photographic.py``), on the eight data
sets of the folder that the variable SKCLIPSVD_DATA of the environment names:

    python -m benchmarks.methods --backbone lite0-64

and on handwritten digits with the tiny model, where no backbone is named. Every run is a row of a
CSV file, ``benchmarks/results/methods.csv`` or what --out names, written as soon as it is known; a
run whose row is there is not repeated, so that a command that was stopped goes on.

CLIP-LoRA, CLIP-SVD and two stages are told neither rate nor length. SO has its published setting,
of 2,000 steps. The numbers of ProKeR and the weights of Tip-Adapter-F's cache were chosen with the
photographic backbone on caltech20, steel6 and the validation part of clothing10 (--choose), which
had a say in the defaults, too; the linear probe has one C. That Tip-Adapter-F's had to be chosen
again was seen on trashnet6; otherwise no test image of digits, grocery50, trashnet6, aid18, busi3
and knee5 had a say in anything.

Seconds are of the processor, for one fit, one thread, images decoded and backbone loaded before.
Embedding the training images is part of a fit; the test images are embedded once a set for all
methods that leave CLIP as it is.

Neither backbone is OpenAI's CLIP: tiny knows drawn pictures, and the photographic one learnt its
words from a dictionary. What the tables show is how the methods compare on weak backbones, not what
any of them reaches on a strong one.
"""

import argparse
import itertools
import time
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.pipeline import Pipeline

from skclipsvd import CLIPEncoder, CLIPZeroShotClassifier
from skclipsvd.clip import load_backbone
from skclipsvd.exceptions import UnchangedPredictionsWarning
from skclipsvd.experiments import METHODS as KNOWN
from skclipsvd.experiments import base_to_novel, open_data, tables
from skclipsvd.experiments.embedded import EmbeddingsClassifier
from skclipsvd.experiments.methods import make_estimator, seeded
from skclipsvd.images import as_items, decode_all
from skclipsvd.model_selection import sample_shots

from ._report import RESULTS, table, write
from ._rows import append, read
from ._study_data import HELD_OUT, PHOTOGRAPHS, SELECTION, Study, study

# A row of the tables: a method of `skclipsvd.experiments`, and parameters of it alone.
METHODS = {
    "zero-shot": ("zero-shot", {}),
    "linear probe": ("linear-probe", {}),
    "ProKeR": ("proker", {}),
    "Tip-Adapter-F": ("tip-adapter-f", {"cache_alpha": 100.0, "cache_beta": 5.5}),
    "SO": ("so", {}),
    "CLIP-LoRA": ("lora", {}),
    "CLIP-SVD": ("svd", {}),
    "CLIP-SVD, head": ("svd", {"head": "logistic"}),
    "CLIP-SVD, two stages": ("two-stage-svd", {}),
}
# Of Tip-Adapter and ProKeR, tried by --choose.
CACHE_ALPHAS, CACHE_BETAS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0), (0.3, 1.0, 3.0, 5.5, 10.0)
BETAS, LAMBDAS = (0.03, 0.1, 0.3, 1.0, 3.0), (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
_KEY = ("backbone", "data", "method", "shots", "seed")
_COLUMNS = (*_KEY, "accuracy", "seconds")


@dataclass(eq=False)
class Subject:
    """A data set and a backbone, with what all methods share."""

    data: Study
    model: str

    @cached_property
    def embedded_tests(self):
        """The test images as frozen CLIP sees them."""
        return CLIPEncoder(self.model).fit_transform(self.data.test_paths)

    def run(self, name, shots, seed):
        """Fit once and ask about the test images: accuracy in per cent, and seconds."""
        data, (method, own) = self.data, METHODS[name]
        rows = sample_shots(data.labels, max(shots, 1), random_state=seed)
        paths = data.paths[rows]
        backbone = load_backbone(self.model, None, torch.device("cpu"))
        decode_all(as_items(paths), backbone.preprocess, 1, for_crops=data.augment)
        estimator = make_estimator(
            method,
            {"augment": data.augment},
            {"model_name": self.model, "device": "cpu", "n_jobs": 1, **own},
            n_shots=shots,
            class_names=data.class_names,
            template=data.template,
        )
        started = time.process_time()
        fitted = seeded(estimator, seed).fit(paths, data.labels[rows])
        seconds = time.process_time() - started
        found = np.mean(self._answers(fitted) == data.test_labels)
        return {"accuracy": round(100 * float(found), 3), "seconds": round(seconds, 2)}

    def _answers(self, fitted):
        if isinstance(fitted, EmbeddingsClassifier):
            return fitted.predict_embeddings(self.embedded_tests)
        if isinstance(fitted, Pipeline):
            return fitted[-1].predict(self.embedded_tests)
        if isinstance(fitted, CLIPZeroShotClassifier):
            best = (self.embedded_tests @ fitted.text_features_.T).argmax(axis=1)
            return fitted.classes_[best]
        return fitted.predict(self.data.test_paths)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", help="folder of an open_clip model that knows photographs")
    parser.add_argument("--data", nargs="+", choices=PHOTOGRAPHS, default=PHOTOGRAPHS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=tuple(METHODS))
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--novel", action="store_true", help="digits, base to novel, 16 shots")
    parser.add_argument("--report", action="store_true", help="nothing but the tables and the JSON")
    parser.add_argument("--choose", action="store_true", help="numbers of ProKeR and Tip-Adapter")
    parser.add_argument("--out", type=Path, default=RESULTS / "methods.csv", help="a CSV of runs")
    options = parser.parse_args()
    if options.novel:
        return novel(options)
    model, sets = "tiny", ("digits",)
    if options.backbone:
        folder = options.backbone.removeprefix("local-dir:")
        model, sets = f"local-dir:{folder}", options.data
    backbone = Path(model.removeprefix("local-dir:")).name
    if options.choose:
        return choose(model)
    if not options.report:
        # A fit that changes nothing is a result as well.
        warnings.simplefilter("ignore", UnchangedPredictionsWarning)
        for name in sets:
            measure(name, model, backbone, options)
    rows = [row for row in read(options.out) if row["backbone"] == backbone]
    summary = summarise(rows)
    print_tables(summary)
    seeds = sorted({int(row["seed"]) for row in rows if row["shots"] != "0"})
    settings = {"backbone": backbone, "augment": bool(options.backbone), "seeds": seeds}
    write("methods-photographs" if options.backbone else "methods", settings, summary)


def measure(name, model, backbone, options):
    """Do the runs of one data set that are not done yet."""
    subject = Subject(study(name, Path()), model)
    about = {"backbone": backbone, "data": name}
    done = {tuple(row[column] for column in _KEY) for row in read(options.out)}
    for shots in options.shots:
        for seed in options.seeds:
            for method in options.methods:
                learns = KNOWN[METHODS[method][0]].learns
                what = {"method": method, "shots": shots, "seed": seed}
                if not learns:  # one run serves all
                    what.update(shots=0, seed=0)
                row = {**about, **what}
                key = tuple(str(row[column]) for column in _KEY)
                if key in done:
                    continue
                row.update(subject.run(method, what["shots"], what["seed"]))
                append(options.out, [row], _COLUMNS)
                done.add(key)
                print(*row.values(), flush=True)


def choose(model):
    """Print what fixed numbers of ProKeR and of Tip-Adapter give on the selection sets."""
    proker, tip = {}, {}
    for name in (name for name in SELECTION if name in PHOTOGRAPHS):
        subject = Subject(study(name, Path()), model)
        data, tests = subject.data, subject.embedded_tests.astype(float)
        for shots, seed in itertools.product((1, 2, 4, 8, 16), (1, 2, 3)):
            rows = sample_shots(data.labels, shots, random_state=seed)
            zero_shot = CLIPZeroShotClassifier(
                model, templates=data.template, class_names=data.class_names
            ).fit(data.paths[rows], data.labels[rows])
            images = zero_shot.transform(data.paths[rows]).astype(float)
            texts, classes = zero_shot.text_features_.T, zero_shot.classes_
            one_hot = (data.labels[rows][:, None] == classes).astype(float)

            def note(found, key, scores, right=classes, shots=shots, data=data):
                accuracy = np.mean(right[scores.argmax(axis=1)] == data.test_labels)
                found.setdefault(key, {}).setdefault(shots, []).append(accuracy)

            for beta, lam in itertools.product(BETAS, LAMBDAS):
                system = rbf_kernel(images, gamma=beta) / lam + np.eye(len(images))
                a = np.linalg.solve(system, one_hot - images @ texts) / lam
                scores = tests @ texts + rbf_kernel(tests, images, gamma=beta) @ a
                note(proker, (beta, lam), scores)
            for alpha, beta in itertools.product(CACHE_ALPHAS, CACHE_BETAS):
                cache = alpha * np.exp(-beta * (1 - tests @ images.T)) @ one_hot
                note(tip, (alpha, beta), cache + zero_shot.logit_scale_ * tests @ texts)
    for names, found in (("beta, lambda", proker), ("alpha, beta", tip)):
        lines = [
            ["{:g}, {:g}".format(*key), *(f"{100 * mean:.1f}" for mean in means), np.mean(means)]
            for key, by_shots in found.items()
            for means in [[np.mean(scores) for scores in by_shots.values()]]
        ]
        print(table([names, *map(str, next(iter(found.values()))), "mean"], lines), end="\n\n")


def summarise(rows):
    """Average over the seeds."""
    runs = {}
    for row in rows:
        runs.setdefault((row["data"], row["method"], int(row["shots"])), []).append(row)
    return [
        {
            "data": data,
            "method": method,
            "shots": shots,
            **_average([float(run["accuracy"]) for run in same]),
            "seconds": round(float(np.mean([float(run["seconds"]) for run in same])), 2),
        }
        for (data, method, shots), same in runs.items()
    ]


def _average(scores):
    return {
        "accuracy, %": round(float(np.mean(scores)), 2),
        "standard deviation": round(float(np.std(scores, ddof=1)), 2) if scores[1:] else None,
        "by seed": scores,
    }


def print_tables(summary):
    """Print a table for each set, and of the means over sets that have every run."""
    found = {(row["data"], row["method"], row["shots"]): row for row in summary}
    sets = list(dict.fromkeys(row["data"] for row in summary))
    groups = {name: [name] for name in sets}
    held_out = [name for name in sets if name in HELD_OUT]
    for label, members in (("held-out sets", held_out), ("all sets", sets)):
        if len(members) > 1:
            groups[f"mean of {len(members)} {label}"] = members
    shots = sorted({row["shots"] for row in summary} - {0})
    for label, members in groups.items():
        lines = []
        for method in dict.fromkeys(row["method"] for row in summary):
            cells = [
                _cell([found.get((m, method, k)) or found.get((m, method, 0)) for m in members])
                for k in shots
            ]
            lines.append([method, *cells])
        header = [f"{label}: accuracy, %; seconds per fit"]
        print(table([*header, *(f"{k} shot{'s' * (k > 1)}" for k in shots)], lines), end="\n\n")


def _cell(rows):
    if None in rows:
        return ""
    mean, seconds = (np.mean([row[name] for row in rows]) for name in ("accuracy, %", "seconds"))
    deviation = rows[0]["standard deviation"] if len(rows) == 1 else None
    spread = "" if deviation is None else f" ± {deviation:.1f}"
    return f"{mean:.1f}{spread}; {seconds:.{1 if seconds >= 1 else 2}f} s"


def novel(options):
    """Train on five digits, and test on them and on the other five."""
    rows = base_to_novel(
        open_data("digits"),
        methods=[name for name, _ in METHODS.values() if KNOWN[name].accepts_new_classes],
        seeds=options.seeds,
        verbose=1,
        model_name="tiny",
        augment=False,
        setting="default",
    )
    print(tables(rows))
    runs = {}
    for row in rows:
        key = (f"digits, {row['test']}", row["method"], row["shots"], row["overrides"])
        runs.setdefault(key, []).append(round(100 * row["accuracy"], 3))
    names = ("data", "method", "shots", "parameters")
    summary = [
        {**dict(zip(names, key, strict=True)), **_average(scores)} for key, scores in runs.items()
    ]
    settings = {"backbone": "tiny", "augment": False, "seeds": options.seeds}
    write("methods-novel", settings, summary)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
