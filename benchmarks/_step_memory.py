"""One process that takes training steps, and tells how much memory it needed: see `memory`."""

import argparse
import json
import resource
import tempfile
from pathlib import Path

import numpy as np
import torch
from open_clip import IMAGENET_CLASSNAMES

from skclipsvd.adaptation import find_targets
from skclipsvd.adaptation.factors import decompose
from skclipsvd.clip import load_backbone

from ._report import quiet_random_weights
from .published import PublishedTraining
from .step import LR, TEMPLATE, OurTraining, photographs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["ours", "published"])
    parser.add_argument("model", help="such as ViT-B-16")
    parser.add_argument("n_classes", type=int)
    parser.add_argument("batch", type=int, help="images per step")
    options = parser.parse_args()
    print(json.dumps(measure(options.side, options.model, options.n_classes, options.batch)))


def measure(side, model_name, n_classes, batch):
    device = torch.device("cpu")
    with quiet_random_weights():
        backbone = load_backbone(model_name, None, device)
    factors = decompose(backbone, find_targets(backbone.model))
    names = IMAGENET_CLASSNAMES[:n_classes]
    labels = np.arange(batch) % n_classes
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), batch)
        if side == "ours":
            training = OurTraining(backbone, factors, paths, labels, names, batch, torch.float32)
            arguments = (np.arange(batch),)
        else:
            sentences = [TEMPLATE.format(name) for name in names]
            training = PublishedTraining(backbone, factors, sentences, LR)
            arguments = (paths, torch.from_numpy(labels))
            release(backbone)
        for _ in range(2):
            training.step(*arguments)
    return {"before": before, "peak": peak()}


def release(backbone):
    """Let go of the frozen matrices: the published model has its own copy of what it needs."""
    for parameter in backbone.model.parameters():
        parameter.data = parameter.new_empty(0)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
