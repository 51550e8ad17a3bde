"""Accuracy of a backbone on the folders of photographs beside the repository.

    python tools/score_photographic.py local-dir:lite0-160 --data ../shared/data

Zero-shot with one template, and a linear probe of the frozen embeddings: scikit-learn's logistic
regression, three draws of shots. On clothing10 it takes the part called ``validation`` unless told
``--held-out``, which scores the sets that no choice may be made on.
"""

import argparse
import re
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from skclipsvd import CLIPEncoder, CLIPZeroShotClassifier
from skclipsvd.datasets import load_folder
from skclipsvd.experiments.methods import PROBE_C
from skclipsvd.model_selection import sample_shots

SELECTION = {"caltech20": "test", "clothing10": "validation", "steel6": "test"}
HELD_OUT = dict.fromkeys(("grocery50", "trashnet6", "aid18", "busi3", "knee5"), "test")
TEMPLATES = {
    "aid18": "a centered satellite photo of {}.",
    "busi3": "an ultrasound image of a {} breast tumour.",
    "knee5": "a knee X-ray with {}.",
    "steel6": "a photo of {} on steel.",
}
APPLES = ("pink lady", "royal gala", "granny smith", "golden delicious", "red delicious")
WORDS = {
    "Faces_easy": "face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
    "airplanes": "airplane",
    "longsleeve": "long-sleeved top",
    "outwear": "outerwear",
    "rolled-in_scale": "rolled-in scale",
    **{name: f"{name} apple" for name in APPLES},
    **{name: f"{name} pear" for name in ("anjou", "conference", "kaiser")},
    **dict(zip("01234", ("no", "doubtful", "minimal", "moderate", "severe"), strict=True)),
}
SHOTS, SEEDS = (1, 4, 16), (1, 2, 3)


def words(name: str) -> str:
    """Return a class folder's name as words."""
    if re.fullmatch(r"([A-Z][a-z]+)+", name) and name not in WORDS:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return WORDS.get(name, name.replace("_", " "))


def words_of(data: str, label: str) -> str:
    """Return the words for a class folder of a data set."""
    return words(label) + (" osteoarthritis" if data == "knee5" else "")


def template_of(data: str) -> str:
    """Return the prompt of a data set."""
    return TEMPLATES.get(data, "a photo of a {}.")


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the paths and labels of one part."""
    data = load_folder(folder / part)
    split = data.splits["all"]
    return np.array(split.paths, dtype=object), np.array(data.class_names)[split.targets]


def zero_shot(model: str, name: str, paths: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy with one template."""
    classes = sorted(set(labels))
    class_names = {label: words_of(name, label) for label in classes}
    classifier = CLIPZeroShotClassifier(model, templates=template_of(name), class_names=class_names)
    return classifier.fit(None, classes).score(paths, labels)


def probe(train, test, shots: int) -> float:
    """Mean accuracy over the draws."""
    scores = []
    for seed in SEEDS:
        rows = sample_shots(train[1], shots, random_state=seed)
        classifier = LogisticRegression(C=PROBE_C, max_iter=1000)
        scores.append(classifier.fit(train[0][rows], train[1][rows]).score(*test))
    return float(np.mean(scores))


def score(model: str, folder: Path, part: str) -> None:
    """Print one line."""
    encoder = CLIPEncoder(model)
    paths, labels = read(folder, part)
    shown = [f"{100 * zero_shot(model, folder.name, paths, labels):5.1f}"]
    train_paths, train_labels = read(folder, "train")
    train = encoder.fit_transform(train_paths), train_labels
    test = encoder.transform(paths), labels
    shown += [f"{100 * probe(train, test, shots):5.1f}" for shots in SHOTS]
    print(f"| {folder.name} | {' | '.join(shown)} |", flush=True)


def main() -> None:
    """Score the sets that are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="model_name, such as local-dir:PATH")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held-out", action="store_true", help="once, at the end")
    options = parser.parse_args()
    print(f"| {options.model} | zero-shot | {' | '.join(f'probe, {k} shots' for k in SHOTS)} |")
    for name, part in (HELD_OUT if options.held_out else SELECTION).items():
        score(options.model, options.data / name, part)


if __name__ == "__main__":
    main()
