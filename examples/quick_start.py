"""Quick start: teach the tiny CLIP ten classes from four images each.

Run it with ``python examples/quick_start.py``; it needs no download and takes seconds.
"""

import joblib
import numpy as np

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.model_selection import sample_shots

paths, labels = load_handwritten_digits()
paths = np.array(paths)
train = sample_shots(labels, 4, random_state=0)
test = np.setdiff1d(np.arange(len(labels)), train)[:500]

zero_shot = CLIPZeroShotClassifier("tiny").fit(None, labels)
print(f"CLIP as it is:       {zero_shot.score(paths[test], labels[test]):.1%}")

clf = CLIPSVDClassifier("tiny", lr=0.01, max_steps=60, augment=False, random_state=0)
clf.fit(paths[train], labels[train])
print(f"four images a class: {clf.score(paths[test], labels[test]):.1%}")
print(f"tuned {clf.n_parameters_tuned_:,} of {clf.n_parameters_:,} numbers")

joblib.dump(clf, "digits.joblib")
same = joblib.load("digits.joblib")
assert (same.predict(paths[test]) == clf.predict(paths[test])).all()
