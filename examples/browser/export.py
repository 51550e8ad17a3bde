"""Fit the tiny CLIP to digits, and write what the page beside this file loads."""

import json
from pathlib import Path

from skclipsvd import CLIPSVDClassifier
from skclipsvd.datasets import load_handwritten_digits

here = Path(__file__).parent
paths, labels = load_handwritten_digits()
clf = CLIPSVDClassifier("tiny", lr=0.01, max_steps=40, augment=False, random_state=0)
clf.fit(paths[:200], labels[:200])
clf.export_onnx(here / "digits.onnx")
# onnxruntime-web does not hand on a file's metadata, so the page has them from here.
described = {"classes": clf.classes_.tolist(), "size": clf.backbone_config_["size"]}
(here / "digits.json").write_text(json.dumps(described))
print(f"accuracy: {clf.score(paths[200:600], labels[200:600]):.1%}")
