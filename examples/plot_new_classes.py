"""
New classes without training
============================

Learn five digits, then ask for the other five, which were never trained on. The adapted towers stay
as they are; only the class texts change.
"""

# %%
# ``base_novel_split`` splits the classes into two halves. We train on the first ("base"), with 16
# images per class.

import matplotlib.pyplot as plt
import numpy as np

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.inspection import StrengthCurveDisplay
from skclipsvd.model_selection import base_novel_split, harmonic_mean_score, sample_shots

paths, labels = load_handwritten_digits()
paths = np.array(paths)
base, novel = base_novel_split(labels)
print("trained on", ", ".join(base), "- never on", ", ".join(novel))

rows = np.flatnonzero(np.isin(labels, base))
train = rows[sample_shots(labels[rows], 16, random_state=0)]
clf = CLIPSVDClassifier("tiny", lr=0.01, max_steps=60, augment=False, random_state=0)
clf.fit(paths[train], labels[train])

# %%
# ``with_classes`` returns a fitted classifier for other labels. It takes a list of labels, or a
# mapping of labels to words: ``clf.with_classes({"Z": "zero", "S": "seven"})``.

held_out = np.setdiff1d(np.arange(len(labels)), train)[::3]
zero_shot = CLIPZeroShotClassifier("tiny").fit(None, labels)
table = {}
for name, classifier in (("zero-shot", zero_shot), ("adapted", clf)):
    scores = []
    for classes in (base, novel):
        part = held_out[np.isin(labels[held_out], classes)]
        other = classifier.with_classes(list(classes))
        scores.append(other.score(paths[part], labels[part]))
    table[name] = [*scores, harmonic_mean_score(*scores)]
    print("{}: base {:.1%}, novel {:.1%}, harmonic mean {:.1%}".format(name, *table[name]))

# %%
# What is learnt from the base classes may help with the novel ones, or do harm. The harmonic mean
# is the usual summary, but look at both numbers.

figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for (name, values), marker, side in zip(table.items(), "os", (-1, 1), strict=True):
    percent = 100 * np.array(values)
    axis.plot(np.arange(3), percent, marker, markersize=8, label=name)
    for place, value in enumerate(percent):
        axis.annotate(
            f"{value:.1f}",
            (place, value),
            xytext=(10 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
        )
axis.set_xticks(np.arange(3), ["base classes", "novel classes", "harmonic mean"])
axis.set(ylabel="accuracy, %", xlim=(-0.5, 2.5))
axis.margins(y=0.1)
axis.grid(axis="y", alpha=0.3)
figure.legend(loc="outside upper right", ncols=2, frameon=False)
plt.show()

# %%
# Between CLIP and the fit lies a line of classifiers, and ``with_strength`` returns any of them
# without training. ``StrengthCurveDisplay`` measures both kinds of classes along it: what was
# gained on the trained ones, and what became of the others.

parts = [held_out[np.isin(labels[held_out], classes)] for classes in (base, novel)]
StrengthCurveDisplay.from_estimator(
    clf, paths[parts[0]], labels[parts[0]], paths[parts[1]], labels[parts[1]]
)
plt.show()

# %%
# You can also ask for all ten at once: call ``with_classes`` with every label.

everything = clf.with_classes(sorted(set(labels)))
print(f"ten classes: {everything.score(paths[held_out], labels[held_out]):.1%}")
