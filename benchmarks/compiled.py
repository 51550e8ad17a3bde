"""The image tower compiled by torch: what it costs to start, and after how many images it pays.

The merged tower, as `predict` runs it, against the same tower compiled by `torch.compile` (by
inductor, which needs a C++ compiler), compiled with frozen weights ("freezing": inductor then folds
constants and packs weights for oneDNN), and traced, frozen and optimised by `torch.jit` (the older
way to oneDNN, which torch has deprecated). Every form is a process of its own. "First" has an empty
cache of compiled kernels, "later" what the first process left there. What it costs to start is
everything up to the end of the third call, less three calls of the tower as it is. Eight images are
passed at once; times are medians, the two forms in turn. Weights are random but for those of a
folder.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from skclipsvd import CLIPZeroShotClassifier
from skclipsvd.classifiers import frozen_and_adapted
from skclipsvd.images import size_of

from ._report import quiet_random_weights, table, write

FREEZING = "torch.compile-freezing"
FORMS = ("torch.compile", FREEZING, "torch.jit")
_FIRST_CALLS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["ViT-B-16", "MobileCLIP2-S0"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    rows = []
    for model in options.models:
        for form in options.forms:
            with tempfile.TemporaryDirectory() as cache:
                for process in ("first", "later") if "compile" in form else ("first",):
                    row = run(model, form, cache, options)
                    rows.append(dict(model=Path(model).name, form=form, process=process, **row))
                    print(rows[-1], flush=True)
    print(table(list(rows[0]), [row.values() for row in rows]))
    write("compiled", dict(batch=options.batch, repeats=options.repeats), rows)


def run(model, form, cache, options):
    command = [sys.executable, "-m", "benchmarks.compiled", "--child", form, "--models", model]
    command += ["--batch", options.batch, "--repeats", options.repeats]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
    if form == FREEZING:
        environment["TORCHINDUCTOR_FREEZING"] = "1"
    done = subprocess.run(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@torch.inference_mode()
def child(options):
    (model,) = options.models
    with quiet_random_weights():
        clf = CLIPZeroShotClassifier(model, None, device="cpu").fit(None, ["a", "b"])
        backbone, merged = frozen_and_adapted(clf)
    tower = backbone.to_predict(merged).visual
    # What `predict` passes through at once; it asks for whole multiples of eight images.
    n = backbone.plan.n_at_once or options.batch
    pixels = torch.randn(n, 3, *size_of(backbone.preprocess))
    for _ in range(_FIRST_CALLS):
        tower(pixels)
    began = time.perf_counter()
    form = compiled(options.child, tower, pixels)
    for _ in range(_FIRST_CALLS):
        found = form(pixels)
    began_until = time.perf_counter() - began
    as_it_is, changed = [], []
    for _ in range(options.repeats):
        for call, seconds in ((tower, as_it_is), (form, changed)):
            start = time.perf_counter()
            for _ in range(options.batch // n):
                call(pixels)
            seconds.append((time.perf_counter() - start) / (options.batch // n * n))
    before, after = np.median(as_it_is), np.median(changed)
    start_up = began_until - _FIRST_CALLS * n * before
    expected = tower(pixels)
    row = {
        "start-up, s": round(start_up, 1),
        "as it is, ms per image": round(1000 * before, 2),
        "compiled, ms per image": round(1000 * after, 2),
        "times as fast": round(float(np.median(np.divide(as_it_is, changed))), 2),
        "pays after images": round(start_up / (before - after)) if after < before else None,
        "largest relative difference": float(((found - expected).norm() / expected.norm()).item()),
    }
    print(json.dumps(row))


def compiled(form, tower, pixels):
    if form != "torch.jit":
        return torch.compile(tower)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of it is deprecated
        traced = torch.jit.trace(tower, pixels)
        return torch.jit.optimize_for_inference(torch.jit.freeze(traced.eval()))


if __name__ == "__main__":
    main()
