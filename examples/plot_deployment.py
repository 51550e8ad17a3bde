"""
Deployment as plain open_clip
=============================

Merge the tuned singular values into the weights, and predict with open_clip and torch only. The
deployed model is as fast as plain CLIP and does not need this package.
"""

# %%
# Train as usual.

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from safetensors.torch import save_file

import skclipsvd
from skclipsvd import CLIPSVDClassifier
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.model_selection import sample_shots

paths, labels = load_handwritten_digits()
paths = np.array(paths)
train = sample_shots(labels, 8, random_state=0)
test = np.setdiff1d(np.arange(len(labels)), train)[:200]
clf = CLIPSVDClassifier("tiny", lr=0.01, max_steps=40, augment=False, random_state=0)
clf.fit(paths[train], labels[train])

# %%
# Write the files that open_clip reads: the weights, and the configuration of the architecture.
# ``"tiny"`` comes with its own; the configuration of a published model is ``{"model_cfg":
# open_clip.get_model_config("ViT-B-16"), "preprocess_cfg": ...}``, or simply its name: see below.
# The class texts are already encoded, so write their vectors, too.

folder = Path(tempfile.mkdtemp()) / "digits"
folder.mkdir()
save_file(clf.merged_state_dict(), folder / "open_clip_model.safetensors")
config = Path(skclipsvd.__file__).parent / "models" / "tiny.json"
(folder / "open_clip_config.json").write_bytes(config.read_bytes())
np.save(folder / "class_vectors.npy", clf.logit_scale_ * clf.text_features_)
(folder / "classes.json").write_text(json.dumps(clf.classes_.tolist()))
for file in sorted(folder.iterdir()):
    print(f"{file.name}: {file.stat().st_size / 1024:,.1f} KiB")

# %%
# From here on, nothing of this package is used.

import open_clip
import torch

model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
model.eval()
class_vectors = torch.from_numpy(np.load(folder / "class_vectors.npy"))
classes = np.array(json.loads((folder / "classes.json").read_text()))


@torch.inference_mode()
def predict_proba(images):
    """Embed PIL images, compare with the class vectors."""
    batch = torch.stack([preprocess(image) for image in images])
    features = torch.nn.functional.normalize(model.encode_image(batch), dim=-1)
    return (features @ class_vectors.T).softmax(dim=-1).numpy()


deployed = predict_proba([Image.open(path).convert("RGB") for path in paths[test]])
print(f"accuracy: {np.mean(classes[deployed.argmax(axis=1)] == labels[test]):.1%}")

# %%
# Both give the same probabilities, except for rounding: sums are computed in a different order.

ours = clf.predict_proba(paths[test])
difference = np.abs(deployed - ours).max()
print(f"largest difference of a probability: {difference:.1e}")
assert difference < 1e-4

figure, axis = plt.subplots(figsize=(4.4, 4), layout="constrained")
axis.plot([0, 1], [0, 1], color="tab:gray", linewidth=1)
axis.plot(ours.ravel(), deployed.ravel(), ".", alpha=0.5)
axis.set(xlabel="probability, skclipsvd", ylabel="probability, plain open_clip")
plt.show()

# %%
# For a published architecture you do not need the folder, only the weights:
# ``open_clip.create_model_and_transforms("ViT-B-16", pretrained="weights.safetensors")``. For
# OpenAI's weights add ``force_quick_gelu=True``: they need that activation, and open_clip's
# configuration named ``ViT-B-16`` has a different one.
#
# The text tower is needed only for new class texts. To leave it out, keep only ``model.visual``.
