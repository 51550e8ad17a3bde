"""One process that takes training steps, and tells how much memory it needed: see `memory`."""

import json
import resource
import sys
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


def main(side, model_name, n_classes, batch):
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
    print(json.dumps({"before": before, "peak": peak()}))


def release(backbone):
    """Let go of the frozen matrices: the published model has its own copy of what it needs."""
    for parameter in backbone.model.parameters():
        parameter.data = parameter.new_empty(0)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
