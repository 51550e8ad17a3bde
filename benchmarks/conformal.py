"""Sets of labels that hold the right one nine times of ten: MAPIE beside conformal-clip.

Textile pictures that the package conformal-clip-data ships (MIT): 1,000 without a defect and 1,000
with one. Of each kind 50 are trained on, 50 set the threshold, and the rest is the test. Both
packages get the same parts and the same embeddings; conformal-clip classifies by the most similar
training picture and sets a threshold for each class, as its README has it. The photographic
backbone is a folder of ``tools/build_photographic.py``.

    pip install mapie conformal-clip conformal-clip-data
    python -m benchmarks.conformal --backbone lite0-64
"""

import argparse

import numpy as np
import torch

from skclipsvd import CLIPEncoder, CLIPSVDClassifier, CLIPZeroShotClassifier, CosineClassifier

from ._report import table, write

LABELS = ("Nominal", "Defective")
WORDS = {"Nominal": "a flawless woven textile", "Defective": "a woven textile with a defect"}
N_PART = 50
LEVEL = 0.9


class Identity:
    """A model for conformal-clip whose pictures are embedded already."""

    @staticmethod
    def encode_image(embedding):
        return embedding


def pictures():
    """Return paths and labels, defects of both kinds in turn."""
    from conformal_clip_data import global_dir, local_dir, nominal_dir

    nominal, local, whole = (
        sorted(map(str, f().iterdir())) for f in (nominal_dir, local_dir, global_dir)
    )
    defective = [path for pair in zip(local, whole, strict=True) for path in pair]
    return np.array(nominal + defective), np.repeat(LABELS, [len(nominal), len(defective)])


def parts(labels, seed):
    """Draw training, calibration and test rows."""
    rng = np.random.RandomState(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == label)) for label in LABELS]
    cuts = [np.split(rows, [N_PART, 2 * N_PART]) for rows in drawn]
    return [np.concatenate(part) for part in zip(*cuts, strict=True)]


def of_conformal_clip(embeddings, labels, split, **options):
    """Return its sets and its answers for the test part."""
    from conformal_clip import few_shot_fault_classification_conformal

    train, calibration, test = split
    tensors = torch.from_numpy(embeddings)
    nominal, defective = (list(tensors[train[labels[train] == label]]) for label in LABELS)
    found = few_shot_fault_classification_conformal(
        Identity(),
        list(tensors[test]),
        [str(row) for row in test],
        nominal,
        ["nominal"] * len(nominal),
        defective,
        ["defective"] * len(defective),
        list(tensors[calibration]),
        labels[calibration].tolist(),
        alpha=1 - LEVEL,
        class_labels=LABELS,
        **options,
    )
    sets = np.array(
        [[label in row["prediction_set"].split("|") for label in LABELS] for row in found]
    )
    return sets, np.array([row["point_prediction"] for row in found])


def of_mapie(clf, X, labels, split):
    """Return its sets and its answers for the test part."""
    from mapie.classification import SplitConformalClassifier

    _, calibration, test = split
    conformal = SplitConformalClassifier(clf, confidence_level=LEVEL, prefit=True)
    conformal.conformalize(X[calibration], labels[calibration])
    answers, sets = conformal.predict_set(X[test])
    order = np.searchsorted(clf.classes_, LABELS)
    return sets[:, order, 0], answers


def measured(sets, answers, truth):
    """Return coverage, size and accuracy."""
    right = np.array([[label == t for label in LABELS] for t in truth])
    covered = (sets & right).any(axis=1)
    of_class = [covered[truth == label].mean() for label in LABELS]
    return {
        "coverage, %": 100 * covered.mean(),
        "coverage of nominal, %": 100 * of_class[0],
        "coverage of defective, %": 100 * of_class[1],
        "labels in a set": sets.sum(axis=1).mean(),
        "sets of one label, %": 100 * (sets.sum(axis=1) == 1).mean(),
        "accuracy, %": 100 * (answers == truth).mean(),
    }


def methods(model, paths, labels, split, seed):
    """Yield names, sets and answers."""
    train = split[0]
    clf = CLIPSVDClassifier(model, class_names=WORDS, templates="{}", random_state=seed)
    clf.fit(paths[train], labels[train])
    frozen = CLIPEncoder(model).fit(paths).transform(paths)
    adapted = clf.transform(paths)
    for name, embeddings in (("frozen", frozen), ("adapted", adapted)):
        for kind, options in (
            ("global", dict(mondrian=False)),
            ("by class", dict(mondrian=True)),
            ("by class, isotonic", dict(mondrian=True, prob_calibration="isotonic")),
        ):
            found = of_conformal_clip(embeddings, labels, split, **options)
            yield f"conformal-clip, {kind}", name, *found
        head = CosineClassifier().fit(embeddings[train], labels[train])
        yield "MAPIE, CosineClassifier", name, *of_mapie(head, embeddings, labels, split)
    zero = CLIPZeroShotClassifier(model, class_names=WORDS, templates="{}").fit(None, labels)
    yield "MAPIE, CLIPZeroShotClassifier", "frozen", *of_mapie(zero, paths, labels, split)
    yield "MAPIE, CLIPSVDClassifier", "adapted", *of_mapie(clf, paths, labels, split)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", required=True, help="folder of a CLIP that knows photographs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    paths, labels = pictures()
    found = {}
    for seed in options.seeds:
        split = parts(labels, seed)
        model = f"local-dir:{options.backbone}"
        for name, embeddings, sets, answers in methods(model, paths, labels, split, seed):
            numbers = measured(sets, answers, labels[split[2]])
            found.setdefault((name, embeddings), []).append(numbers)
    rows = []
    for (name, embeddings), runs in found.items():
        means = {key: round(float(np.mean([run[key] for run in runs])), 2) for key in runs[0]}
        by_seed = [round(float(run["coverage, %"]), 2) for run in runs]
        rows.append({"method": name, "embeddings": embeddings, **means, "by seed": by_seed})
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    settings = {
        "confidence level": LEVEL,
        "pictures of a class to train on, and to calibrate on": N_PART,
        "seeds": options.seeds,
    }
    write("conformal", settings, rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
