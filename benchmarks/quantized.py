"""An exported file with 8-bit numbers: its size, its speed, and what it does to predictions.

onnxruntime converts what `export_onnx` has written, in three ways: "matrices" converts matrix
products (MatMul, Gemm), activations measured at every prediction; "all, at prediction" converts
convolutions too; "all, calibrated" measures activations beforehand, on the training images, and
stores them (only for convolutional towers here). Speed: eight images at once, two threads, all
forms and torch's own tower in turn; medians. Accuracy: on data sets that nothing was chosen on, at
most 300 test images each, after a default fit with head="logistic" on four images per class.
ViT-B/16 has random weights; how many labels stay the same after a head was fitted on its embeddings
is all that can be said of it.

    SKCLIPSVD_DATA=../shared/data python -m benchmarks.quantized --backbone local-dir:lite0-64
"""

import argparse
import tempfile
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.classifiers import frozen_and_adapted
from skclipsvd.clip import embedding
from skclipsvd.images import decode_all, normalise, size_of
from skclipsvd.model_selection import sample_shots

from ._report import quiet_random_weights, table, write
from ._study_data import HELD_OUT, study

MATRICES = ["MatMul", "Gemm"]
FLOAT, BY_MATRICES, ALL, CALIBRATED = "32 bits", "matrices", "all, at prediction", "all, calibrated"
AT_ONCE, THREADS, SHOTS = 8, 2, 4


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=["ViT-B-16", "MobileCLIP2-S0"])
    parser.add_argument("--backbone", help="whose accuracy on photographs is measured")
    parser.add_argument("--data", nargs="*", default=list(HELD_OUT), help="of the held-out sets")
    parser.add_argument("--large-on", default="knee5", help="the set that ViT-B/16 labels, or ''")
    parser.add_argument("--images", type=int, default=100, help="of that set")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--name", default="quantized", help="of the JSON file with the results")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    rows = []
    with tempfile.TemporaryDirectory() as folder, quiet_random_weights():
        for model in options.models:
            rows += speeds(model, Path(folder), options)
        for name in options.data:
            model = "tiny" if name == "digits" else options.backbone
            if model:
                rows += accuracies(model, study(name, Path(folder)), Path(folder))
        if options.large_on:
            rows += labels_of_random_weights(study(options.large_on, Path(folder)), options, folder)
    settings = dict(at_once=AT_ONCE, threads=THREADS, shots=SHOTS, repeats=options.repeats)
    settings |= {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    write(options.name, settings, rows)


def speeds(model, folder, options):
    clf = CLIPZeroShotClassifier(model, None, device="cpu").fit(None, ["a", "b"])
    backbone, merged = frozen_and_adapted(clf)
    pixels = np.random.RandomState(0).randint(
        0, 256, (AT_ONCE, *size_of(backbone.preprocess), 3), dtype=np.uint8
    )
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    tower = backbone.to_predict(merged)

    @torch.inference_mode()
    def by_torch():
        ready = normalise(batch, backbone.preprocess, backbone.device)
        for part in ready.split(backbone.plan.n_at_once or len(ready)):
            embedding.unit_image_features(tower, part)

    files = exported(clf, folder, list(pixels))
    calls = {"torch": by_torch}
    calls |= {form: partial(run, session(file), pixels) for form, file in files.items()}
    seconds = {form: [] for form in calls}
    for _ in range(options.repeats + 1):
        for form, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[form].append(time.perf_counter() - start)
    rows = []
    for form, times in seconds.items():
        ratios = np.divide(seconds["torch"], times)[1:]  # the first round warms up
        rows.append(
            {
                "model": Path(model).name,
                "form": form,
                "MB": None if form == "torch" else round(files[form].stat().st_size / 1e6, 1),
                "ms per image": round(1000 * float(np.median(times[1:])) / AT_ONCE, 2),
                "times as fast as torch": round(float(np.median(ratios)), 2),
            }
        )
    print(table(list(rows[0]), [row.values() for row in rows]), flush=True)
    return rows


def accuracies(model, data, folder):
    """Compare labels and probabilities of all forms of one fit, on a held-out set."""
    chosen = sample_shots(data.labels, SHOTS, random_state=1)
    clf = CLIPSVDClassifier(
        model, head="logistic", augment=data.augment, templates=data.template, device="cpu",
        class_names=data.class_names, random_state=1,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf.fit(data.paths[chosen], data.labels[chosen])
    return compared(clf, data, data.paths[chosen], folder)


def labels_of_random_weights(data, options, folder):
    """Compare the labels of a ViT-B/16 whose head alone has learnt something."""
    chosen = sample_shots(data.labels, SHOTS, random_state=1)
    clf = CLIPSVDClassifier("ViT-B-16", None, head="logistic", max_steps=0, device="cpu")
    clf.fit(data.paths[chosen], data.labels[chosen])
    n = options.images
    few = replace(data, test_paths=data.test_paths[:n], test_labels=data.test_labels[:n])
    return compared(clf, few, data.paths[chosen], Path(folder))


def compared(clf, data, training, folder):
    files = exported(clf, folder, views(clf, training))
    expected = clf.predict_proba(data.test_paths)
    pixels = np.stack(views(clf, data.test_paths))
    rows = []
    for form, file in files.items():
        opened = session(file)
        found = np.concatenate(
            [run(opened, pixels[i : i + AT_ONCE]) for i in range(0, len(pixels), AT_ONCE)]
        )
        same = found.argmax(axis=1) == expected.argmax(axis=1)
        right = clf.classes_[found.argmax(axis=1)] == data.test_labels
        rows.append(
            {
                "backbone": Path(clf.model_name).name,
                "set": data.name,
                "test images": len(pixels),
                "form": form,
                "accuracy, %": round(100 * float(right.mean()), 1),
                "labels as before, %": round(100 * float(same.mean()), 1),
                "mean change of a probability": float(np.abs(found - expected).mean().round(5)),
                "largest": float(np.abs(found - expected).max().round(3)),
            }
        )
    print(table(list(rows[0]), [row.values() for row in rows]), flush=True)
    return rows


def views(clf, paths):
    preprocess = frozen_and_adapted(clf)[0].preprocess
    return [decoded.view for decoded in decode_all(list(map(str, paths)), preprocess, THREADS)]


def exported(clf, folder, training):
    """Write all forms of a classifier; return their files."""
    files = {form: folder / f"{form.replace(' ', '_')}.onnx" for form in (FLOAT, BY_MATRICES, ALL)}
    clf.export_onnx(files[FLOAT])
    quantize_dynamic(files[FLOAT], files[BY_MATRICES], op_types_to_quantize=MATRICES)
    quantize_dynamic(
        files[FLOAT],
        files[ALL],
        op_types_to_quantize=[*MATRICES, "Conv"],
        weight_type=QuantType.QUInt8,  # the lowest version has no convolution of signed weights
    )
    graph = onnx.load(files[FLOAT]).graph
    if sum(node.op_type == "Conv" for node in graph.node) > 1:
        files[CALIBRATED] = folder / "calibrated.onnx"
        calibrated(files[FLOAT], files[CALIBRATED], training)
    return files


def calibrated(source, target, training):
    quantize_static(
        source,
        target,
        Pictures(training),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=[*MATRICES, "Conv"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


class Pictures(CalibrationDataReader):
    """Hand out training images one after the other."""

    def __init__(self, views):
        self.views = iter(views)

    def get_next(self):
        view = next(self.views, None)
        return None if view is None else {"pixels": view[None]}


def session(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    # Its threads would keep the cores busy while another form is timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def run(opened, pixels):
    (probabilities,) = opened.run(["probabilities"], {"pixels": pixels})
    return probabilities


if __name__ == "__main__":
    main()
