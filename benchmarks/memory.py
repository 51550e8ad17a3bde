"""Memory: (a) of a training step, ours and the published one; (b) of predicting 20,000 images.

(a) Two processes, one with our training step and one with the published one (`published.py`), on
the same random ViT-B/16, images, 100 classes and batch of 8, float32. What counts is the highest
resident memory of the whole process after two steps, weights and libraries included; what the
process had before the first step is given beside it.

(b) One call of `predict` with the tiny model on 20,000 JPEG files: a few hundred distinct
photographs (crops of scikit-learn's two sample images) under 20,000 names, which the package
takes for as many images. Resident memory is read after every batch; what counts is by how much it
grows after the first 2,000 images. Paths and answers are in it. Linux only.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from skclipsvd import CLIPSVDClassifier, cache_info
from skclipsvd.clip import embedding
from skclipsvd.datasets import load_handwritten_digits

from ._report import table, write

N_IMAGES, N_DISTINCT, N_FIRST = 20_000, 300, 2_000
_MB = 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    settings, rows = {}, []
    for part in options.parts:
        used, row = PARTS[part]()
        settings[part], rows = used, [*rows, {"part": part, **row}]
        print(table(list(row), [row.values()]), flush=True)
    write("memory", settings, rows)


# ---- (a) a training step -----------------------------------------------------------------------


def training_step(model="ViT-B-16", n_classes=100, batch=8):
    found = {}
    for side in ("published", "ours"):
        command = [sys.executable, "-m", "benchmarks._step_memory", side, model]
        command += [str(n_classes), str(batch)]
        answer = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        found[side] = json.loads(answer.splitlines()[-1])
    peak = {side: memory["peak"] for side, memory in found.items()}
    own = {side: memory["peak"] - memory["before"] for side, memory in found.items()}
    return dict(model=model, classes=n_classes, batch=batch), {
        "published, peak, MB": round(peak["published"] / _MB),
        "ours, peak, MB": round(peak["ours"] / _MB),
        "ours / published": round(peak["ours"] / peak["published"], 3),
        "published, above what was there before, MB": round(own["published"] / _MB),
        "ours, above what was there before, MB": round(own["ours"] / _MB),
    }


# ---- (b) prediction ----------------------------------------------------------------------------


def prediction():
    paths, labels = load_handwritten_digits()
    clf = CLIPSVDClassifier("tiny", max_steps=1, augment=False).fit(paths[:20], labels[:20])
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder))
        seen = watch_batches(clf.batch_size)
        clf.predict(files)
    first = next(memory for n, memory in seen if n >= N_FIRST)
    later = [memory for n, memory in seen if n >= N_FIRST]
    return dict(model="tiny", images=N_IMAGES, distinct=N_DISTINCT, batch=clf.batch_size), {
        "resident after the first 2,000, MB": round(first / _MB, 1),
        "growth to the highest after that, MB": round((max(later) - first) / _MB, 1),
        "growth to the end, MB": round((later[-1] - first) / _MB, 1),
        "every 2,000 images, MB": [round(m / _MB) for n, m in seen if n % N_FIRST < clf.batch_size],
        "decoded images kept, MB": round(cache_info()["images"]["bytes"] / _MB, 1),
    }


def photographs(folder):
    """Write distinct JPEG files, and link each under many names."""
    rng = np.random.RandomState(0)
    pictures = load_sample_images().images
    files = []
    for i in range(N_IMAGES):
        file = folder / f"{i:05d}.jpg"
        if i < N_DISTINCT:
            top, left = rng.randint(0, 250), rng.randint(0, 400)
            crop = pictures[i % 2][top : top + 160, left : left + 200]
            Image.fromarray(crop).save(file, quality=90)
        else:
            link(files[i % N_DISTINCT], file)
        files.append(str(file))
    return files


def link(old, new):
    try:
        os.link(old, new)
    except OSError:  # a file system without hard links
        shutil.copy(old, new)


def watch_batches(batch_size):
    """Take down (images done, resident bytes) after every batch of a prediction."""
    seen, original = [], embedding.unit_image_features

    def unit_image_features(model, pixels):
        features = original(model, pixels)
        seen.append((batch_size * (len(seen) + 1), resident()))
        return features

    embedding.unit_image_features = unit_image_features
    return seen


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


PARTS = {"training step": training_step, "prediction": prediction}


if __name__ == "__main__":
    main()
