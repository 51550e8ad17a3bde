"""Number formats: what a device has units for, and what a processor is slow at."""

import contextlib
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from skclipsvd import CLIPEncoder, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.clip import choose_dtype, devices
from skclipsvd.exceptions import SlowPrecisionWarning

ROOT = Path(__file__).parents[2]
x86_linux = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"} or not sys.platform.startswith("linux"),
    reason="oneDNN forgets instructions on request there",
)


@pytest.fixture
def gpus(monkeypatch):
    """GPUs by compute capability, as torch's own question sees them; none is here to be asked."""
    majors, current = [], [0]

    @contextlib.contextmanager
    def device(chosen):
        before, current[0] = current[0], torch.device(chosen).index
        yield
        current[0] = before

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i=0: SimpleNamespace(major=majors[i])
    )
    # Every GPU can emulate it.
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    return majors


@pytest.mark.parametrize(
    ("major", "dtype"),
    [
        (6, torch.float16),
        (7, torch.float16),  # V100 and T4, which emulate bfloat16
        (8, torch.bfloat16),
        (9, torch.bfloat16),
        (12, torch.bfloat16),
    ],
)
def test_auto_takes_what_a_gpu_has_units_for(gpus, major, dtype):
    gpus.append(major)
    assert choose_dtype("auto", torch.device("cuda", 0)) is dtype
    assert choose_dtype("bf16", torch.device("cuda", 0)) is torch.bfloat16  # as asked


def test_the_device_that_will_compute_is_asked_and_not_the_current_one(gpus):
    gpus += [8, 7]
    assert choose_dtype("auto", torch.device("cuda", 0)) is torch.bfloat16
    assert choose_dtype("auto", torch.device("cuda", 1)) is torch.float16


def test_auto_is_float32_without_a_gpu():
    assert choose_dtype("auto", torch.device("cpu")) is torch.float32


@pytest.fixture
def set_slowness(monkeypatch):
    """Set how many times slower than float32 this processor is."""

    def set_to(ratio):
        monkeypatch.setattr(devices, "slowness", lambda dtype: ratio)

    return set_to


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_slow_format_is_told_before_anything_is_done(
    small_model, photographs, set_slowness, precision
):
    paths, labels = photographs
    set_slowness(94.0)
    for estimator in (
        CLIPSVDClassifier(small_model, max_steps=1, precision=precision),
        CLIPZeroShotClassifier(small_model, precision=precision),
        CLIPEncoder(small_model, precision=precision),
    ):
        with pytest.warns(SlowPrecisionWarning, match=f"precision='{precision}'.* 94 times"):
            estimator.fit(paths, labels)
    # What a GPU trained, here.
    clf = CLIPZeroShotClassifier(small_model).fit(None, labels).set_params(precision=precision)
    with pytest.warns(SlowPrecisionWarning):
        clf.predict(paths[:1])


@pytest.mark.parametrize("ratio", [0.2, 1.4, 4.0])
def test_a_format_that_is_fast_enough_is_taken_in_silence(
    small_model, photographs, set_slowness, ratio
):
    set_slowness(ratio)
    CLIPSVDClassifier(small_model, max_steps=1, precision="bf16").fit(*photographs)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_float32_is_not_even_timed(small_model, photographs, monkeypatch, precision):
    def asked(dtype):
        raise AssertionError("timed")

    monkeypatch.setattr(devices, "slowness", asked)
    CLIPSVDClassifier(small_model, max_steps=1, precision=precision).fit(*photographs)


def test_a_measurement_leaves_the_number_of_threads_alone():
    before = torch.get_num_threads()
    assert devices.slowness(torch.bfloat16) > 0
    assert torch.get_num_threads() == before


@x86_linux
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_processor_without_the_instructions(precision):
    """The same processor, told to forget what came after AVX2, is really slow."""
    script = f"""
        import warnings
        import numpy as np
        from skclipsvd import CLIPSVDClassifier
        from skclipsvd.datasets import load_handwritten_digits
        from skclipsvd.exceptions import SlowPrecisionWarning

        paths, labels = load_handwritten_digits()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            clf = CLIPSVDClassifier("tiny", max_steps=1, precision={precision!r}, layers=[-1])
            try:
                clf.fit(["missing.png", *paths[:2]], labels[:3])
            except FileNotFoundError:
                assert not caught  # a wrong path is told first
            clf.fit(paths[:3], labels[:3])
        assert [one.category for one in caught] == [SlowPrecisionWarning], caught
        print(caught[0].message)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Use precision='auto' or 'fp32'" in done.stdout
