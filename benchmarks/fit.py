"""A whole default fit and prediction: ours against plain open_clip and torch, by phase.

Each is a process of its own, from its start to its last answer: import, weights, set-up,
training, what comes after, and the prediction of image files that nobody has read yet. Ours is
``CLIPSVDClassifier(...).fit(...).predict(...)`` with every default but ``max_steps``, which is what
``epochs="auto"`` comes to at most, so that both take as many steps. The plain one is what somebody
writes who has the paper, open_clip and torch: decompositions, the published layers in place of the
adapted ones, AdamW along a cosine, images opened by Pillow and cropped in every epoch, all prompts
encoded in every step, no caches.

Ours is measured with an empty cache folder ("first") and with what the first process left in it
("later"). Both processes of a pair follow each other and the order alternates; times and ratios are
medians over the pairs. Shares do not add up to 100: the rest is the start and the end of a process.
Larger models get fewer images, as the table says, so that a process stays below ten minutes on two
cores. Processor seconds count all threads, and are the steadier figure where a machine does other
work. Weights are random but for those of a folder.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# Images to train on, and to predict.
SIZES = {
    "tiny": (400, 400),
    "MobileCLIP2-S0": (100, 400),
    "ViT-B-32": (40, 400),
    "ViT-B-16": (10, 100),
}
OF_A_FOLDER = (100, 400)
N_CLASSES, BATCH, TEMPLATE = 10, 32, "a photo of a {}."
PHASES = ("import", "weights", "set-up", "training", "after it", "prediction")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", default=list(SIZES), help="names, or local-dir:FOLDER"
    )
    parser.add_argument("--train", type=int, help="images to train on, instead of the model's own")
    parser.add_argument("--predict", type=int, help="images to predict, likewise")
    parser.add_argument("--repeats", type=int, default=3, help="pairs with a full cache")
    parser.add_argument("--name", default="fit", help="of the JSON file with the results")
    parser.add_argument("--child", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--images", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    from ._report import table, write

    rows, phases = [], []
    for model in options.models:
        for row, parts in measured(model, options):
            rows.append(row)
            phases += parts
            print(row, *parts, sep="\n", flush=True)
    print(table(list(rows[0]), [row.values() for row in rows]))
    settings = dict(classes=N_CLASSES, batch=BATCH, weights="random", precision="auto")
    write(options.name, {**settings, "pairs, later": options.repeats}, rows + phases)


def measured(model, options):
    """Yield a row, and those of its phases, for the first process and for those after it."""
    sizes = SIZES.get(model, OF_A_FOLDER)
    n_train, n_predict = options.train or sizes[0], options.predict or sizes[1]
    with tempfile.TemporaryDirectory() as folder:
        images, cache = Path(folder, "images"), Path(folder, "cache")
        images.mkdir()
        photographs(images, n_train + n_predict)

        def pair(repeat):
            sides = ("plain", "ours") if repeat % 2 else ("ours", "plain")
            return {side: run(side, model, images, cache, n_train, n_predict) for side in sides}

        first = [pair(0)]
        later = [pair(repeat + 1) for repeat in range(options.repeats)]
    for process, pairs in (("first", first), ("later", later)):
        if pairs:
            yield summary(model, process, n_train, n_predict, pairs)


def summary(model, process, n_train, n_predict, pairs):
    def median(side, name):
        return float(np.median([pair[side][name] for pair in pairs]))

    def ratio(name):
        return round(float(np.median([p["plain"][name] / p["ours"][name] for p in pairs])), 2)

    which = {"model": short(model), "process": process}
    row = {
        **which,
        "trained on": n_train,
        "steps": pairs[0]["ours"]["steps"],
        "predicted": n_predict,
        "pairs": len(pairs),
        "plain, s": round(median("plain", "whole"), 1),
        "ours, s": round(median("ours", "whole"), 1),
        "plain / ours": ratio("whole"),
        "plain / ours, processor": ratio("processor"),
    }
    parts = []
    for side in ("ours", "plain"):
        shares = {
            f"{name}, %": round(100 * median(side, name) / median(side, "whole"), 1)
            for name in PHASES
        }
        parts.append({**which, "whose": side, **shares})
    return row, parts


def short(model):
    """Name a model without the folders above it."""
    return Path(model.removeprefix("local-dir:")).name


def run(side, model, images, cache, n_train, n_predict):
    """Run one process; return seconds by phase, of the whole, and of the processor."""
    command = [sys.executable, "-m", "benchmarks.fit", "--child", side, "--models", model]
    command += ["--images", images, "--train", n_train, "--predict", n_predict]
    environment = {**os.environ, "SKCLIPSVD_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    whole = time.perf_counter() - start
    told = json.loads(done.stdout.splitlines()[-1])
    return {**told, "whole": whole - told["not counted"]}


class Marks:
    """How many seconds each phase took."""

    def __init__(self):
        self.seconds, self.last = {}, time.perf_counter()
        self.not_counted = self.not_counted_of_processor = 0.0

    def end(self, phase):
        now = time.perf_counter()
        self.seconds[phase], self.last = now - self.last, now

    def end_of_what_does_not_count(self, processor_before):
        now = time.perf_counter()
        self.not_counted, self.last = now - self.last, now
        self.not_counted_of_processor = time.process_time() - processor_before

    def tell(self, n_steps):
        processor = time.process_time() - self.not_counted_of_processor
        told = {"processor": processor, "not counted": self.not_counted, "steps": n_steps}
        print(json.dumps({**self.seconds, **told}))


def child(options):
    marks = Marks()
    paths = [str(Path(options.images, f"{i}.jpg")) for i in range(options.train + options.predict)]
    labels = [f"kind {i % N_CLASSES}" for i in range(options.train)]
    work = ours if options.child == "ours" else plain
    work(options.models[0], paths[: options.train], labels, paths[options.train :], marks)


def ours(model, paths, labels, new, marks):
    import warnings

    from skclipsvd import CLIPSVDClassifier, training
    from skclipsvd.caching.process import BACKBONES

    marks.end("import")
    warnings.simplefilter("ignore")  # random weights learn nothing
    call_after(
        BACKBONES, "get_or_make", lambda: marks.seconds.get("weights") or marks.end("weights")
    )
    n_steps = 0

    def begins():
        return n_steps or marks.end("set-up")

    def stepped():
        nonlocal n_steps
        n_steps += 1
        if n_steps == clf.max_steps:
            marks.end("training")

    pretrained = "openai" if model == "tiny" else None
    clf = CLIPSVDClassifier(model, pretrained, batch_size=BATCH, random_state=0)
    clf.set_params(max_steps=clf.n_steps_for(len(paths)))
    call_before(training.Encoders, "backward", begins)
    call_after(training.Encoders, "backward", stepped)
    clf.fit(paths, labels)
    marks.end("after it")
    clf.predict(new)
    marks.end("prediction")
    marks.tell(clf.n_iter_)


def call_before(owner, function, hook):
    original = getattr(owner, function)

    def call(*args, **kwargs):
        hook()
        return original(*args, **kwargs)

    setattr(owner, function, call)


def call_after(owner, function, hook):
    original = getattr(owner, function)

    def call(*args, **kwargs):
        result = original(*args, **kwargs)
        hook()
        return result

    setattr(owner, function, call)


def plain(model, paths, labels, new, marks):
    import torch
    from open_clip.transform import image_transform_v2
    from PIL import Image
    from torch.nn import functional as F

    marks.end("import")
    processor_before = time.process_time()
    # What says which matrices, how many steps and what rate; somebody would know them.
    from skclipsvd.adaptation import find_targets
    from skclipsvd.training import automatic_lr, automatic_steps

    from .published import PublishedTraining

    marks.end_of_what_does_not_count(processor_before)
    backbone = plain_backbone(model)
    marks.end("weights")
    tensors = backbone.model.state_dict()
    factors = {}
    for target in find_targets(backbone.model):
        if target.matrix != "conv":
            matrix = tensors[target.tensor].flatten(1)[slice(*target.rows)]
            factors[target.name] = torch.linalg.svd(matrix, full_matrices=False)
    classes = sorted(set(labels))
    n_steps = automatic_steps(len(paths), BATCH)
    lr = automatic_lr(n_steps, len(paths) / len(classes), 1.0)
    sentences = [TEMPLATE.format(name) for name in classes]
    training = PublishedTraining(backbone, factors, sentences, lr)
    targets = torch.tensor([classes.index(label) for label in labels])
    marks.end("set-up")
    rng, step = np.random.RandomState(0), 0
    while step < n_steps:
        order = rng.permutation(len(paths))
        for start in range(0, len(paths), BATCH):
            if step == n_steps:
                break
            cosine = (1 + math.cos(math.pi * step / n_steps)) / 2
            training.optimiser.param_groups[0]["lr"] = lr * cosine
            rows = order[start : start + BATCH]
            training.step([paths[i] for i in rows], targets[rows])
            step += 1
    marks.end("training")
    transform = image_transform_v2(backbone.preprocess, is_train=False)
    with torch.inference_mode():
        text = F.normalize(training.model.encode_text(backbone.tokenize(sentences)), dim=-1)
        marks.end("after it")
        answers = []
        for start in range(0, len(new), BATCH):
            batch = torch.stack([transform(Image.open(p)) for p in new[start : start + BATCH]])
            features = F.normalize(training.model.encode_image(batch), dim=-1)
            answers += (features @ text.T).argmax(dim=1).tolist()
    marks.end("prediction")
    marks.tell(step)


def plain_backbone(name):
    """Load a model as open_clip does; the embedded one, which it does not know, with ours."""
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg

    from skclipsvd.clip import Backbone, load_backbone

    device = torch.device("cpu")
    if name == "tiny":
        return load_backbone(name, None, device)
    model = open_clip.create_model(name, pretrained_text=False).eval().requires_grad_(False)
    preprocess = PreprocessCfg(**model.visual.preprocess_cfg)
    return Backbone(model, open_clip.get_tokenizer(name), preprocess, "", device)


def photographs(folder, n):
    """Write JPEG files in a process of their own: this one imports nothing large."""
    code = "import sys, pathlib; from benchmarks.step import photographs"
    code += "; photographs(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", code, str(folder), str(n)], check=True)


if __name__ == "__main__":
    main()
