"""Images per second of `predict`, from JPEG files: ours, plain open_clip, the published model.

Random weights of ViT-B/16. All three classify the same files in the same batches with the same
threads, in turn, in one process. Plain open_clip is the loop of its README: open, preprocess,
stack, encode, compare with the class texts. The published model is the same loop around factored
layers. Every repetition reads files that nobody has read before, because ours remembers images.
Rates and ratios are medians over the repetitions; a ratio is taken within one.

What the count allows against the published model is about 1.4: a merged block costs 12 T d^2
multiply-adds, a factored one 18, so the products of weights are 1.5 times as cheap; attention,
activations and decoding, about a sixth of the time, cost both the same.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from open_clip import IMAGENET_CLASSNAMES
from open_clip.transform import image_transform_v2
from PIL import Image
from torch.nn import functional as F

from skclipsvd import CLIPSVDClassifier
from skclipsvd.adaptation import find_targets
from skclipsvd.adaptation.factors import decompose
from skclipsvd.clip import autocast, choose_device, choose_dtype, load_backbone

from ._report import quiet_random_weights, table, write
from .published import factored
from .step import photographs, timed

N_CLASSES = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--name", default="predict", help="of the JSON file with the results")
    options = parser.parse_args()
    device = choose_device("auto")
    dtype = choose_dtype(options.precision, device)
    with tempfile.TemporaryDirectory() as folder, quiet_random_weights():
        paths = photographs(Path(folder), options.images * (options.repeats + 1))
        labels = np.array(IMAGENET_CLASSNAMES[:N_CLASSES])
        clf = CLIPSVDClassifier(
            options.model, None, max_steps=1, augment=False, batch_size=options.batch,
            precision=options.precision,
        ).fit(paths[:N_CLASSES], labels)  # fmt: skip
        loops = contestants(clf, options, device, dtype)
        seconds = {name: [] for name in loops}
        for repeat in range(options.repeats + 1):
            own = paths[repeat * options.images :][: options.images]
            for name in loops if repeat % 2 else reversed(loops):
                elapsed = timed(device, lambda: loops[name](own))  # noqa: B023
                if repeat:  # the first one warms up
                    seconds[name].append(elapsed)
    rate = {name: options.images / np.array(times) for name, times in seconds.items()}
    row = {
        "ours, images/s": rate["ours"],
        "plain open_clip, images/s": rate["plain"],
        "published, images/s": rate["published"],
        "ours / plain open_clip": rate["ours"] / rate["plain"],
        "ours / published": rate["ours"] / rate["published"],
    }
    rows = [{name: round(float(np.median(values)), 3) for name, values in row.items()}]
    print(table(list(rows[0]), [list(rows[0].values())]))
    chosen = dict(model=options.model, batch=options.batch, images=options.images)
    write(options.name, {**chosen, "precision": str(dtype), "repeats": options.repeats}, rows)


def contestants(clf, options, device, dtype):
    backbone = load_backbone(options.model, None, device)
    factors = decompose(backbone, find_targets(backbone.model))
    text = torch.from_numpy(clf.text_features_).to(device)
    transform = image_transform_v2(backbone.preprocess, is_train=False)

    @torch.inference_mode()
    def loop(model, paths):
        answers = []
        for start in range(0, len(paths), options.batch):
            batch = [transform(Image.open(p)) for p in paths[start : start + options.batch]]
            with autocast(device, dtype):
                features = F.normalize(model.encode_image(torch.stack(batch).to(device)), dim=-1)
            answers.append((features.float() @ text.T).argmax(dim=1).cpu())
        return clf.classes_[torch.cat(answers).numpy()]

    published = factored(backbone, factors)
    return {
        "ours": clf.predict,
        "plain": lambda paths: loop(backbone.model, paths),
        "published": lambda paths: loop(published, paths),
    }


if __name__ == "__main__":
    main()
