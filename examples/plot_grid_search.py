"""
Grid search
===========

Find a learning rate with scikit-learn's own ``GridSearchCV``. By default a fit chooses the learning
rate itself. If you have enough images to search, start with it: no other parameter matters as
much, and its best value differs between models and tasks.
"""

# %%
# Handwritten digits, rotated by 45 degrees. The tiny CLIP has hardly seen rotated characters, so
# there is something to learn. X may hold pixels instead of paths: here it is one array of shape
# (n, height, width, 3).

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image
from sklearn.model_selection import GridSearchCV

import skclipsvd
from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.model_selection import FewShotSplit, sample_shots


def turned(path):
    """Enlarge a digit and turn it."""
    return np.array(Image.open(path).convert("RGB").resize((32, 32)).rotate(45))


paths, labels = load_handwritten_digits()
X = np.stack([turned(path) for path in paths])
test = np.arange(0, len(labels), 5)  # every fifth image is never looked at in the search
others = np.setdiff1d(np.arange(len(labels)), test)
pool = others[sample_shots(labels[others], 16, random_state=0)]

# %%
# ``FewShotSplit`` trains on 8 images per class and validates on the other 8, twice. The fits of a
# search should have about as many images as the final fit, because the best learning rate depends
# a little on their number.
#
# With ``error_score="raise"`` a bad image is an error, not just a missing score.

clf = CLIPSVDClassifier("tiny", max_steps=30, augment=False, random_state=0)
search = GridSearchCV(
    clf,
    {"lr": [0.005, 0.02, 0.08, 0.32]},
    cv=FewShotSplit(8, n_splits=2, random_state=1),
    error_score="raise",
)
search.fit(X[pool], labels[pool])
results = pd.DataFrame(search.cv_results_)[["param_lr", "mean_test_score", "std_test_score"]]
print(results.round(3).to_string(index=False))

# %%
# The search has fitted the best candidate again on all 160 images.

zero_shot = CLIPZeroShotClassifier("tiny").fit(None, labels)
print(f"best learning rate: {search.best_params_['lr']}")
print(f"test accuracy: {search.score(X[test], labels[test]):.1%}")
print(f"zero-shot:     {zero_shot.score(X[test], labels[test]):.1%}")

# %%
# With a lower rate than the best one the fit learns too little; with a higher one it destroys what
# CLIP knows. Search on a logarithmic scale, in factors of three or four, and refine only if the
# differences are large.

figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
axis.errorbar(
    results.param_lr, results.mean_test_score, results.std_test_score, marker="o", capsize=3
)
axis.set(xscale="log", xlabel="learning rate", ylabel="validation accuracy")
axis.grid(alpha=0.3)
plt.show()

# %%
# In all nine fits together, each image was decoded once, and the model was loaded and decomposed
# once.

for name, cache in skclipsvd.cache_info().items():
    print(f"{name}: {cache['entries']} entries, used {cache['hits']} times again")
