"""One training step of ViT-B/16: the published procedure against ours, in turn, in one process.

Same random weights, decompositions, image files, batch, precision and threads; class names are
ImageNet's. A step starts at image files (which ours has decoded once) and ends with new singular
values. The arithmetic of ours is counted by torch's flop counter (matrix products, convolutions and
attention; nothing else) and compared, step by step, with what this machine's own product of large
square matrices reached in the seconds before and after that step: a shared processor's speed drifts
by a fifth within minutes. Times and ratios are medians over the repetitions.

`--profile` tells where the time of our step goes, by torch's profiler; `--rates` measures the
product alone, at the shapes of an image block.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from open_clip import IMAGENET_CLASSNAMES
from PIL import Image
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from skclipsvd.adaptation import SpectralAdaptation, find_targets, install
from skclipsvd.adaptation.factors import decompose
from skclipsvd.clip import (
    build_prompts,
    build_structure,
    choose_device,
    choose_dtype,
    load_backbone,
)
from skclipsvd.images import augment, decode_all, stack_views
from skclipsvd.training import Encoders, Recipe, Task

from ._report import quiet_random_weights, table, write
from .published import PublishedTraining

LR, TEMPLATE = 5e-4, "a photo of a {}."


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 300])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="at least")
    parser.add_argument("--seconds", type=float, default=180, help="repeat for so long, per row")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rates", action="store_true", help="matrix products alone")
    parser.add_argument("--profile", action="store_true", help="where the time of our step goes")
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
        if options.profile:
            return profiles(backbone, factors, paths, options, dtype)
        for n_classes in options.classes:
            row = compare(backbone, factors, paths, n_classes, options, dtype)
            rows.append({"classes": n_classes, **row})
            print(rows[-1], flush=True)
    header = list(rows[0])
    print(table(header, [[row[name] for name in header] for row in rows]))
    chosen = dict(model=options.model, batch=options.batch, precision=str(dtype), lr=LR)
    write(options.name, chosen, rows)


def compare(backbone, factors, paths, n_classes, options, dtype):
    names = IMAGENET_CLASSNAMES[:n_classes]
    labels = np.arange(len(paths)) % n_classes
    device = backbone.device
    published = PublishedTraining(
        backbone, factors, [TEMPLATE.format(name) for name in names], LR, dtype
    )
    ours = OurTraining(backbone, factors, paths, labels, names, options.batch, dtype)
    rng = np.random.RandomState(0)
    theirs, own, rates = [], [], []
    end = time.monotonic() + options.seconds
    for repeat in itertools.count():
        if repeat > options.repeats and time.monotonic() > end:
            break
        chosen = rng.choice(len(paths), options.batch, replace=False)
        files, targets = [paths[i] for i in chosen], torch.from_numpy(labels[chosen]).to(device)
        if repeat % 2:
            theirs.append(timed(device, lambda: published.step(files, targets)))  # noqa: B023
        before = matrix_product_rate(device, dtype)
        own.append(timed(device, lambda: ours.step(chosen)))  # noqa: B023
        after = matrix_product_rate(device, dtype)
        rates.append(2 / (1 / before + 1 / after))
        if not repeat % 2:
            theirs.append(timed(device, lambda: published.step(files, targets)))  # noqa: B023
    # The first round warms up.
    theirs, own, rates = np.array(theirs[1:]), np.array(own[1:]), np.array(rates[1:])
    flops = ours.flops(chosen)
    return {
        "repetitions": len(own),
        "published, s": round(float(np.median(theirs)), 3),
        "ours, s": round(float(np.median(own)), 3),
        "published / ours": round(float(np.median(theirs / own)), 2),
        "ours, GFLOP": round(flops / 1e9, 1),
        "matrix product, GFLOP/s": round(float(np.median(rates)) / 1e9, 1),
        "ours / matrix product": round(float(np.median(flops / own / rates)), 3),
    }


def profiles(backbone, factors, paths, options, dtype):
    """Tell where the time of our step goes, in shares of the whole by kind of operation."""
    rows = []
    for n_classes in options.classes:
        labels = np.arange(len(paths)) % n_classes
        names = IMAGENET_CLASSNAMES[:n_classes]
        ours = OurTraining(backbone, factors, paths, labels, names, options.batch, dtype)
        chosen = np.arange(options.batch)
        for _ in range(2):
            ours.step(chosen)
        on_gpu = backbone.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
        with profile(activities=activities) as profiler:
            whole = timed(
                backbone.device,
                lambda: [ours.step(chosen) for _ in range(options.repeats)],  # noqa: B023
            )
        spent = dict.fromkeys([*KINDS, OTHER], 0.0)
        for event in profiler.key_averages():
            if event.device_type is DeviceType.CPU:  # on a GPU, kernels are listed once more
                seconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
                spent[kind_of(event.key)] += seconds / 1e6
        spent["Python, and waiting"] = whole - sum(spent.values())
        row = {"classes": n_classes, "ours, s": round(whole / options.repeats, 3)}
        rows.append({**row, **{k: f"{100 * v / whole:.1f} %" for k, v in spent.items()}})
        print(rows[-1], flush=True)
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    chosen = dict(model=options.model, batch=options.batch, precision=str(dtype))
    write(f"{options.name}-profile", {**chosen, "repeats": options.repeats}, rows)


KINDS = {
    "matrix products": ("::mm", "::addmm", "::bmm"),
    "attention": ("scaled_dot_product",),
    "activation function": ("gelu", "sigmoid"),
    "norms": ("layer_norm",),
    "gathering along the prompt tree": ("index_select", "embedding"),
    "images": ("upsample", "convolution", "div_", "sub_"),
}
OTHER = "other, by element"


def kind_of(operation):
    """Name what an operation of torch's belongs to."""
    found = (kind for kind, parts in KINDS.items() if any(part in operation for part in parts))
    return next(found, OTHER)


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
    reached = np.array(
        [
            [matrix_product_rate(device, dtype, shape, seconds=0.5) for shape in shapes.values()]
            for _ in range(options.repeats)
        ]
    )
    rows = [
        {
            "product": name,
            "rows, in, out": " x ".join(map(str, shape)),
            "GFLOP/s": round(float(np.median(rates)) / 1e9, 1),
            "of the large one": round(float(np.median(rates / reached[:, 0])), 3),
        }
        for (name, shape), rates in zip(shapes.items(), reached.T, strict=True)
    ]
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    chosen = dict(model=options.model, batch=options.batch, precision=str(dtype))
    write(f"{options.name}-rates", {**chosen, "repeats": options.repeats}, rows)


