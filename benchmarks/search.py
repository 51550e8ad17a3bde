"""What a grid search costs beside the training and scoring that it cannot do without.

GridSearchCV over two learning rates and two numbers of epochs, three folds and the last fit, on
200 handwritten digits: 13 fits. First on empty caches, then again, with the images decoded and
the model and its decompositions there, but no merged weights; the second is compared with its
bare steps, in two independent ways:

- While the search runs, the time is added up that it spends inside its training steps (forward,
  backward, optimiser), the encoding of class texts and the encoding of the images it scores.
- `Replay` does the same arithmetic without the search: the same training steps on the same
  batches, the class texts once per fit, and the scored images through the merged model, on
  pixels, models and optimisers that lie ready; in turn with the search, in the same process.

Processor time is given beside wall time: on a busy machine it is the steadier of the two.
"""

import argparse
import contextlib
import cProfile
import pstats
import statistics
import time

import numpy as np
import torch
from open_clip import CLIP
from sklearn.model_selection import GridSearchCV

import skclipsvd
from skclipsvd import CLIPSVDClassifier, training
from skclipsvd.adaptation import SpectralAdaptation, install
from skclipsvd.adaptation.factors import decompose
from skclipsvd.caching.process import MERGED
from skclipsvd.clip import embedding
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.model_selection import sample_shots

from ._report import quiet_random_weights, table, write

RATES, EPOCHS, FOLDS, PER_CLASS = (0.005, 0.01), (10, 20), 3, 20


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["tiny"], help="such as tiny ViT-B-32")
    parser.add_argument("--epochs", type=int, nargs=2, default=EPOCHS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="show where the search's time goes")
    parser.add_argument("--name", default="search", help="of the JSON file with the results")
    options = parser.parse_args()
    paths, labels = load_handwritten_digits()
    chosen = sample_shots(labels, PER_CLASS, random_state=0)
    paths, labels = np.array(paths)[chosen], labels[chosen]
    rows = []
    for model_name in options.models:
        with quiet_random_weights():
            rows.append(measure(new_search(model_name, options.epochs), paths, labels, options))
        print(rows[-1], flush=True)
    print(table(list(rows[0]), [row.values() for row in rows]))
    settings = dict(images=len(paths), lr=RATES, epochs=options.epochs, folds=FOLDS, batch=32)
    write(options.name, {**settings, "repeats": options.repeats}, rows)


def new_search(model_name, epochs):
    clf = CLIPSVDClassifier(model_name, None, augment=False, device="cpu", random_state=0)
    return GridSearchCV(
        clf, {"lr": list(RATES), "epochs": list(epochs)}, cv=FOLDS, error_score="raise"
    )


def measure(search, paths, labels, options):
    skclipsvd.clear_caches()
    first = timed(lambda: search.fit(paths, labels))

    def fit():
        MERGED.clear()  # the same search again would find the weights that it has merged before
        search.fit(paths, labels)

    with recorded() as replay:
        fit()
    if options.profile:
        profile(fit)
    searches, bare, inside = [], [], []
    for repeat in range(options.repeats):
        with added_up() as spent:
            whole = timed(fit)
        inside.append(np.divide(spent, whole))
        for side in (searches, bare) if repeat % 2 else (bare, searches):
            side.append(replay.run() if side is bare else timed(fit))
    wall, processor = np.median(searches, axis=0)
    steps, texts, images = np.median([[part[0] for part in run] for run in bare], axis=0)
    ratios = np.divide(searches, np.sum(bare, axis=1))
    row = {
        "model": search.estimator.model_name,
        "fits": len(replay.fits),
        "steps": sum(len(fit.batches) for fit in replay.fits),
        "search on empty caches, s": round(first[0], 2),
        "search, s": round(wall, 2),
        "processor time, s": round(processor, 2),
        "bare steps, s": round(steps, 2),
        "bare class texts, s": round(texts, 2),
        "bare scoring, s": round(images, 2),
        "search / bare, wall": round(statistics.median(ratios[:, 0]), 3),
        "search / bare, processor": round(statistics.median(ratios[:, 1]), 3),
        "search / inside its own steps, wall": round(1 / np.median(inside, axis=0)[0], 3),
        "search / inside its own steps, processor": round(1 / np.median(inside, axis=0)[1], 3),
    }
    return {
        name: value if isinstance(value, str | int) else float(value) for name, value in row.items()
    }


