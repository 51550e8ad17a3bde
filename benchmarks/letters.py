"""Where the embedded model's learning rate was chosen: letters of fonts that it never saw.

Needs fonts (``--fonts``, as for ``tools/pretrain_tiny.py``): letters of the held-out families are
drawn, reduced to 10 or 8 pixels and turned by 32 degrees, which the pre-training never did. Also
scores zero-shot on held-out drawings as degraded as training's worst.
"""

import argparse
import string
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.model_selection import sample_shots

from ._report import table, write

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import tiny_pictures
from tiny_bank import build_bank

RATES = (0.005, 0.01, 0.02)
SHOTS = (4, 16)
SETTINGS = dict(model_name="tiny", max_steps=200, augment=False)
HELD_OUT = 6
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fonts", nargs="+", default=["/usr/share/fonts"])
    parser.add_argument("--bank", help="glyphs that tools/pretrain_tiny.py has drawn already")
    options = parser.parse_args()
    bank = dict(np.load(options.bank)) if options.bank else build_bank(options.fonts)
    rows = [zero_shot(bank)]
    with tempfile.TemporaryDirectory() as folder:
        paths, labels = save(turned_letters(bank), Path(folder))
        rows += [row for shots in SHOTS for row in choose(paths, labels, shots)]
    print(table(["shots", "method", "accuracy, %"], [list(r.values()) for r in rows[1:]]))
    print(rows[0])
    write("letters", {**SETTINGS, "rates": RATES, "families": families(bank)}, rows)


def families(bank):
    return [str(f) for f in bank["families"][HELD_OUT - 1 :: HELD_OUT]]


def painter(bank, seed, families=None):
    if families is None:
        families = range(HELD_OUT - 1, len(bank["families"]), HELD_OUT)
    return tiny_pictures.Painter(bank, seed, list(families), pens=False)


def upright_letters(bank, n=1300, families=None):
    """Draw letters as the pre-training had them, and their classes."""
    return named(*painter(bank, 92, families).glyphs(n, 0.6, 0.0))


def turned_letters(bank, n=1300, families=None):
    """Draw letters that are coarse and turned, and their classes."""
    usual, tiny_pictures._GRAIN = tiny_pictures._GRAIN, (32, 10, 8)
    pictures, attributes = painter(bank, 91, families).glyphs(n, 0.6, 0.0)
    tiny_pictures._GRAIN = usual
    angle = np.deg2rad(32)
    turn = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]]
    grid = F.affine_grid(
        torch.tensor([turn], dtype=torch.float32).repeat(n, 1, 1),
        pictures.shape,
        align_corners=False,
    )
    pictures = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    return named(pictures, attributes)


def named(pictures, attributes):
    return pictures, [f"letter {string.ascii_lowercase[i - 10]}" for i in attributes[:, 1]]


def save(drawn, folder):
    pictures, labels = drawn
    paths = []
    for i, picture in enumerate((pictures * 255).round().to(torch.uint8)):
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(paths[-1])
    return np.array(paths), np.array(labels)


def choose(paths, labels, shots):
    train = sample_shots(labels, shots, random_state=0)
    test = np.setdiff1d(np.arange(len(labels)), train)
    frozen = CLIPZeroShotClassifier("tiny").fit(None, labels)
    embeddings = frozen.transform(paths)
    probe = LogisticRegression(max_iter=1000).fit(embeddings[train], labels[train])
    yield {"shots": 0, "method": "zero-shot", "score": percent(frozen, paths[test], labels[test])}
    score = percent(probe, embeddings[test], labels[test])
    yield {"shots": shots, "method": "logistic regression", "score": score}
    for lr in RATES:
        clf = CLIPSVDClassifier(lr=lr, random_state=0, **SETTINGS).fit(paths[train], labels[train])
        score = percent(clf, paths[test], labels[test])
        yield {"shots": shots, "method": f"CLIP-SVD, lr {lr}", "score": score}


def percent(clf, X, y):
    return round(100 * clf.score(X, y), 1)


def zero_shot(bank):
    """Score held-out drawings with everything that can happen to ink."""
    letters = [f"letter {letter}" for letter in string.ascii_lowercase]
    row = {}
    for name, share, classes in (("digits", 1.0, DIGITS), ("letters", 0.0, letters)):
        pictures, attributes = painter(bank, 78).glyphs(2000, 1.0, share)
        index = attributes[:, 1] - (0 if share else 10)
        with tempfile.TemporaryDirectory() as folder:
            paths, labels = save((pictures, [classes[i] for i in index]), Path(folder))
            clf = CLIPZeroShotClassifier("tiny").fit(None, classes)
            row[f"held-out {name}, zero-shot"] = percent(clf, paths, labels)
    return row


if __name__ == "__main__":
    main()
