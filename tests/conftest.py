"""Shared fixtures: small real models and real image files."""

import json
import os
import signal
from collections import Counter

# A shell's background jobs ignore Ctrl-C; tests that interrupt rely on it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Test processes side by side share the cores. Set before torch is imported, so that every thread of
# a process computes with the same number: rounding depends on it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

import skclipsvd

# Tests read what a user reads; nothing may be fetched, and nothing of the user's cache is touched.
os.environ["HF_HUB_OFFLINE"] = "1"

SMALL_CONFIG = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "layers": 3,
            "width": 48,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 3,
        },
    },
    "preprocess_cfg": {"size": 32, "interpolation": "bicubic", "resize_mode": "shortest"},
}


def pytest_terminal_summary(terminalreporter):
    """Add up what the tests injected and tried, which the pages on security and faults state."""
    counts = Counter()
    for report in terminalreporter.stats.get("passed", []):
        counts.update(dict(report.user_properties))
    if counts:
        terminalreporter.section("what was tried")
    for what, count in sorted(counts.items()):
        terminalreporter.write_line(f"{what}: {count:,}")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKCLIPSVD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def fresh_caches():
    skclipsvd.clear_caches()
    yield
    skclipsvd.clear_caches()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A local folder with a small real open_clip model: configuration and weights."""
    import open_clip

    folder = tmp_path_factory.mktemp("small model")
    (folder / "open_clip_config.json").write_text(json.dumps(SMALL_CONFIG))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = open_clip.CLIP(**SMALL_CONFIG["model_cfg"])
    from safetensors.torch import save_file

    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def digits():
    from skclipsvd.datasets import load_handwritten_digits

    paths, labels = load_handwritten_digits()
    return np.array(paths), labels


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Twenty real JPEG photographs of two subjects: crops of scikit-learn's sample images."""
    folder = tmp_path_factory.mktemp("photographs")
    paths, labels = [], []
    rng = np.random.RandomState(0)
    for name, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        for i in range(10):
            top, left = rng.randint(0, 200), rng.randint(0, 300)
            crop = Image.fromarray(pixels[top : top + 220, left : left + 300])
            path = folder / f"{name} {i}.jpg"
            crop.save(path, quality=95)
            paths.append(str(path))
            labels.append(name)
    return paths, np.array(labels)