def timed(call):
    """Seconds of the clock and of the processor."""
    started, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - started, time.process_time() - processor


class Replay:
    """The arithmetic of the fits and scores of one search, ready to be done once more."""

    def __init__(self):
        self.fits, self.texts, self.images = [], [], []
        self.model = None

    def run(self):
        """Return (wall, processor) of training steps, of class texts and of scored images."""
        steps = [timed(fit.prepared()) for fit in self.fits]
        return [np.sum(steps, axis=0), timed(self.encode_texts), timed(self.score)]

    def encode_texts(self):
        with torch.no_grad():
            for tokens in self.texts:
                self.model.encode_text(tokens)

    def score(self):
        with torch.inference_mode():
            for pixels in self.images:
                embedding.unit_image_features(self.model, pixels)


class Fit:
    """One fit's training steps."""

    def __init__(self, task, recipe, targets):
        self.task, self.recipe, self.targets = task, recipe, targets
        self.batches = []

    def prepared(self):
        """Put a new adaptation into a new copy of the model, and return what runs the steps."""
        backbone = self.task.backbone
        adaptation = SpectralAdaptation(self.targets, decompose(backbone, self.targets))
        model = install(backbone.skeleton(), adaptation)
        encoders = training.Encoders(model, self.task, adaptation, self.recipe)
        optimiser = torch.optim.AdamW(adaptation.parameters(), fused=True)
        scaler = torch.amp.GradScaler("cpu", enabled=False)

        def steps():
            for step, rows in enumerate(self.batches):
                optimiser.param_groups[0]["lr"] = training.learning_rate(self.recipe, step)
                optimiser.zero_grad(set_to_none=True)
                encoders.backward(rows, scaler).item()
                optimiser.step()

        return steps


@contextlib.contextmanager
def replaced(*changes):
    """Put other functions in place of ``getattr(owner, name)`` for a while."""
    before = [getattr(owner, name) for owner, name, _ in changes]
    for owner, name, function in changes:
        setattr(owner, name, function(getattr(owner, name)))
    try:
        yield
    finally:
        for (owner, name, _), function in zip(changes, before, strict=True):
            setattr(owner, name, function)


@contextlib.contextmanager
def recorded():
    """Yield a `Replay` that takes down what is trained and encoded."""
    replay = Replay()

    def begin(original):
        def call(encoders, model, task, adaptation, recipe, *args):
            replay.fits.append(Fit(task, recipe, adaptation.targets))
            return original(encoders, model, task, adaptation, recipe, *args)

        return call

    def backward(original):
        def call(encoders, rows, scaler):
            replay.fits[-1].batches.append(rows)
            return original(encoders, rows, scaler)

        return call

    def encode_texts(original):
        def call(model, tokens):
            if not torch.is_grad_enabled():  # else it is part of a step, or of its estimate
                replay.model = model
                replay.texts.append(tokens)
            return original(model, tokens)

        return call

    def encode_images(original):
        def call(model, pixels):
            replay.images.append(pixels)
            return original(model, pixels)

        return call

    with replaced(
        (training.Encoders, "__init__", begin),
        (training.Encoders, "backward", backward),
        (CLIP, "encode_text", encode_texts),
        (embedding, "unit_image_features", encode_images),
    ):
        yield replay


@contextlib.contextmanager
def added_up():
    """Yield [wall, processor] seconds spent in steps, class texts and scored images."""
    spent = np.zeros(2)

    def watched(original):
        def call(*args, **kwargs):
            result = []
            spent[:] += timed(lambda: result.append(original(*args, **kwargs)))
            return result[0]

        return call

    def watched_without_gradients(original):
        def call(*args):
            # With gradients it is part of a step, or of its estimate.
            return (original if torch.is_grad_enabled() else watched(original))(*args)

        return call

    with replaced(
        (training.Encoders, "backward", watched),
        (torch.optim.AdamW, "step", watched),
        (CLIP, "encode_text", watched_without_gradients),
        (embedding, "unit_image_features", watched),
    ):
        yield spent


def profile(fit):
    profiler = cProfile.Profile()
    profiler.runcall(fit)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats("skclipsvd|sklearn|joblib", 60)


if __name__ == "__main__":
    main()
