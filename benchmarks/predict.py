"""Images per second of `predict`, from JPEG files: ours, plain open_clip, the published model.

Random weights of ViT-B/16. All three classify the same files in the same batches with the same
threads, in turn, in one process. Plain open_clip is the loop of its README: open, preprocess,
stack, encode, compare with the class texts. The published model is the same loop around factored
layers. Every repetition reads files that nobody has read before, because ours remembers images.
Rates and ratios are medians over the repetitions; a ratio is taken within one.

What the count allows against the published model is about 1.4: a merged block costs 12 T d^2
multiply-adds, a factored one 18, so the products of weights are 1.5 times as cheap; attention,
activations and decoding, about a sixth of the time, cost both the same.

`--phases` tells instead where the time of our own `predict` goes, on several models and sizes of
file. Opening and decoding run in as many threads as torch computes with, and so do resizing and
cropping: the time that they take together is split in proportion to the time of their threads.
Beside it stands what is gained if the next batch is decoded while the tower computes, which is what
`predict` does where a GPU computes; both ways predict in turn, with the same number of threads.
"""

import argparse
import contextlib
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from open_clip import IMAGENET_CLASSNAMES
from open_clip.transform import image_transform_v2
from PIL import Image
from torch.nn import functional as F

from skclipsvd import CLIPSVDClassifier
from skclipsvd.adaptation import find_targets
from skclipsvd.adaptation.factors import decompose
from skclipsvd.clip import autocast, choose_device, choose_dtype, embedding, load_backbone
from skclipsvd.images import decoding

from ._report import quiet_random_weights, table, write
from .published import factored
from .step import photographs, timed

N_CLASSES = 10
# Of a photograph in a data set, and of a telephone's camera.
SIZES = {"500 x 375": (500, 375), "4000 x 3000": (4000, 3000)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--phases", nargs="+", metavar="MODEL", help="where the time goes")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--name", default="predict", help="of the JSON file with the results")
    options = parser.parse_args()
    device = choose_device("auto")
    dtype = choose_dtype(options.precision, device)
    if options.phases:
        return phases(options)
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


def phases(options):
    """Tell where the time of `predict` goes."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, quiet_random_weights():
        for name, size in SIZES.items():
            files = photographs(Path(folder), 8, size)
            for model in options.phases:
                row = phases_of(model, files, options)
                rows.append({"model": Path(model).name, "files": name, **row})
                print(rows[-1], flush=True)
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    chosen = dict(batch=options.batch, images=options.images, repeats=options.repeats)
    write(f"{options.name}-phases", {**chosen, "precision": options.precision}, rows)


PHASES = ("open and decode", "resize and crop", "stack", "normalise", "tower")


def phases_of(model, files, options):
    labels = np.array(IMAGENET_CLASSNAMES[: len(files)])
    clf = CLIPSVDClassifier(model, None, max_steps=0, augment=False, precision=options.precision)
    clf.set_params(batch_size=options.batch).fit(files, labels)
    spent, in_turn, ahead = [], [], []
    for repeat in range(options.repeats + 1):
        for side in (in_turn, ahead) if repeat % 2 else (ahead, in_turn):
            with tempfile.TemporaryDirectory(dir=files[0].parent) as folder:
                new = linked(files, Path(folder), options.images)
                with one_ahead() if side is ahead else timed_phases() as seconds:
                    start = time.perf_counter()
                    clf.predict(new)
                    side.append(time.perf_counter() - start)
            if side is in_turn:
                spent.append(shares(seconds, side[-1]))
    # The first round warms up.
    whole = float(np.median(in_turn[1:]))
    ratio = float(np.median(np.divide(in_turn, ahead)[1:]))
    median = {name: np.median([s[name] for s in spent[1:]]) for name in (*PHASES, "all else")}
    return {
        "ms per image": round(1000 * whole / options.images, 2),
        **{f"{name}, %": round(float(100 * share), 1) for name, share in median.items()},
        "in turn / one batch ahead": round(ratio, 3),
    }


def linked(files, folder, n):
    """Give files new names, and times of their own: nobody has read these yet."""
    new = [folder / f"{i}.jpg" for i in range(n)]
    for i, path in enumerate(new):
        os.link(files[i % len(files)], path)
    return new


@contextlib.contextmanager
def one_ahead():
    """Decode the next batch while this one is computed, as where a GPU computes."""

    def iterate(*args, device):
        return decoding.iterate(*args, device=torch.device("meta"))

    with mock.patch.object(embedding, "iterate", iterate):
        yield


@contextlib.contextmanager
def timed_phases():
    """Yield the seconds of each phase; those of threads are added up."""
    seconds = defaultdict(float)

    def watch(owner, name, phase):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                seconds[phase] += time.perf_counter() - start

        return mock.patch.object(owner, name, call)

    def view_transform(preprocess):
        transform = original_transform(preprocess)

        def apply(image):
            start = time.perf_counter()
            view = transform(image)
            seconds["resize and crop"] += time.perf_counter() - start
            return view

        return apply

    original_transform = decoding.view_transform
    with (
        watch(decoding, "decode_all", "decode and resize"),
        watch(decoding, "open_rgb", "open and decode"),
        mock.patch.object(decoding, "view_transform", view_transform),
        watch(decoding, "stack_views", "stack"),
        watch(embedding, "normalise", "normalise"),
        watch(embedding, "unit_image_features", "tower"),
    ):
        yield seconds


def shares(seconds, whole):
    """Turn seconds into shares of the whole, and those of threads into shares of their wall."""
    of_threads = seconds["open and decode"] + seconds["resize and crop"]
    wall = {name: seconds[name] for name in ("stack", "normalise", "tower")}
    for name in ("open and decode", "resize and crop"):
        wall[name] = seconds["decode and resize"] * seconds[name] / of_threads
    wall["all else"] = whole - sum(wall.values())
    return {name: value / whole for name, value in wall.items()}


if __name__ == "__main__":
    main()
