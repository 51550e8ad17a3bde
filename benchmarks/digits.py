"""Few-shot accuracy on real handwritten digits with the bundled tiny CLIP.

One setting of learning rate and steps for every number of shots, chosen on rendered letters (see
the model card), never on these images. ``--defaults``: what a fit reaches that is told neither.
"""

import argparse
import time

import numpy as np
from sklearn.linear_model import LogisticRegression

from skclipsvd import CLIPSVDClassifier
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.model_selection import sample_shots

from ._report import table, write

SETTINGS = dict(model_name="tiny", lr=0.01, max_steps=200, augment=False)
DEFAULTS = dict(model_name="tiny", augment=False)
SHOTS = (1, 2, 4, 8, 16)
# 1 is scikit-learn's default; on unit-length embeddings weaker regularisation can serve better.
PENALTIES = (1.0, 10.0, 100.0, 1000.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--defaults", action="store_true", help="CLIP-SVD alone, by its defaults")
    options = parser.parse_args()
    paths, labels = (np.array(column) for column in load_handwritten_digits())
    seeds = range(1, options.seeds + 1)
    told = {"shots": SHOTS, "seeds": options.seeds}
    if options.defaults:
        rows = [by_defaults(paths, labels, shots, seed) for shots in SHOTS for seed in seeds]
        print_table(rows)
        write("digits-defaults", {**DEFAULTS, **told}, rows)
        return
    rows = [run(paths, labels, shots, seed) for shots in SHOTS for seed in seeds]
    rows.insert(0, zero_shot(paths, labels))
    print(f"zero-shot on all {100 * rows[0]['zero-shot']:.1f} %")
    print_table(rows)
    write("digits", {**SETTINGS, **told}, rows)


def zero_shot(paths, labels):
    clf = CLIPSVDClassifier(**{**SETTINGS, "max_steps": 0}).fit(paths, labels)
    return {"shots": 0, "zero-shot": clf.score(paths, labels)}


def run(paths, labels, shots, seed):
    train = sample_shots(labels, shots, random_state=seed)
    test = np.setdiff1d(np.arange(len(labels)), train)
    frozen = CLIPSVDClassifier(**{**SETTINGS, "max_steps": 0}).fit(paths[train], labels[train])
    embeddings = frozen.transform(paths)
    row = {"shots": shots, "seed": seed, "zero-shot": frozen.score(paths[test], labels[test])}
    for penalty in PENALTIES:
        probe = LogisticRegression(C=penalty, max_iter=5000)
        probe.fit(embeddings[train], labels[train])
        row[f"logistic regression, C={penalty:g}"] = probe.score(embeddings[test], labels[test])
    started = time.perf_counter()
    clf = CLIPSVDClassifier(**SETTINGS, random_state=seed).fit(paths[train], labels[train])
    row["fit seconds"] = round(time.perf_counter() - started, 2)
    row["CLIP-SVD"] = clf.score(paths[test], labels[test])
    print(row, flush=True)
    return row


def by_defaults(paths, labels, shots, seed):
    train = sample_shots(labels, shots, random_state=seed)
    test = np.setdiff1d(np.arange(len(labels)), train)
    started = time.perf_counter()
    clf = CLIPSVDClassifier(**DEFAULTS, random_state=seed).fit(paths[train], labels[train])
    row = {"shots": shots, "seed": seed, "fit seconds": round(time.perf_counter() - started, 2)}
    row.update({"steps": clf.n_iter_, "CLIP-SVD, defaults": clf.score(paths[test], labels[test])})
    print(row, flush=True)
    return row


def print_table(rows):
    told = ("shots", "seed", "fit seconds", "steps")
    methods = [name for name in rows[-1] if name not in told]
    lines = []
    for method in methods:
        cells = []
        for shots in SHOTS:
            values = [100 * row[method] for row in rows if row["shots"] == shots]
            cells.append(f"{np.mean(values):.1f} ± {np.std(values):.1f}")
        lines.append([method, *cells])
    print(table(["accuracy, %", *(f"{shots} per class" for shots in SHOTS)], lines))


if __name__ == "__main__":
    main()