def timed(device, call):
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


class OurTraining:
    """The package's own step, taken out of its loop."""

    def __init__(self, backbone, factors, paths, labels, names, batch, dtype):
        targets = find_targets(backbone.model)
        adaptation = SpectralAdaptation(targets, factors)
        decoded = decode_all(list(map(str, paths)), backbone.preprocess, 2, for_crops=True)
        rng = np.random.RandomState(0)
        prompts = build_prompts([[name] for name in names], TEMPLATE, backbone.tokenize)
        views = stack_views(decoded)
        task = Task(
            backbone=backbone,
            prompts=prompts.to(backbone.device),
            logit_scale=backbone.logit_scale,
            pixels=lambda rows: augment(
                [decoded[i] for i in rows], backbone.preprocess, rng, backbone.device
            ),
            views=lambda rows: views[rows],
            fixed_pixels=False,
            labels=labels,
        )
        recipe = Recipe(
            n_steps=1, batch_size=batch, micro_batch_size=batch, lr=LR, weight_decay=0.01,
            label_smoothing=0.0, dtype=dtype, checkpointing=False,
        )  # fmt: skip
        model = install(backbone.skeleton(), adaptation)
        self.encoders = Encoders(model, task, adaptation, recipe)
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
        with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_A_CPU) as counter:
            self.step(chosen)
        return counter.get_total_flops()


# Older versions of torch count attention on a GPU only.
ATTENTION_ON_A_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda y, q, k, v, *_, **__: sdpa_backward_flop_count(y, q, k, v)
    ),
}


def matrix_product_rate(device, dtype, shape=None, seconds=1.0):
    """Floating-point operations per second of ``x @ w.T``, kept up for at least `seconds`.

    `shape` is (rows, in, out): by default a square product large enough for the device.
    """
    rows, n_in, n_out = shape or (3 * [8192 if device.type == "cuda" else 2048])
    x = torch.randn(rows, n_in, device=device, dtype=dtype)
    w = torch.randn(n_out, n_in, device=device, dtype=dtype)
    y = torch.mm(x, w.T)
    n_products, spent = 0, 0.0
    while spent < seconds:
        spent += timed(device, lambda: [torch.mm(x, w.T, out=y) for _ in range(4)])
        n_products += 4
    return n_products * 2 * rows * n_in * n_out / spent


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
