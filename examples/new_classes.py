"""New classes without training: learn five digits, then ask for the other five.

The adapted towers stay as they are; only the class texts change.
"""

import numpy as np

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.model_selection import base_novel_split, harmonic_mean_score, sample_shots

paths, labels = load_handwritten_digits()
paths = np.array(paths)
base, novel = base_novel_split(labels)
print("trained on", ", ".join(base), "- never on", ", ".join(novel))

rows = np.flatnonzero(np.isin(labels, base))
train = rows[sample_shots(labels[rows], 16, random_state=0)]
clf = CLIPSVDClassifier("tiny", lr=0.01, max_steps=60, augment=False, random_state=0)
clf.fit(paths[train], labels[train])

held_out = np.setdiff1d(np.arange(len(labels)), train)[::3]
zero_shot = CLIPZeroShotClassifier("tiny").fit(None, labels)
for name, classifier in (("zero-shot", zero_shot), ("adapted", clf)):
    scores = []
    for classes in (base, novel):
        part = held_out[np.isin(labels[held_out], classes)]
        other = classifier.with_classes(list(classes))
        scores.append(other.score(paths[part], labels[part]))
    mean = harmonic_mean_score(*scores)
    print(f"{name}: base {scores[0]:.1%}, novel {scores[1]:.1%}, harmonic mean {mean:.1%}")
