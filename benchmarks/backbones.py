"""Which backbone: size, published zero-shot accuracy, and what predicting and training take.

Some of open_clip's, each in a process of its own, with random weights: so times and memory are
measured here, accuracies are not. Those are top-1 on ImageNet, as published for the weights of the
tag; "source" says by whom, and what was not found is left blank, licences included. Times are
medians: of predicting 16 photographs, decoding included, and of training steps on eight photographs
of ten classes without augmentation, after the first of each. Processor seconds count both cores and
are the steadier figure where a machine does other work; "load" is how many processes wanted a core
meanwhile. Memory is the peak of the whole process, libraries included.

Every model is written down when it is done, and is not run again on the same machine and versions:
the same command goes on where it was stopped (``--again`` starts anew, ``--models`` chooses, or
none). Rows, or a table, without times were not run, by choice or for the reason in "not run".
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from ._report import RESULTS, machine, quiet_random_weights, write

_OPEN_CLIP = "open_clip, docs/openclip_results.csv"
_CARD = "model card of MobileCLIP"
_CARD_2 = "model card of MobileCLIP2"
# Name, tag, licence of the weights, top-1 accuracy on ImageNet in per cent, and whose figure it is.
BACKBONES = (
    ("MobileCLIP2-S0", "dfndr2b", "apple-amlr", 71.5, _CARD_2),
    ("PE-Core-T-16-384", "meta", None, None, None),
    ("MobileCLIP-S1", "datacompdr", "apple-ascl", 72.6, _CARD),
    ("MobileCLIP2-S2", "dfndr2b", "apple-amlr", 77.2, _CARD_2),
    ("MobileCLIP-S2", "datacompdr", "apple-ascl", 74.4, _CARD),
    ("PE-Core-S-16-384", "meta", None, None, None),
    ("RN50", "openai", None, 59.82, _OPEN_CLIP),
    ("RN101", "openai", None, 62.28, _OPEN_CLIP),
    ("ViT-B-32", "openai", None, 63.32, _OPEN_CLIP),
    ("ViT-B-32-256", "datacomp_s34b_b86k", None, 72.81, _OPEN_CLIP),
    ("ViT-B-16", "openai", None, 68.34, _OPEN_CLIP),
    ("MobileCLIP2-B", "dfndr2b", "apple-amlr", None, None),
    ("MobileCLIP-B", "datacompdr", "apple-ascl", 76.8, _CARD),
    ("convnext_base", "laion400m_s13b_b51k", None, 66.27, _OPEN_CLIP),
    ("convnext_base_w", "laion2b_s13b_b82k_augreg", None, 71.47, _OPEN_CLIP),
    ("EVA02-B-16", "merged2b_s8b_b131k", None, 74.72, _OPEN_CLIP),
    ("ViTamin-S", "datacomp1b", None, None, None),
    ("ViTamin-B", "datacomp1b", None, None, None),
    ("ViT-B-16-SigLIP", "webli", None, 76.04, _OPEN_CLIP),
    ("ViT-B-16-plus-240", "laion400m_e32", None, 69.19, _OPEN_CLIP),
    ("ViT-L-14", "openai", None, 75.54, _OPEN_CLIP),
)
N_CLASSES, TRAIN_BATCH, N_PREDICTED = 10, 8, 16
N_TRAIN = 2 * TRAIN_BATCH  # a pass of equal batches, each class at least once
MEASURED = (
    "predict, s per image",
    "predict, processor s per image",
    "training step, s",
    "training step, processor s",
    "peak memory, MB",
    "load",
)


def main():
    names = [name for name, *_ in BACKBONES]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", choices=names, default=names, help="not all of them")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    parser.add_argument("--steps", type=int, default=3, help="training steps that are timed")
    parser.add_argument("--repeats", type=int, default=2, help="predictions that are timed")
    parser.add_argument("--child", choices=names, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.steps, options.repeats)
    logging.disable(logging.WARNING)  # that weights are random
    known = {} if options.again else measured_before()
    sizes = {name: size(name) for name in names}
    write_down(sizes, known)
    for name in options.models:
        if name not in known:
            began = time.perf_counter()
            known[name] = in_process(name, options)
            print(f"{name}: {time.perf_counter() - began:.0f} s, {known[name]}", flush=True)
            write_down(sizes, known)


def write_down(sizes, known):
    """Write the whole table, with what is measured by now."""
    rows = []
    for name, tag, licence, accuracy, source in BACKBONES:
        row = {"model": name, "tag": tag, **sizes[name]}
        row.update({"licence": licence, "ImageNet, %": accuracy, "source": source})
        rows.append({**row, **known.get(name, {})})
    if known:  # one table, with gaps
        rows = [{**dict.fromkeys([*rows[0], *MEASURED, "not run"]), **row} for row in rows]
    settings = dict(weights="random", precision="float32", classes=N_CLASSES, batch=TRAIN_BATCH)
    n_measured = sum("not run" not in numbers for numbers in known.values())
    write("backbones", {**settings, "measured": n_measured, "of": len(rows)}, rows)


def measured_before():
    """Return what this machine, with these versions, has measured of each model before."""
    file = RESULTS / "backbones.json"
    report = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": []}
    known = {
        row["model"]: {name: row[name] for name in MEASURED}
        for row in report["rows"]
        if row.get(MEASURED[0]) is not None
    }
    if known and report["machine"] != machine():
        raise SystemExit(f"{file} is of another machine or other versions; --again starts anew.")
    return known


def size(name):
    """Count parameters, of shapes without numbers; and how much they are to fetch in float32."""
    import open_clip
    import torch

    with torch.device("meta"):
        model = open_clip.create_model(name, pretrained=None, pretrained_hf=False, device="meta")
    n_parameters = sum(p.numel() for p in model.parameters())
    return {
        "parameters, millions": round(n_parameters / 1e6, 1),
        "weights in float32, MB": round(4 * n_parameters / 1e6),
    }


def in_process(name, options):
    """Measure one model in a fresh process; say why where that cannot be done."""
    command = [sys.executable, "-m", "benchmarks.backbones", "--child", name]
    command += ["--steps", str(options.steps), "--repeats", str(options.repeats)]
    with tempfile.TemporaryDirectory() as cache:  # decompositions of large models fill a disk
        environment = {**os.environ, "SKCLIPSVD_CACHE": cache, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"not run": done.stderr.strip().splitlines()[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def child(name, n_steps, n_repeats):
    from open_clip import IMAGENET_CLASSNAMES

    from skclipsvd import CLIPSVDClassifier, training

    from .step import photographs

    starts = []
    original = training.Encoders.backward

    def backward(*args, **kwargs):
        starts.append((time.perf_counter(), time.process_time()))
        return original(*args, **kwargs)

    training.Encoders.backward = backward
    warnings.simplefilter("ignore")  # random weights learn nothing in so few steps
    with tempfile.TemporaryDirectory() as folder, quiet_random_weights():
        paths = photographs(Path(folder), N_TRAIN + (n_repeats + 1) * N_PREDICTED)
        labels = np.take(IMAGENET_CLASSNAMES, np.arange(N_TRAIN) % N_CLASSES)
        clf = CLIPSVDClassifier(
            name, None, augment=False, batch_size=TRAIN_BATCH, max_steps=n_steps + 2, lr=1e-3,
            precision="fp32", device="cpu", random_state=0,
        )  # fmt: skip
        clf.fit(paths[:N_TRAIN], labels)
        clf.set_params(batch_size=N_PREDICTED)
        answers = []
        for start in range(N_TRAIN, len(paths), N_PREDICTED):  # files that nobody has read yet
            before = time.perf_counter(), time.process_time()
            clf.predict(paths[start : start + N_PREDICTED])
            answers.append((time.perf_counter() - before[0], time.process_time() - before[1]))
    # The first of each warms up.
    predict = np.median(answers[1:], axis=0) / N_PREDICTED
    step = np.median(np.diff(starts, axis=0)[1:], axis=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    numbers = (*np.round(predict, 4), *np.round(step, 3), round(peak), round(os.getloadavg()[0], 1))
    print(json.dumps(dict(zip(MEASURED, map(float, numbers), strict=True))))


if __name__ == "__main__":
    main()
