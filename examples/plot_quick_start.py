"""
Quick start
===========

Teach the tiny CLIP ten classes from four images each: zero-shot first, then fit, predict and save.
"""

# %%
# X is a list of image paths, and y their labels. ``sample_shots`` draws the same number of images
# from each class; we test on 500 of the others.

import tempfile
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.inspection import PredictionSheetDisplay
from skclipsvd.model_selection import sample_shots

paths, labels = load_handwritten_digits()
paths = np.array(paths)
train = sample_shots(labels, 4, random_state=0)
test = np.setdiff1d(np.arange(len(labels)), train)[:500]

# %%
# Without training, CLIP compares each image with ``"a photo of a zero."``, ``"a photo of a one."``
# and so on. Fitting needs no images for that, only the labels.

zero_shot = CLIPZeroShotClassifier("tiny").fit(None, labels)
print(f"CLIP as it is:       {zero_shot.score(paths[test], labels[test]):.1%}")

# %%
# Now tune the singular values on the 40 images. Digits must not be mirrored: ``augment=False``.

clf = CLIPSVDClassifier("tiny", augment=False, random_state=0)
clf.fit(paths[train], labels[train])
print(f"four images a class: {clf.score(paths[test], labels[test]):.1%}")
print(f"tuned {clf.n_parameters_tuned_:,} of {clf.n_parameters_:,} numbers")

# %%
# The fitted classifier can be saved like any other. The file is small, because the frozen model is
# not in it.

file = Path(tempfile.mkdtemp()) / "digits.joblib"
joblib.dump(clf, file)
print(f"{file.stat().st_size / 1024:.0f} KiB")
same = joblib.load(file)
assert (same.predict(paths[test]) == clf.predict(paths[test])).all()

# %%
# Here are its mistakes, the most confident ones first.

PredictionSheetDisplay.from_estimator(clf, paths[test], labels[test], order="errors", n_images=12)
plt.show()
