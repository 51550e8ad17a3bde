"""
Your own photographs, from start to finish
==========================================

A folder of photographs becomes a saved classifier, with a confusion matrix and a CSV file of
predictions on the way.
"""

# %%
# What you have
# -------------
# One folder per class, named after what the images show. Here the images are cut from the two
# photographs that come with scikit-learn [1]_; if you have a folder of your own, skip this step.
# Parts of one photograph are alike, so do not read anything into the scores on this page.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.metrics import classification_report
from sklearn.model_selection import train_test_split

from skclipsvd import (
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    load_adapter,
    prediction_table,
)
from skclipsvd.datasets import list_images, load_folder
from skclipsvd.inspection import ConfusionDisplay, PredictionSheetDisplay

folder = Path(tempfile.mkdtemp()) / "photos"
regions = {  # where in which photograph: left, top, right, bottom
    "temple": ("china.jpg", (70, 30, 350, 360)),
    "tree": ("china.jpg", (340, 260, 640, 427)),
    "lake": ("china.jpg", (340, 170, 570, 300)),
    "flower": ("flower.jpg", (150, 80, 450, 360)),
    "leaf": ("flower.jpg", (0, 0, 180, 427)),
}
rng = np.random.default_rng(0)
for name, (photograph, (left, top, right, bottom)) in regions.items():
    (folder / name).mkdir(parents=True)
    picture = Image.fromarray(load_sample_image(photograph))
    for i in range(24):
        side = rng.integers(90, 130)
        x, y = rng.integers(left, right - side), rng.integers(top, bottom - side)
        picture.crop((x, y, x + side, y + side)).save(folder / name / f"{i:02d}.jpg", quality=92)

# %%
# Read the folder, and set some images aside to test on
# ------------------------------------------------------

paths, labels = load_folder(folder, return_X_y=True)
train_paths, test_paths, train_labels, test_labels = train_test_split(
    paths, labels, train_size=8 * len(regions), stratify=labels, random_state=0
)
print(f"{len(train_paths)} images to learn from, {len(test_paths)} to test on")

# %%
# Ask CLIP without any training
# -----------------------------
# CLIP reads the names of the folders, in the sentence ``"a photo of a {}."``. The tiny model knows
# drawings only, and guesses here; for photographs leave ``"tiny"`` out, here and below.

zero_shot = CLIPZeroShotClassifier("tiny").fit(None, labels)
print(f"CLIP as it is:  {zero_shot.score(test_paths, test_labels):.0%}")

# %%
# Fit
# ---

clf = CLIPSVDClassifier("tiny", random_state=0)
clf.fit(train_paths, train_labels)
predicted = clf.predict(test_paths)
print(f"eight images a class:  {np.mean(predicted == test_labels):.0%}")

# %%
# Which classes are confused
# --------------------------
# Rows are true classes, columns predicted ones.

ConfusionDisplay.from_predictions(test_labels, predicted)
plt.show()

# %%
print(classification_report(test_labels, predicted, zero_division=0))

# %%
# The most confident mistakes come first. They often show wrong labels.

PredictionSheetDisplay.from_estimator(clf, test_paths, test_labels, order="errors", n_images=12)
plt.show()

# %%
# Save, load, and write a table of predictions
# --------------------------------------------
# The file contains what was learnt, and no code. The model itself is not in it.

file = folder.parent / "kinds.safetensors"
clf.save_adapter(file)
print(f"{file.stat().st_size / 1024:.0f} KiB")

again = load_adapter(file)
new = list_images(folder / "temple")[:5]  # any folder, labelled or not
table = prediction_table(again, new, top_k=2, on_error="report")
table.to_csv(folder.parent / "predictions.csv", index=False)
print(table.drop(columns="path").round(2))

# %%
# References
# ----------
# .. [1] ``china.jpg`` by danielbuechele and ``flower.jpg`` by vultilion, from Flickr, both under
#    `CC BY 2.0 <https://creativecommons.org/licenses/by/2.0/>`_; cut here.
