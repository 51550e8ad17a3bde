"""What estimators of one process share is done once, and stays as it is: counted, not timed."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import GridSearchCV, StratifiedKFold

import skclipsvd
import skclipsvd.clip.backbone
from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.clip import fingerprint, load_backbone

CPU = torch.device("cpu")


@pytest.fixture
def calls(monkeypatch, fresh_caches, tmp_path):
    """Count every file that Pillow opens, every decomposition and every model that is built."""
    monkeypatch.setenv("SKCLIPSVD_CACHE", str(tmp_path))  # nothing is left from other tests
    monkeypatch.delenv("SKCLIPSVD_IMAGE_CACHE", raising=False)
    counted = {"opened": [], "decomposed": [], "built": []}

    def watch(owner, name, kind):
        original = getattr(owner, name)

        def wrapper(*args, **kwargs):
            counted[kind].append(args)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapper)

    watch(Image, "open", "opened")
    watch(torch.linalg, "svd", "decomposed")
    watch(skclipsvd.clip.backbone, "build_model", "built")
    return counted


def test_a_grid_search_decodes_loads_and_decomposes_once(calls, digits):
    paths, labels = (column[:200] for column in digits)
    clf = CLIPSVDClassifier(
        "tiny", layers="top", batch_size=64, augment=False, device="cpu", random_state=0
    )
    search = GridSearchCV(
        clf,
        {"lr": [0.005, 0.02], "epochs": [1, 2]},
        cv=StratifiedKFold(3),
        error_score="raise",
    )
    search.fit(paths, labels)
    search.predict(paths)

    n_fits, n_matrices = 2 * 2 * 3 + 1, len(search.best_estimator_.singular_values_)
    assert n_matrices > 10
    opened = Counter(file.name for (file,) in calls["opened"])
    assert opened == dict.fromkeys(paths, 1)
    assert len(calls["decomposed"]) == n_matrices
    assert len(calls["built"]) == 1
    misses = {name: cache["misses"] for name, cache in skclipsvd.cache_info().items()}
    assert misses == {"images": 200, "backbones": 1, "factors": n_matrices, "merged": n_fits}


def test_what_is_only_predicted_keeps_no_copy_to_crop(calls, photographs):
    """A view of 32 x 32 pixels; crops are cut from a copy of 64 x 87 beside it."""
    paths, labels = photographs
    view, source = 3 * 32 * 32, 3 * 64 * 87
    clf = CLIPSVDClassifier("tiny", max_steps=1, lr=0.01, random_state=0)

    def kept():
        images = skclipsvd.cache_info()["images"]
        return images["entries"], images["bytes"]

    zero_shot = CLIPZeroShotClassifier("tiny").fit(None, labels)
    first = zero_shot.predict_proba(paths[:6])
    assert kept() == (6, 6 * view)
    clf.set_params(augment=False).fit(paths[:12:2], labels[[0, -1] * 3])
    assert kept() == (9, 9 * view)
    assert Counter(file.name for (file,) in calls["opened"]).most_common(1)[0][1] == 1

    clf.set_params(augment=True).fit(paths[:6], labels[[0, -1] * 3])
    assert kept() == (15, 15 * view + 6 * source)
    opened = len(calls["opened"])
    skclipsvd.caching.process.IMAGES.clear()
    clf.fit(paths[:6], labels[[0, -1] * 3]).predict(paths[:6])  # what is there serves both
    assert kept() == (6, 6 * (view + source))
    assert len(calls["opened"]) == opened + 6
    np.testing.assert_array_equal(zero_shot.predict_proba(paths[:6]), first)


def test_threads_may_use_two_classifiers_of_one_backbone(digits, fresh_caches):
    paths, labels = (column[:24] for column in digits)
    settings = dict(max_steps=3, layers="top", augment=False, device="cpu")
    pair = [
        CLIPSVDClassifier("tiny", lr=lr, random_state=seed, **settings).fit(paths, labels)
        for seed, lr in enumerate((0.01, 0.05))
    ]
    serial = [clf.predict_proba(paths[:8]) for clf in pair]
    assert (serial[0] != serial[1]).any()
    skclipsvd.clear_caches()  # so that threads also meet while weights are loaded and merged

    def ask(turn):
        return pair[turn % 2].predict_proba(paths[:8])

    with ThreadPoolExecutor(4) as pool:
        concurrent = list(pool.map(ask, range(200)))
    for turn, probabilities in enumerate(concurrent):
        np.testing.assert_array_equal(probabilities, serial[turn % 2])

    backbone = load_backbone("tiny", None, CPU)
    assert fingerprint(backbone.model) == backbone.fingerprint == pair[0].backbone_fingerprint_
    misses = {name: cache["misses"] for name, cache in skclipsvd.cache_info().items()}
    assert misses["backbones"] == 1
    assert misses["merged"] == 2
