"""What to put beside the class texts: heads on one and the same fit, compared.

Candidates x backbones x data sets x shots x seeds, one CSV row each, resumable: a fit whose rows
are in the file is not repeated. Sets, fonts and backbones are those of ``benchmarks.defaults``;
the head was chosen on its selection sets and is reported on the others.

    SKCLIPSVD_DATA=../shared/data python -m benchmarks.heads --cache FOLDER --backbone lite0-64

``--report`` prints the tables from the file.
"""

import argparse
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from skclipsvd import CLIPEncoder, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.classifiers import embeddings_and_scores, frozen_and_adapted
from skclipsvd.images import augment, decode_all
from skclipsvd.model_selection import sample_shots

from ._report import RESULTS, table, write
from ._rows import append, read
from ._study_data import HELD_OUT, SELECTION, study

COLUMNS = ("backbone", "data", "shots", "seed", "candidate", "accuracy", "log loss", "seconds")
CHOSEN = 'head="logistic"'
N_VIEWS = 8


class Fit:
    """A fit by its defaults, and everything that heads are made of.

    Attributes
    ----------
    train, test, frozen_train, frozen_test : arrays of shape (n_images, n_features)
        Embeddings, adapted and not.
    y, y_test : int arrays
        Class indices.
    text, frozen_text : arrays of shape (n_classes, n_features)
        Class texts.
    texts, frozen_texts : arrays of shape (n_test, n_classes)
        Log-probabilities that they give the test images.
    answer : array of shape (n_test, n_classes)
        Scores of the library's own head.
    """

    def __init__(self, model, data, shots, seed):
        rows = sample_shots(data.labels, shots, random_state=seed)
        words = dict(templates=data.template, class_names=data.class_names)
        began = time.process_time()
        clf = CLIPSVDClassifier(
            model, head="logistic", augment=data.augment, random_state=seed, **words
        )
        clf.fit(data.paths[rows], data.labels[rows])
        self.seconds = time.process_time() - began
        zero = CLIPZeroShotClassifier(model, **words).fit(None, clf.classes_)
        encoder = CLIPEncoder(model).fit(data.paths[rows])
        self.clf, self.paths, self.scale = clf, data.paths[rows], clf.logit_scale_
        self.y, self.y_test = (
            np.searchsorted(clf.classes_, labels)
            for labels in (data.labels[rows], data.test_labels)
        )
        self.train = clf.transform(self.paths)
        self.test, self.answer = embeddings_and_scores(clf, data.test_paths)
        self.frozen_train = encoder.transform(self.paths)
        self.frozen_test = encoder.transform(data.test_paths)
        self.text, self.frozen_text = clf.text_features_, zero.text_features_
        self.texts = log_softmax(self.scale * self.test @ self.text.T, axis=1)
        frozen = self.scale * self.frozen_text.T
        self.frozen_texts = log_softmax(self.frozen_test @ frozen, axis=1)
        self.seed, self.has_views = seed, data.augment

    def views(self):
        """Embed random crops and mirror images as well, each as one part of its image's weight."""
        if not self.has_views:
            return self.train, self.y, None
        backbone, _ = frozen_and_adapted(self.clf)
        decoded = decode_all(list(map(str, self.paths)), backbone.preprocess, 1, for_crops=True)
        rng, device = np.random.RandomState(self.seed), torch.device("cpu")
        crops = [augment(decoded, backbone.preprocess, rng, device) for _ in range(N_VIEWS)]
        pixels = torch.cat(crops).permute(0, 2, 3, 1).numpy()
        rows = np.concatenate([self.train, self.clf.transform(list(pixels))])
        weights = np.full(len(rows), 1 / (1 + N_VIEWS))
        return rows, np.tile(self.y, 1 + N_VIEWS), weights


def log_loss(log_probabilities, y):
    """Mean loss in nats."""
    return -log_probabilities[np.arange(len(y)), y].mean()


def logistic(train, y, test, penalty=10.0, weights=None):
    """Return a logistic regression's log-probabilities."""
    regression = LogisticRegression(C=penalty, max_iter=1000)
    return regression.fit(train, y, sample_weight=weights).predict_log_proba(test)


def residual_ridge(fit, width, strength):
    """Kernel ridge on what the frozen texts leave over, as in ProKeR (arXiv 2501.11175)."""
    n_classes = len(fit.frozen_text)

    def kernel(a, b):
        return np.exp(-width * (2 - 2 * a @ b.T))

    def by_text(embeddings):
        return np.exp(log_softmax(fit.scale * embeddings @ fit.frozen_text.T, axis=1))

    left = np.eye(n_classes)[fit.y] - by_text(fit.frozen_train)
    gram = kernel(fit.frozen_train, fit.frozen_train) / strength
    alpha = np.linalg.solve(gram + np.eye(len(gram)), left)
    return by_text(fit.frozen_test) + kernel(fit.frozen_test, fit.frozen_train) / strength @ alpha


