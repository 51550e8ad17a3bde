"""
Prompts for a specialist's labels
=================================

Labels of medical images are often codes. CLIP reads them as words, and a code means nothing to it.
Saying what an image of the class *looks like*, and in which words, costs no training.
"""

# %%
# **The images are synthetic.** No medical data comes with this package, and the tiny CLIP knows
# only drawn shapes and textures. So we draw something that it can recognise: patterns in the purple
# and pink of a common stain, named after tissues that they vaguely resemble. The example shows how
# to write and compare prompts. It says nothing about real slides.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.model_selection import sample_shots


def draw(label, rng):
    """Draw one synthetic slide."""
    pink, purple = (245, 170, 200), (120, 50, 150)
    slide = Image.new("RGB", (96, 96), pink)
    pen = ImageDraw.Draw(slide)
    if label == "STR":  # fibres
        slope, gap = rng.choice([-1, 1]) * rng.uniform(0.7, 1.4), rng.uniform(15, 26)
        for start in np.arange(-200, 300, gap):
            pen.line([(0, start), (96, start + 96 * slope)], fill=purple, width=int(gap / 2))
    elif label == "LYM":  # many small round nuclei
        for x in np.arange(rng.uniform(0, 8), 96, 17):
            for y in np.arange(rng.uniform(0, 8), 96, 17):
                dx, dy = rng.uniform(-2, 2, 2)
                pen.ellipse([x + dx - 5, y + dy - 5, x + dx + 5, y + dy + 5], fill=purple)
    elif label == "ADI":  # one large empty cell
        x, y, r = *rng.uniform(40, 56, 2), rng.uniform(24, 36)
        pen.ellipse([x - r, y - r, x + r, y + r], outline=purple, width=9)
    else:  # "TUM": one large nucleus
        x, y, r = *rng.uniform(40, 56, 2), rng.uniform(20, 32)
        pen.ellipse([x - r, y - r * rng.uniform(0.8, 1), x + r, y + r], fill=purple)
    noise = rng.normal(0, 18, (96, 96, 3))
    pixels = np.asarray(slide.filter(ImageFilter.GaussianBlur(1.5)))
    return (pixels + noise).clip(0, 255).astype(np.uint8)


rng = np.random.default_rng(0)
labels = np.repeat(["ADI", "LYM", "STR", "TUM"], 100)
X = np.stack([draw(label, rng) for label in labels])
figure, axes = plt.subplots(1, 4, figsize=(8, 2.4), layout="constrained")
for axis, i in zip(axes, range(0, 400, 100), strict=True):
    axis.imshow(X[i])
    axis.set_title(labels[i])
    axis.axis("off")
plt.show()

# %%
# Three sets of prompts. ``class_names`` maps each label to its words: one text, or a list of them.
# With several texts or templates, the unit vectors of all sentences of a class are averaged.
#
# For a real model you would use the specialist's own words, "adipose tissue" or "lymphocytes", and
# templates of the field, such as ``"a histopathology slide of {}."``. The tiny model knows rings
# and dots.

words = {
    "ADI": "purple ring",
    "LYM": "purple dots",
    "STR": "diagonal stripes",
    "TUM": "purple circle",
}
more_words = {
    "ADI": ["purple ring", "large purple ring", "ring on a pink background"],
    "LYM": ["dots", "dots in purple and pink"],
    "STR": ["diagonal stripes", "diagonal stripes in purple and pink"],
    "TUM": ["purple circle", "large purple circle", "circle on a pink background"],
}
prompts = {
    "the codes": dict(),
    "words": dict(class_names=words),
    "more words, three templates": dict(
        class_names=more_words, templates=["a photo of a {}.", "a picture of {}.", "{}"]
    ),
}

# %%
# Compare the prompts without training, and after training on two slides per class. The slides are
# the same for all prompts.

train = sample_shots(labels, 2, random_state=0)
test = np.setdiff1d(np.arange(len(labels)), train)
rows = []
for name, parameters in prompts.items():
    zero_shot = CLIPZeroShotClassifier("tiny", **parameters).fit(None, labels)
    tuned = CLIPSVDClassifier("tiny", lr=0.05, max_steps=40, random_state=0, **parameters)
    tuned.fit(X[train], labels[train])
    scores = [100 * clf.score(X[test], labels[test]) for clf in (zero_shot, tuned)]
    rows.append((name, *scores))
table = pd.DataFrame(rows, columns=["prompts", "zero-shot, %", "two slides per class, %"])
print(table.round(1).to_string(index=False))

# %%
# With the codes, training on two slides per class makes up for much of what the words lack. With
# good words it adds little, or even does harm: with so few images, check whether training helps at
# all.

# %%
# The confusion matrix shows which words to change. scikit-learn's ``ConfusionMatrixDisplay`` works
# with the classifier as it is.

from sklearn.metrics import ConfusionMatrixDisplay

figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for axis, name in zip(axes, ("the codes", "words"), strict=True):
    clf = CLIPZeroShotClassifier("tiny", **prompts[name]).fit(None, labels)
    ConfusionMatrixDisplay.from_estimator(clf, X[test], labels[test], ax=axis, colorbar=False)
    axis.set_title(f"zero-shot, {name}")
plt.show()

# %%
# Do not choose prompts on the images whose score you report. Compare them in cross-validation, like
# any other parameter: ``GridSearchCV`` can search over ``templates`` and ``class_names``.
#
# The same with a model that was trained on biomedical literature. Its weights are downloaded once,
# and its text tower needs the extra ``skclipsvd[hf]``::
#
#     CLIPSVDClassifier(
#         "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
#         class_names={"ADI": "adipose tissue", "LYM": ["lymphocytes", "lymphoid aggregates"], ...},
#         templates=["a histopathology slide of {}.", "an H&E stained image showing {}."],
#     )
