"""
How many images are enough?
===========================

Accuracy against the number of images per class, from one to sixteen, with repeated draws. This
learning curve shows whether labelling more images is worth the work, and whether adapting CLIP is
better than a linear model on its embeddings.
"""

# %%
# Handwritten digits, rotated by 45 degrees, as in the :ref:`grid search
# <sphx_glr_auto_examples_plot_grid_search.py>` that found the learning rate. That search did not
# use the images that we test on here.

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from skclipsvd import CLIPEncoder, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.model_selection import FewShotSplit


def turned(path):
    """Enlarge a digit and turn it."""
    return np.array(Image.open(path).convert("RGB").resize((32, 32)).rotate(45))


paths, labels = load_handwritten_digits()
X = np.stack([turned(path) for path in paths])
test = np.arange(0, len(labels), 5)  # every fifth image; the shots come from the others

# %%
# With few images a single draw says little: some draws are luckier than others. ``FewShotSplit``
# draws ``n_splits`` times, each time with a different seed; a draw with more images contains the
# draws with fewer. All methods get the same images.

methods = {
    "logistic regression on frozen embeddings": make_pipeline(
        CLIPEncoder("tiny"), LogisticRegression(C=100, max_iter=1000)
    ),
    "CLIP-SVD": CLIPSVDClassifier("tiny", lr=0.08, max_steps=30, augment=False, random_state=0),
}
shots = [1, 2, 4, 8, 16]
scores = {name: [] for name in methods}
for n_shots in shots:
    split = FewShotSplit(n_shots, n_splits=3, test=test, random_state=1)
    for name, method in methods.items():
        score = cross_val_score(method, X, labels, cv=split, error_score="raise")
        scores[name].append(score)
        print(f"{n_shots:2} per class, {name}: {score.mean():.1%} ± {score.std():.1%}")

# %%
# Zero-shot CLIP needs no training images, so it is a horizontal line.

zero_shot = CLIPZeroShotClassifier("tiny").fit(None, labels).score(X[test], labels[test])
figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
axis.axhline(100 * zero_shot, color="tab:gray", linestyle="--", label="zero-shot")
for name, values in scores.items():
    percent = 100 * np.array(values)
    axis.errorbar(
        shots, percent.mean(axis=1), percent.std(axis=1), marker="o", capsize=3, label=name
    )
axis.set(xscale="log", xlabel="images per class", ylabel="test accuracy, %")
axis.set_xticks(shots, shots)
axis.minorticks_off()
axis.grid(alpha=0.3)
axis.set_ylim(bottom=35)
axis.legend(loc="lower right")
plt.show()

# %%
# All numbers of images used the same settings, and that is how methods should be compared. Tuning
# the settings for each number, on many validation images, would use labels that the curve claims
# not to have.