def discriminants(fit):
    """Gaussians of one covariance (GDA, arXiv 2402.04087), shrunk as the number of images asks."""
    n_classes, n_features = fit.text.shape
    means = np.stack([fit.train[fit.y == k].mean(axis=0) for k in range(n_classes)])
    centred = fit.train - means[fit.y]
    scatter = centred.T @ centred
    trace = np.trace(scatter) or 1.0  # one image per class: no spread is known
    precision = n_features * np.linalg.inv(scatter + trace / len(centred) * np.eye(n_features))
    vectors = means @ precision
    offset = -(vectors * means).sum(axis=1) / 2
    scores = fit.test @ vectors.T + offset
    # Its covariance is a guess, so its scale is, too: it is given that of the texts.
    return log_softmax(scores * fit.texts.std() / scores.std(), axis=1)


def anchored_means(fit):
    """Class means drawn towards the texts (after SS-Text, arXiv 2506.17500)."""
    means = [fit.train[fit.y == k].mean(axis=0) for k in range(len(fit.text))]
    vectors = np.stack(means) + fit.text / np.bincount(fit.y)[:, None]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return log_softmax(fit.scale * fit.test @ vectors.T, axis=1)


def candidates(fit):
    """Yield names and scores of shape (n_test, n_classes)."""
    yield "zero-shot", fit.frozen_texts
    yield "texts", fit.texts
    yield CHOSEN, fit.answer
    yield "probe, frozen", logistic(fit.frozen_train, fit.y, fit.frozen_test)
    alone = {c: logistic(fit.train, fit.y, fit.test, c) for c in (3.0, 10.0, 30.0)}
    yield "probe, adapted", alone[10.0]
    for penalty, answer in alone.items():
        yield f"mean, C={penalty:g}", (fit.texts + answer) / 2
    yield "0.8 of it, C=10", 0.2 * fit.texts + 0.8 * alone[10.0]
    rows, y, weights = fit.views()
    views = logistic(rows, y, fit.test, weights=weights)
    yield f"mean, C=10, {N_VIEWS} views", (fit.texts + views) / 2
    yield "mean with discriminants", (fit.texts + discriminants(fit)) / 2
    yield "anchored means", anchored_means(fit)
    for strength in (0.1, 1.0):
        yield f"frozen texts and ridge {strength:g}", residual_ridge(fit, 1.0, strength)


def run(model, data, shots, seed):
    """Fit once, and yield a row per candidate."""
    fit = Fit(model, data, shots, seed)
    for name, scores in candidates(fit):
        right = scores.argmax(axis=1) == fit.y_test
        row = {"shots": shots, "seed": seed, "candidate": name}
        row["accuracy"] = round(100 * right.mean(), 3)
        if "ridge" not in name:
            normalised = log_softmax(scores, axis=1)
            row["log loss"] = round(float(log_loss(normalised, fit.y_test)), 4)
        yield {**row, "seconds": round(fit.seconds, 1)}


def report(rows):
    """Print means over the sets of each kind, and write them down."""
    found = defaultdict(lambda: defaultdict(list))
    for row in rows:
        kind = "selection" if row["data"] in SELECTION else "held out"
        place = (row["backbone"], kind, int(row["shots"]))
        found[place][row["candidate"], row["data"]].append(float(row["accuracy"]))
    names = list(dict.fromkeys(row["candidate"] for row in rows))
    summary = []
    for (backbone, kind, shots), runs in sorted(found.items()):
        sets = sorted({data for _, data in runs})
        row = {"backbone": backbone, "sets": kind, "shots": shots, "n sets": len(sets)}
        row["seeds"] = min(len(scores) for scores in runs.values())
        for name in names:
            row[name] = round(float(np.mean([np.mean(runs[name, data]) for data in sets])), 2)
        summary.append(row)
    for place in dict.fromkeys((row["backbone"], row["sets"]) for row in summary):
        some = [row for row in summary if (row["backbone"], row["sets"]) == place]
        header = [f"{place[0]}, {place[1]}", *(f"{row['shots']} shots" for row in some)]
        print(table(header, [[name, *(row[name] for row in some)] for name in names]), end="\n\n")
    return summary


def main():
    """Run what is asked for and not yet there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, help="fonts, letters and backbones")
    parser.add_argument("--report", action="store_true", help="nothing but tables")
    parser.add_argument("--out", type=Path, default=RESULTS / "heads.csv")
    parser.add_argument("--backbone", default="tiny", help="tiny, or a folder in the cache")
    parser.add_argument("--data", nargs="+", choices=SELECTION + HELD_OUT, default=SELECTION)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    if options.report:
        summary = report(read(options.out))
        settings = {"selection": SELECTION, "held out": HELD_OUT, "head": CHOSEN}
        write("heads", settings, summary)
        return
    if options.cache is None:
        parser.error("--cache is needed for everything but --report")
    model = options.backbone
    if model != "tiny":
        model = f"local-dir:{options.cache / model}"
    done = {tuple(row[name] for name in COLUMNS[:4]) for row in read(options.out)}
    for name in options.data:
        data = study(name, options.cache)
        for shots in options.shots:
            for seed in options.seeds:
                if (options.backbone, name, str(shots), str(seed)) in done:
                    continue
                about = {"backbone": options.backbone, "data": name}
                rows = [{**about, **row} for row in run(model, data, shots, seed)]
                append(options.out, rows, COLUMNS)
                best = {row["candidate"]: row["accuracy"] for row in rows}
                print(name, shots, seed, best["texts"], best[CHOSEN], flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # scikit-learn wonders at one image per class
    main()
