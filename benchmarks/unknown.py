"""How well pictures of no trained class are told, and whether the wanted false alarms come.

A half of a set's classes is trained on, by five folds and whole, as `OpenSetClassifier` does. The
other half's pictures, and those of other sets, are unknown. Every fit's embeddings are kept in
``CACHE/unknown``: what is there is not fitted again, and the tables of all scores come from it in
seconds. Sets, fonts and backbones are those of ``benchmarks.defaults``: the score was chosen on
its selection sets and is reported on the others.

    SKCLIPSVD_DATA=../shared/data python -m benchmarks.unknown --cache FOLDER

``--report`` prints the tables. The photographic backbone is the folder ``lite0-64`` of the cache;
drawn sets are seen by tiny.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from skclipsvd import CLIPEncoder, CLIPSVDClassifier
from skclipsvd.model_selection import sample_shots
from skclipsvd.open_set import Seen, fold_numbers, score_of, threshold_for

from ._report import table, write
from ._study_data import DRAWN, HELD_OUT, SELECTION, study

SETS = [name for name in (*SELECTION, *HELD_OUT) if name != "upright"]
N_FOLDS = 5
N_STRANGERS = 300
KNOWN_BY = ("image", "text", "energy", "probability")
RATES = (0.05, 0.1)


def strangers(name, cache):
    """Return test pictures of the other sets that the same backbone sees."""
    others = [other for other in SETS if other != name and (other in DRAWN) == (name in DRAWN)]
    each = -(-N_STRANGERS // len(others))
    return np.concatenate([study(other, cache).test_paths[:each] for other in others])


def collect(model, data, other_paths, shots, seed):
    """Fit on a half of the classes, whole and by folds; return what each fit sees."""
    classes = np.random.RandomState(seed).permutation(np.unique(data.labels))
    known = np.sort(classes[: max(2, -(-len(classes) // 2))])
    rows = sample_shots(data.labels, shots, random_state=seed)
    rows = rows[np.isin(data.labels[rows], known)]
    X, y = data.paths[rows], data.labels[rows]
    words = {label: data.class_names[label] for label in known}
    began = time.process_time()

    def fit(part):
        clf = CLIPSVDClassifier(
            model,
            templates=data.template,
            class_names=words,
            augment=data.augment,
            random_state=seed,
        )
        return clf.fit(X[part], y[part])

    whole = fit(np.arange(len(y)))
    is_known = np.isin(data.test_labels, known)
    places = {
        "train": X,
        "known": data.test_paths[is_known],
        "unknown": data.test_paths[~is_known],
        "strangers": other_paths,
    }
    encoder = CLIPEncoder(model).fit(X)
    seen = {name: whole.transform(paths) for name, paths in places.items()}
    seen.update({f"frozen {name}": encoder.transform(paths) for name, paths in places.items()})
    seen["text"], seen["scale"] = whole.text_features_, whole.logit_scale_
    seen["y"] = np.searchsorted(known, y)
    seen["y known"] = np.searchsorted(known, data.test_labels[is_known])
    seen["fold"] = fold = fold_numbers(y, N_FOLDS)
    for k in range(N_FOLDS):
        clf = fit(np.flatnonzero(fold != k))
        seen[f"train {k}"], seen[f"text {k}"] = clf.transform(X), clf.text_features_
    seen["seconds"] = time.process_time() - began
    return seen


def judged(known, others):
    """Return the area under the curve, and what is let through where 95 % of the known are."""
    is_known = np.arange(len(known) + len(others)) < len(known)
    area = roc_auc_score(is_known, np.concatenate([known, others]))
    return area, (others >= np.quantile(known, 0.05)).mean()


def scored(known_by, seen):
    """Return the scores of each kind of images, and of those that a fit did without."""
    whole = {}
    for part in ("train", "known", "unknown", "strangers"):
        logits = seen["scale"] * seen[part] @ seen["text"].T
        whole[part] = score_of(known_by, Seen(seen[part], logits, seen["text"]), seen["train"])
    held_out = []
    for k in range(N_FOLDS):
        held, text = seen["fold"] == k, seen[f"text {k}"]
        part, reference = seen[f"train {k}"][held], seen[f"train {k}"][~held]
        logits = seen["scale"] * part @ text.T
        held_out.append(score_of(known_by, Seen(part, logits, text), reference))
    return whole, np.concatenate(held_out)


def measured(known_by, seen):
    """Return a row's numbers, in percent."""
    whole, held_out = scored(known_by, seen)
    numbers = {}
    for name, part in (("other classes", "unknown"), ("other sets", "strangers")):
        area, passed = judged(whole["known"], whole[part])
        numbers[f"AUROC, {name}"], numbers[f"FPR at 95 % TPR, {name}"] = area, passed
    for rate in RATES:
        share = np.nan
        if rate * (len(held_out) + 1) >= 1:
            share = (whole["known"] < threshold_for(held_out, rate)).mean()
        numbers[f"false alarms, wanted {rate:.0%}"] = share
    # What an honest threshold is worth. A training image is its own nearest training image.
    share = np.nan
    if known_by != "image":
        share = (whole["known"] < threshold_for(whole["train"], 0.05)).mean()
    numbers["false alarms, wanted 5%, set on training images"] = share
    return {name: 100 * value for name, value in numbers.items()}


