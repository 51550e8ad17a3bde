"""One training step of ViT-B/16: the published procedure against ours, in turn, in one process.

Same random weights, decompositions, image files, batch, precision and threads; class names are
ImageNet's. A step starts at image files (which ours has decoded once) and ends with new singular
values. The arithmetic of ours is counted by torch's flop counter, attention by formula, and
compared with what this machine's own matrix product reaches in the same run.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from open_clip import IMAGENET_CLASSNAMES
from PIL import Image
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from skclipsvd.adaptation import SpectralAdaptation, find_targets, install
from skclipsvd.adaptation.factors import decompose
from skclipsvd.backbone import build_structure, load_backbone
from skclipsvd.images import augment, decode_all
from skclipsvd.inference import choose_device, choose_dtype
from skclipsvd.prompts import build_prompts
from skclipsvd.training import Recipe, Task, _Encoders

from ._report import quiet_random_weights, table, write
from .published import PublishedTraining

LR, TEMPLATE = 5e-4, "a photo of a {}."


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 300])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rates", action="store_true", help="matrix products alone")
    parser.add_argument("--name", default="step", help="of the JSON file with the results")
    options = parser.parse_args()
    device = choose_device("auto")
    dtype = choose_dtype(options.precision, device)
    if options.rates:
        return rates(options, device, dtype)
    with quiet_random_weights():
        backbone = load_backbone(options.model, None, device)
    factors = decompose(backbone, find_targets(backbone.model))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), 4 * options.batch)
        for n_classes in options.classes:
            row = compare(backbone, factors, paths, n_classes, options, dtype)
            rows.append({"classes": n_classes, **row})
            print(rows[-1], flush=True)
    header = list(rows[0])
    print(table(header, [[row[name] for name in header] for row in rows]))
    chosen = dict(model=options.model, batch=options.batch, precision=str(dtype), lr=LR)
    write(options.name, {**chosen, "repeats": options.repeats}, rows)


def compare(backbone, factors, paths, n_classes, options, dtype):
    names = IMAGENET_CLASSNAMES[:n_classes]
    labels = np.arange(len(paths)) % n_classes
    published = PublishedTraining(
        backbone, factors, [TEMPLATE.format(name) for name in names], LR, dtype
    )
    ours = OurTraining(backbone, factors, paths, labels, names, options.batch, dtype)
    rng = np.random.RandomState(0)
    seconds = {published: [], ours: []}
    for repeat in range(options.repeats + 1):
        chosen = rng.choice(len(paths), options.batch, replace=False)
        for side in seconds if repeat % 2 else reversed(seconds):
            elapsed = side_step(side, chosen, paths, labels, backbone.device)
            if repeat:  # the first one warms up
                seconds[side].append(elapsed)
    theirs, own = (statistics.median(times) for times in seconds.values())
    flops, rate = ours.flops(chosen), matrix_product_rate(backbone.device, dtype)
    return {
        "published, s": round(theirs, 3),
        "ours, s": round(own, 3),
        "published / ours": round(theirs / own, 2),
        "ours, GFLOP": round(flops / 1e9, 1),
        "matrix product, GFLOP/s": round(rate / 1e9, 1),
        "ours / matrix product": round(flops / own / rate, 3),
    }


def rates(options, device, dtype):
    """Measure what the machine's matrix product reaches at the shapes of an image block."""
    visual = build_structure(options.model).visual
    n_tokens = options.batch * len(visual.positional_embedding)
    width = visual.transformer.width
    shapes = {
        "large and square": (2048, 2048, 2048),
        "attention, and one side of an MLP's factors": (n_tokens, width, width),
        "the other side": (n_tokens, width, 4 * width),
    }
    rows = [
        {
            "product": name,
            "rows, in, out": " x ".join(map(str, shape)),
            "GFLOP/s": round(matrix_product_rate(device, dtype, [shape]) / 1e9, 1),
        }
        for name, shape in shapes.items()
    ]
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    chosen = dict(model=options.model, batch=options.batch, precision=str(dtype))
    write("step-rates", chosen, rows, "--rates")


def side_step(side, chosen, paths, labels, device):
    synchronise(device)
    start = time.perf_counter()
    if isinstance(side, OurTraining):
        side.step(chosen)
    else:
        side.step([paths[i] for i in chosen], torch.from_numpy(labels[chosen]).to(device))
    synchronise(device)
    return time.perf_counter() - start


class OurTraining:
    """The package's own step, taken out of its loop."""

    def __init__(self, backbone, factors, paths, labels, names, batch, dtype):
        targets = find_targets(backbone.model)
        adaptation = SpectralAdaptation(targets, factors)
        decoded = decode_all(list(map(str, paths)), backbone.preprocess, 2)
        rng = np.random.RandomState(0)
        prompts = build_prompts([[name] for name in names], TEMPLATE, backbone.tokenize)
        task = Task(
            backbone=backbone,
            prompts=prompts.to(backbone.device),
            logit_scale=backbone.logit_scale,
            pixels=lambda rows: augment(
                [decoded[i] for i in rows], backbone.preprocess, rng, backbone.device
            ),
            fixed_pixels=False,
            labels=labels,
        )
        recipe = Recipe(
            n_steps=1, batch_size=batch, micro_batch_size=batch, lr=LR, weight_decay=0.01,
            label_smoothing=0.0, dtype=dtype, checkpointing=False, verbose=False,
        )  # fmt: skip
        model = install(backbone.skeleton(), adaptation)
        self.encoders = _Encoders(model, task, adaptation, recipe)
        self.optimiser = torch.optim.AdamW(
            adaptation.parameters(), lr=LR, weight_decay=0.01, fused=True
        )
        self.scaler = torch.amp.GradScaler(backbone.device.type, enabled=dtype is torch.float16)

    def step(self, chosen):
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.encoders.backward(chosen, self.scaler)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss.item()

    def flops(self, chosen):
        with FlopCounterMode(display=False) as counter:
            self.step(chosen)
        return counter.get_total_flops()


def matrix_product_rate(device, dtype, shapes=((2048, 2048, 2048),)):
    """Floating-point operations per second of ``x @ w.T``: the best of many rounds of `shapes`."""
    pairs = [
        (
            torch.randn(rows, n_in, device=device, dtype=dtype),
            torch.randn(n_out, n_in, device=device, dtype=dtype),
        )
        for rows, n_in, n_out in shapes
    ]
    best = float("inf")
    for _ in range(20):
        synchronise(device)
        start = time.perf_counter()
        for x, w in pairs:
            F.linear(x, w)
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return sum(2 * rows * n_in * n_out for rows, n_in, n_out in shapes) / best


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def photographs(folder, n, size=(500, 375)):
    """Write JPEG files of a photograph's size and smoothness."""
    rng = np.random.RandomState(0)
    paths = []
    for i in range(n):
        coarse = Image.fromarray(rng.randint(0, 256, (24, 32, 3), dtype=np.uint8))
        fine = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(fine + rng.randint(-8, 9, fine.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{i}.jpg")
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return paths


if __name__ == "__main__":
    main()
