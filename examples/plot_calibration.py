"""
Calibration and abstention
==========================

If a classifier says 90 %, is it right nine times out of ten? And how much more accurate is it if it
may leave the doubtful images to a person?
"""

# %%
# Handwritten digits, rotated by 45 degrees. The images are split into three parts: 80 to train on,
# 400 to calibrate on, and the rest to test on. Calibrating on training images would be useless:
# the classifier knows them.

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from skclipsvd import CLIPSVDClassifier
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.model_selection import sample_shots


def turned(path):
    """Enlarge a digit and turn it."""
    return np.array(Image.open(path).convert("RGB").resize((32, 32)).rotate(45))


paths, labels = load_handwritten_digits()
X = np.stack([turned(path) for path in paths])
train = sample_shots(labels, 8, random_state=0)
others = np.random.RandomState(0).permutation(np.setdiff1d(np.arange(len(labels)), train))
calibrate, test = others[:400], others[400:]

clf = CLIPSVDClassifier("tiny", lr=0.08, max_steps=40, augment=False, random_state=0)
clf.fit(X[train], labels[train])

# %%
# Temperature scaling divides all scores by one number, so it changes probabilities but never a
# prediction. ``FrozenEstimator`` keeps scikit-learn from fitting the classifier again.
# (``method="temperature"`` needs scikit-learn 1.8; ``"sigmoid"`` works in all versions, but may
# change predictions.)

calibrated = CalibratedClassifierCV(FrozenEstimator(clf), method="temperature")
calibrated.fit(X[calibrate], labels[calibrate])

probabilities = {
    name: c.predict_proba(X[test]) for name, c in (("as trained", clf), ("calibrated", calibrated))
}
for name, p in probabilities.items():
    right = clf.classes_[p.argmax(axis=1)] == labels[test]
    of_truth = p[np.arange(len(p)), np.searchsorted(clf.classes_, labels[test])]
    print(
        f"{name}: accuracy {right.mean():.1%}, mean confidence {p.max(axis=1).mean():.1%}, "
        f"log loss {-np.log(of_truth).mean():.3f}"
    )

# %%
# Left: the share of right answers among images of similar confidence. A calibrated classifier is on
# the diagonal. Right: the accuracy on the images that the classifier answers, if those with the
# lowest confidence go to a person. The two lines are nearly the same, because dividing all scores
# by one number hardly changes which images are the doubtful ones.

figure, (reliability, abstention) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
edges = np.array([0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0001])
for name, p in probabilities.items():
    confidence, right = p.max(axis=1), clf.classes_[p.argmax(axis=1)] == labels[test]
    place = np.digitize(confidence, edges)
    bins = [place == i for i in range(1, len(edges)) if (place == i).sum() >= 20]
    reliability.plot(
        [confidence[b].mean() for b in bins],
        [right[b].mean() for b in bins],
        marker="o",
        label=name,
    )
    order = np.argsort(-confidence)
    answered = np.arange(1, len(order) + 1)
    abstention.plot(answered / len(order), right[order].cumsum() / answered, label=name)
reliability.plot([0.2, 1], [0.2, 1], color="tab:gray", linestyle="--")
reliability.set(xlabel="confidence", ylabel="share of right answers")
abstention.set(xlabel="share of images answered", ylabel="accuracy on them", xlim=(0.3, 1))
abstention.set_ylim(bottom=0.85)
for axis in (reliability, abstention):
    axis.grid(alpha=0.3)
    axis.legend()
plt.show()

# %%
# Choose the threshold on the calibration images, never on the test images: the lowest confidence at
# which 99 % of the answers are right. On other images that holds only roughly, because 400 images
# contain few mistakes.

confidence = calibrated.predict_proba(X[calibrate]).max(axis=1)
right = calibrated.predict(X[calibrate]) == labels[calibrate]
order = np.argsort(-confidence)
enough = right[order].cumsum() >= 0.99 * np.arange(1, len(order) + 1)
threshold = confidence[order][enough].min()
answers = calibrated.predict_proba(X[test]).max(axis=1) >= threshold
score = calibrated.score(X[test][answers], labels[test][answers])
print(f"from {threshold:.2f} up: {answers.mean():.0%} answered, {score:.1%} of them right")

# %%
# The classifier cannot say "none of these". An image of an unknown class gets the label of a known
# one, often with high confidence. A threshold finds doubtful images of known classes, not images
# of unknown classes. For those there is :doc:`OpenSetClassifier </unknown>`.
