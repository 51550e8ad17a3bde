"""What faults are injected into: small models, and caches that hold what they make of them."""

import pytest

import skclipsvd
from skclipsvd import CLIPSVDClassifier
from skclipsvd.adaptation import factors
from tests.helpers.disks import Disk

FAST = dict(max_steps=2, lr=0.01, augment=False, random_state=0, device="cpu")


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.remove()


@pytest.fixture
def cold_fit(small_model, photographs, disk, monkeypatch, fresh_caches):
    """A call that fits with nothing in memory, and returns what it learnt and answers."""
    monkeypatch.setenv("SKCLIPSVD_CACHE", str(disk.folder / "cache"))
    monkeypatch.setenv("SKCLIPSVD_IMAGE_CACHE", str(disk.folder / "images"))
    monkeypatch.setattr(factors, "MIN_RANK_ON_DISK", 32)
    paths, labels = (column[::3] for column in photographs)

    def fit():
        skclipsvd.clear_caches()
        clf = CLIPSVDClassifier(small_model, layers="top", **FAST).fit(paths, labels)
        return clf.singular_values_, clf.predict_proba(paths)

    return fit
