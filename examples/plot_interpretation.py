"""
What did training change?
=========================

Look at a fitted classifier from four sides: its singular values, its attention heads, one
prediction, and the heads in words.
"""

# %%
# Handwritten digits, rotated by 45 degrees, eight of each class.

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.inspection import (
    HeadChangeDisplay,
    HeatMapDisplay,
    SpectrumDisplay,
    describe_heads,
    explain_prediction,
    head_changes,
    singular_value_changes,
)
from skclipsvd.model_selection import sample_shots


def turned(path):
    """Enlarge a digit and turn it."""
    return np.array(Image.open(path).convert("RGB").resize((32, 32)).rotate(45))


paths, labels = load_handwritten_digits()
X = np.stack([turned(path) for path in paths])
train = sample_shots(labels, 8, random_state=0)
test = np.setdiff1d(np.arange(len(labels)), train)[:300]
clf = CLIPSVDClassifier("tiny", lr=0.02, max_steps=60, augment=False, random_state=0)
clf.fit(X[train], labels[train])
zero_shot = CLIPZeroShotClassifier("tiny").fit(None, labels)
before, after = zero_shot.predict(X[test]), clf.predict(X[test])
print(
    f"accuracy {np.mean(before == labels[test]):.1%}, adapted {np.mean(after == labels[test]):.1%}"
)

# %%
# Singular values
# ---------------
#
# A table of all singular values before and after training. The smallest ones usually have the
# largest relative changes: they are close to zero, so any change is large in proportion.

changes = singular_value_changes(clf)
size = changes.assign(change=changes.relative_change.abs()).groupby(["tower", "matrix"])["change"]
print(size.median().unstack().map("{:.1%}".format).to_string())
SpectrumDisplay.from_estimator(clf, tower="image", block=-1, matrix="v")
plt.show()

# %%
# Heads
# -----
#
# A spectrum belongs to a whole matrix, and no part of it to one attention head. So the change of a
# head is measured on its own rows and columns: what it writes for what it reads, and where it
# looks.

print(head_changes(clf).head(5).round(3).to_string(index=False))
HeadChangeDisplay.from_estimator(clf)
plt.show()

# %%
# One prediction
# --------------
#
# Take the first image that zero-shot gets wrong and the adapted classifier gets right. The
# difference of its scores is split exactly into the contribution of each component of each tower.

chosen = X[test][np.flatnonzero((before != labels[test]) & (after == labels[test]))[0]]
explanation = explain_prediction(clf, chosen)
print(f"zero-shot: {zero_shot.predict([chosen])[0]}; adapted: {explanation.prediction}")
column = explanation.index()
print(f"score {explanation.scores_before[column]:.2f} -> {explanation.scores_after[column]:.2f}")
print(explanation.table().head(6).round(2).to_string(index=False))
gap = explanation.scores_after[column] - explanation.scores_before[column]
assert abs(explanation.changes[:, column].sum() - gap) < 1e-3

# %%
# From which patches of the image the heads read what counts for the predicted class. The tiny CLIP
# has 4 by 4 patches; a ViT-B/16 has 14 by 14.

HeatMapDisplay.from_estimator(clf, chosen)
plt.show()

# %%
# Heads in words
# --------------
#
# For the heads that changed most, find the texts that explain their outputs best. ``explained`` is
# the share of the outputs' variance that a text and those ranked above it explain together: if it
# is small, the texts do not describe this head. The tiny CLIP understands few words, so we use
# only those; for a real CLIP there are the lists ``"general"`` and ``"biomedical"``.

texts = [f"{kind} {name}" for name in sorted(set(labels)) for kind in ("digit", "white")]
texts += [
    "circle",
    "ring",
    "cross",
    "bar",
    "diagonal stripes",
    "horizontal stripes",
    "noise",
    "dots",
]
found = describe_heads(clf, texts, X[test], n_heads=3, n_texts=3)
columns = ["block", "head", "change", "rank", "text", "explained"]
print(found[columns].round(2).to_string(index=False))

# %%
# None of this proves why a prediction was made. It says which numbers changed, and through which
# parts of the model the change acted. If you have an explanation, test it: tune only these layers
# (``layers``, ``matrices``), or change the image where the heat map is strong.