def report(kept):
    """Print means over the sets, and write them and every set's numbers down."""
    found = defaultdict(list)
    for path in sorted(kept.glob("*.npz")):
        name, shots, _ = path.stem.rsplit("-", 2)
        with np.load(path) as seen:
            seen = dict(seen)
        for known_by in KNOWN_BY:
            found[name, int(shots), known_by].append(measured(known_by, seen))
    rows = []
    for names, kind in ((SELECTION, "selection"), (HELD_OUT, "held out")):
        for shots in sorted({shots for _, shots, _ in found}):
            for known_by in KNOWN_BY:
                fits = {name: found.get((name, shots, known_by), []) for name in names}
                each = {name: mean(numbers) for name, numbers in fits.items() if numbers}
                if not each:
                    continue
                about = {"sets": kind, "shots": shots, "known_by": known_by}
                each[f"mean of {len(each)}"] = mean(list(each.values()))
                for name, numbers in each.items():
                    rows.append({**about, "data": name, **rounded(numbers)})
    means = [row for row in rows if row["data"].startswith("mean")]
    print(table(list(means[0]), [list(row.values()) for row in means]))
    seeds = sorted({path.stem.rpartition("-")[2] for path in kept.glob("*.npz")})
    write("unknown", {"folds": N_FOLDS, "classes trained on": "a half", "seeds": seeds}, rows)


def mean(rows):
    """Average each number over the rows that have it."""
    values = {name: [row[name] for row in rows if not np.isnan(row[name])] for name in rows[0]}
    return {name: float(np.mean(some)) if some else np.nan for name, some in values.items()}


def rounded(numbers):
    """Keep one decimal, and nothing of what is no number."""
    return {name: "" if np.isnan(v) else round(v, 1) for name, v in numbers.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True, help="fonts, letters and backbones")
    parser.add_argument("--data", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--shots", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--report", action="store_true", help="nothing but tables")
    options = parser.parse_args()
    kept = options.cache / "unknown"
    kept.mkdir(exist_ok=True)
    if options.report:
        report(kept)
        return
    for shots in options.shots:
        for seed in options.seeds:
            for name in options.data:
                path = kept / f"{name}-{shots}-{seed}.npz"
                if path.exists():
                    continue
                model = "tiny" if name in DRAWN else f"local-dir:{options.cache / 'lite0-64'}"
                data = study(name, options.cache)
                seen = collect(model, data, strangers(name, options.cache), shots, seed)
                np.savez(path, **seen)
                print(name, shots, seed, f"{seen['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
