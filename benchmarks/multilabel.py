"""Several labels per image: what training adds to zero-shot ranking, and to a regression.

The pictures are pairs of photographs of the study's sets, side by side, each stretched to half of
the picture's width; a picture has the labels of both. Training pictures are made of the sets' own
training photographs, of each class `shots`, test pictures of test photographs. Compared are the
ranking by the frozen model's texts, one logistic regression per label on the frozen embeddings
(``C=10``, as for the head), and `CLIPSVDClassifier` with its defaults, without and with
``head="logistic"``. Nothing was chosen on the held-out sets.

    SKCLIPSVD_DATA=../shared/data python -m benchmarks.multilabel --model local-dir:FOLDER
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.multiclass import OneVsRestClassifier

from skclipsvd import CLIPEncoder, CLIPSVDClassifier
from skclipsvd.model_selection import sample_shots

from ._report import table, write
from ._study_data import HELD_OUT, PHOTOGRAPHS, study

SETS = [name for name in HELD_OUT if name in PHOTOGRAPHS and name not in ("busi3", "knee5")]
SIDE = 224


def pairs(paths, labels, names, n_pictures, seed):
    """Paste two photographs side by side; return the pictures, and their labels as a frame."""
    rng = np.random.RandomState(seed)
    pictures, rows = [], []
    while len(pictures) < n_pictures:
        order = rng.permutation(len(paths))
        for chosen in order[: len(order) // 2 * 2].reshape(-1, 2):
            picture = Image.new("RGB", (SIDE, SIDE))
            for left, i in zip((0, SIDE // 2), chosen, strict=True):
                half = Image.open(paths[i]).convert("RGB").resize((SIDE // 2, SIDE))
                picture.paste(half, (left, 0))
            pictures.append(np.asarray(picture))
            rows.append(np.isin(names, labels[chosen]).astype(int))
    return pictures[:n_pictures], pd.DataFrame(rows[:n_pictures], columns=names)


def scored(truth, scores):
    """Return what is told of one method: ranking, and predictions."""
    predicted = scores > 0
    probabilities = np.clip(expit(scores), 1e-12, 1 - 1e-12)
    surprise = np.where(truth, -np.log(probabilities), -np.log1p(-probabilities))
    return {
        "mean average precision": 100 * average_precision_score(truth, scores),
        "macro F1": 100 * f1_score(truth, predicted, average="macro", zero_division=0),
        "loss": surprise.sum(axis=1).mean(),
    }


def measured(model, data, shots, seed, n_test):
    """Return the rows of one set and draw."""
    names = sorted(data.class_names)
    some = sample_shots(data.labels, shots, random_state=seed)
    X, Y = pairs(data.paths[some], data.labels[some], names, len(some), seed)
    X_test, Y_test = pairs(data.test_paths, data.test_labels, names, n_test, 0)
    truth = Y_test.to_numpy() > 0
    told = truth.any(axis=0)
    settings = dict(templates=data.template, class_names=data.class_names, random_state=seed)

    def regression():
        encoder = CLIPEncoder(model).fit(X)
        one = LogisticRegression(C=10, max_iter=1000)
        each = OneVsRestClassifier(one).fit(encoder.transform(X), Y.to_numpy())
        return lambda images: each.decision_function(encoder.transform(images))

    def clip_svd(**options):
        return CLIPSVDClassifier(model, **settings, **options).fit(X, Y).decision_function

    for name, fit in {
        "zero-shot ranking": lambda: clip_svd(max_steps=0),
        "regressions on frozen embeddings": regression,
        "CLIP-SVD": clip_svd,
        'CLIP-SVD, head="logistic"': lambda: clip_svd(head="logistic"),
    }.items():
        began = time.process_time()
        decide = fit()
        seconds = time.process_time() - began
        about = {"data": data.name, "shots": shots, "seed": seed, "method": name}
        found = scored(truth[:, told], decide(X_test)[:, told])
        numbers = {name: round(float(value), 2) for name, value in found.items()}
        yield {**about, **numbers, "seconds": round(seconds, 1)}


def report(rows):
    """Print the means over sets and draws."""
    frame = pd.DataFrame(rows).drop(columns=["seed"])
    means = frame.groupby(["shots", "method"], sort=False).mean(numeric_only=True).round(1)
    print(table(list(means.reset_index()), means.reset_index().to_numpy().tolist()))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="the photographic backbone")
    parser.add_argument("--data", nargs="+", choices=PHOTOGRAPHS, default=SETS)
    parser.add_argument("--shots", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--n-test", type=int, default=200)
    options = parser.parse_args()
    rows = []
    for shots in options.shots:
        for seed in options.seeds:
            for name in options.data:
                data = study(name, Path())
                for row in measured(options.model, data, shots, seed, options.n_test):
                    print(*row.values(), flush=True)
                    rows.append(row)
    report(rows)
    write("multilabel", {"test pictures": options.n_test}, rows)


if __name__ == "__main__":
    main()
