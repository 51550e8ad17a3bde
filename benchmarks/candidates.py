"""Candidates of a search that differ only in the learning rate: would one pass for all pay?

Such candidates share factors, images and prompts; their singular values could be stacked along a
new first axis and trained in one pass over batched products. The arithmetic stays as much as
before. What one pass would save is what a step costs besides it: Python, and starting operations.

- "our step": one training step, batch 32, ten classes.
- "four times the rows": one of our steps on four times as many images and classes: as many
  operations are started as in one step, on four times the rows. So this is what one pass for four
  candidates costs at least, were batched products as fast as large ones, and four steps divided by
  it is what is gained at most.
- "by hand": the plain model with rebuilt matrices, one candidate at a time and four stacked by
  `torch.func.vmap`, texts padded as open_clip pads them.

For GPUs there is a count and no measurement: how many operations a step starts, and its
arithmetic. With 10 microseconds to start an operation from Python, and the rate that is given, one
step takes the longer of the two times, and four in one pass the longer of starting once and four
times the arithmetic.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from open_clip import IMAGENET_CLASSNAMES
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from skclipsvd.adaptation import find_targets
from skclipsvd.adaptation.factors import decompose
from skclipsvd.clip import build_prompts, load_backbone
from skclipsvd.images import size_of

from ._report import quiet_random_weights, table, write
from .step import TEMPLATE, OurTraining, matrix_product_rate, photographs

N_CLASSES, BATCH, CANDIDATES = 10, 32, 4
LAUNCH = 10e-6
# Operations per second that a step's products may reach, in bfloat16.
GPUS = {"a laptop's GPU, 20 TFLOP/s": 20e12, "a server's GPU, 300 TFLOP/s": 300e12}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", nargs="*", default=["tiny"], help="models to measure")
    parser.add_argument("--counted", nargs="*", default=["tiny", "ViT-B-32", "ViT-B-16"])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, quiet_random_weights():
        paths = photographs(Path(folder), BATCH * CANDIDATES)
        for model in options.measured:
            rows.append({"model": model, **measured(model, paths, options.repeats)})
            print(rows[-1], flush=True)
        for model in options.counted:
            for row in counted(model, paths):
                rows.append({"model": model, **row})
                print(rows[-1], flush=True)
    chosen = dict(classes=N_CLASSES, batch=BATCH, candidates=CANDIDATES, repeats=options.repeats)
    write("candidates", {**chosen, "launch, s": LAUNCH}, rows)
    for kind in {tuple(row) for row in rows}:
        print(table(list(kind), [row.values() for row in rows if tuple(row) == kind]))


def training(model, paths, times=1):
    """Return the package's own step, of a batch and classes so many times as large."""
    backbone = load_backbone(model, None, torch.device("cpu"))
    factors = decompose(backbone, find_targets(backbone.model))
    n_classes, batch = times * N_CLASSES, times * BATCH
    labels = np.arange(batch) % n_classes
    names = IMAGENET_CLASSNAMES[:n_classes]
    ours = OurTraining(backbone, factors, paths[:batch], labels, names, batch, torch.float32)
    return ours, np.arange(batch)


def measured(model, paths, repeats):
    (one, few), (four, many) = training(model, paths), training(model, paths, CANDIDATES)
    alone, stacked = by_hand(model, 1), by_hand(model, CANDIDATES)
    calls = {
        "our step": lambda: one.step(few),
        "four times the rows": lambda: four.step(many),
        "by hand, one": alone,
        "by hand, four stacked": stacked,
    }
    seconds = {name: [] for name in calls}
    rates = []
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
        rates.append(matrix_product_rate(torch.device("cpu"), torch.float32, seconds=0.05))
    times = {name: np.array(values[1:]) for name, values in seconds.items()}  # the first warms up
    arithmetic = one.flops(few) / np.array(rates[1:])
    return {
        **{f"{name}, ms": round(1000 * float(np.median(t)), 1) for name, t in times.items()},
        "our step's arithmetic at the rate of a matrix product, ms": round(
            1000 * float(np.median(arithmetic)), 1
        ),
        "gained at most": ratio(times["our step"], times["four times the rows"]),
        "gained by hand": ratio(times["by hand, one"], times["by hand, four stacked"]),
    }


def ratio(one, four):
    return round(float(np.median(CANDIDATES * one / four)), 2)


def by_hand(model_name, n_candidates):
    """Return one step of so many candidates, of the plain model with rebuilt matrices."""
    backbone = load_backbone(model_name, None, torch.device("cpu"))
    model, targets = backbone.skeleton().train(), find_targets(backbone.model)
    factors = decompose(backbone, targets)
    names = [[name] for name in IMAGENET_CLASSNAMES[:N_CLASSES]]
    tokens = build_prompts(names, TEMPLATE, backbone.tokenize).tokens
    pixels = torch.randn(BATCH, 3, *size_of(backbone.preprocess))
    labels = torch.arange(BATCH) % N_CLASSES
    s = {t.name: factors[t.name].s.repeat(n_candidates, 1).requires_grad_() for t in targets}
    optimiser = torch.optim.AdamW(s.values(), lr=1e-3, fused=True)

    def loss(values):
        weights = {}
        for target in targets:
            u, s0, vh = factors[target.name]
            change = (u * (values[target.name] - s0)) @ vh
            whole = weights.get(target.tensor, model.get_parameter(target.tensor))
            first, last = target.rows
            weights[target.tensor] = whole + F.pad(change, (0, 0, first, len(whole) - last))
        features, texts, *_ = functional_call(model, weights, (pixels, tokens))
        return F.cross_entropy(backbone.logit_scale * features @ texts.T, labels)

    def step():
        optimiser.zero_grad(set_to_none=True)
        if n_candidates == 1:
            loss({name: values[0] for name, values in s.items()}).backward()
        else:
            with sdpa_kernel(SDPBackend.MATH):  # vmap knows no other on a processor
                vmap(loss)(s).sum().backward()
        optimiser.step()

    return step


class Started(TorchDispatchMode):
    """Count operations that start something on a device: not those that only look at memory."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += not (func.is_view or "detach" in func.name() or "empty" in func.name())
        return func(*args, **(kwargs or {}))


def counted(model, paths):
    """Count one step's operations and arithmetic, and what they come to on two kinds of GPU."""
    ours, few = training(model, paths)
    ours.step(few[:1])  # the optimiser's first step starts more
    with Started() as started:
        flops = ours.flops(few)
    for name, rate in GPUS.items():
        starting, arithmetic = started.n * LAUNCH, flops / rate
        one = max(starting, arithmetic)
        yield {
            "counted for": name,
            "operations started": started.n,
            "GFLOP": round(flops / 1e9, 1),
            "starting, ms": round(1000 * starting, 1),
            "arithmetic, ms": round(1000 * arithmetic, 2),
            "four candidates, times as fast": round(
                CANDIDATES * one / max(starting, CANDIDATES * arithmetic), 2
            ),
        }


if __name__ == "__main__":
    main()
