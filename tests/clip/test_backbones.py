"""Checkpoints and configurations that must not be believed."""

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mutations import no_longer_than, peak_bytes

from skclipsvd import (
    CLIPEncoder,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    clear_caches,
    describe_targets,
)
from skclipsvd.clip import load_backbone

LABELS = ["temple", "flower"]


@pytest.fixture
def folder(small_model, tmp_path):
    """A private copy of the small model's folder."""
    return Path(shutil.copytree(small_model.removeprefix("local-dir:"), tmp_path / "model"))


class Bomb:
    """Pickles into a call that leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("kind", ["bare", "inside"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(folder, tmp_path, kind):
    trace = tmp_path / "it ran"
    state = load_backbone(f"local-dir:{folder}", None, torch.device("cpu")).model.state_dict()
    content = Bomb(trace) if kind == "bare" else {**state, "extra": Bomb(trace)}
    (folder / "open_clip_model.safetensors").unlink()
    torch.save(content, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match="not made of plain weights"):
        CLIPZeroShotClassifier(f"local-dir:{folder}").fit(None, LABELS)
    assert not trace.exists()


def mutated(data, rng, trace):
    """Flip, zero, cut or insert some bytes, or put a program among them."""
    data, what, at = bytearray(data), rng.randrange(6), rng.randrange(len(data))
    if rng.random() < 0.5:  # headers, and what a zip archive lists at its end
        at = rng.choice([rng.randrange(2000), len(data) - 1 - rng.randrange(2000)])
    if what == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif what == 1:
        data[at : at + 64] = bytes(64)
    elif what == 2:
        del data[at:]
    elif what == 3:
        data[at:at] = rng.randbytes(rng.choice([1, 8, 1000]))
    elif what == 4:
        del data[at : at + rng.choice([1, 8, 1000])]
    else:
        call = f"cos\nmkdir\n(V{trace}\ntR.".encode()
        data[at : at + len(call)] = call
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_two_hundred_mutated_checkpoints(folder, photographs, tmp_path, suffix, record_property):
    """Each is refused, or gives finite answers; nothing in it is run."""
    trace, rng, peak, counts = tmp_path / "it ran", random.Random(4), peak_bytes(), Counter()
    file = folder / "open_clip_model.safetensors"
    if suffix == ".bin":
        state = load_backbone(f"local-dir:{folder}", None, torch.device("cpu")).model.state_dict()
        file.unlink()
        file = folder / "open_clip_pytorch_model.bin"
        torch.save(state, file)
    whole = file.read_bytes()
    for _ in range(200):
        file.write_bytes(mutated(whole, rng, trace))
        clear_caches()
        with no_longer_than(120):
            try:
                clf = CLIPZeroShotClassifier(f"local-dir:{folder}").fit(None, LABELS)
                answer, said = clf.predict_proba(photographs[0][:2]), None
            except ValueError as error:
                said = str(error)
        assert not trace.exists()
        counts["answered" if said is None else "refused"] += 1
        assert np.isfinite(answer).all() if said is None else 10 < len(said) < 3000
    assert peak_bytes() - peak < 2**30
    for outcome, count in counts.items():
        record_property(f"mutations of checkpoints: {outcome}", count)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused_with_a_way_out(tmp_path):
    archive = tmp_path / "ViT-B-16.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(archive)
    with pytest.raises(ValueError, match=r"is a program and is not run here.*torch\.jit\.load"):
        CLIPZeroShotClassifier("ViT-B-16", str(archive)).fit(None, LABELS)


def test_weights_of_another_architecture_are_refused(folder):
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["width"] = 64
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="another architecture"):
        CLIPZeroShotClassifier(f"local-dir:{folder}").fit(None, LABELS)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"vision_cfg": {}}', '{"model_cfg": {"embed_dim": 8}}']
)
def test_a_damaged_configuration_is_refused(folder, text):
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(ValueError, match="damaged"):
        CLIPZeroShotClassifier(f"local-dir:{folder}").fit(None, LABELS)


@pytest.mark.parametrize("name", ["empty.pt", "text.safetensors", "half.safetensors"])
def test_a_damaged_checkpoint_file_is_refused(folder, tmp_path, name):
    weights = (folder / "open_clip_model.safetensors").read_bytes()
    content = {"empty.pt": b"", "text.safetensors": b"hello", "half.safetensors": weights[:9999]}
    (tmp_path / name).write_bytes(content[name])
    with pytest.raises(ValueError, match="damaged"):
        CLIPZeroShotClassifier("ViT-B-32", str(tmp_path / name)).fit(None, LABELS)


def test_a_checkpoint_file_that_changes_is_another_backbone(folder):
    name = f"local-dir:{folder}"
    first = load_backbone(name, None, torch.device("cpu"))
    assert load_backbone(name, None, torch.device("cpu")) is first
    state = {k: v + 1 for k, v in first.model.state_dict().items()}
    from safetensors.torch import save_file

    save_file(state, folder / "open_clip_model.safetensors")
    os.utime(folder / "open_clip_model.safetensors", ns=(1, 1))
    assert load_backbone(name, None, torch.device("cpu")).fingerprint != first.fingerprint


def test_describing_needs_no_weights():
    found = describe_targets("ViT-B-16")
    rows = found if isinstance(found, list) else found.to_dict("records")
    assert len(rows) == 144
    assert sum(row["rank"] for row in rows) == 92_160
    assert rows[0] == {
        "tower": "image",
        "block": 0,
        "role": "q",
        "group": "q",
        "shape": (768, 768),
        "rank": 768,
        "parameters": 768 * 768,
    }
    mlp = [row for row in rows if (row["tower"], row["block"], row["group"]) == ("text", 11, "mlp")]
    assert [(row["role"], row["shape"], row["parameters"]) for row in mlp] == [
        ("fc", (2048, 512), 2048 * 512),
        ("proj", (512, 2048), 2048 * 512),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ViT-B-61",), "did you mean"),
        (("tiny", dict(towers=["vision"])), "towers has 'vision'; choose of image, text"),
        (("tiny", dict(towers="text")), r"such as \['text'\]"),
        (("tiny", dict(matrices=["qkv"])), "matrices has 'qkv'; choose of q, k"),
    ],
)
def test_describing_what_there_is_not(arguments, message):
    name, *choice = arguments
    with pytest.raises(ValueError, match=message):
        describe_targets(name, **dict(*choice))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai/clip-vit-base-patch16", "as model_name='ViT-B-16', pretrained='openai'"),
        ("openai/clip-vit-large-patch14-336", "as model_name='ViT-L-14-336', pretrained='openai'"),
        (
            "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
            "as model_name='ViT-B-32', pretrained='laion2b_s34b_b79k'",
        ),
        ("google/siglip-base-patch16-224", "model_name='hf-hub:google/siglip-base-patch16-224'"),
        ("ViT-B/61", "did you mean 'ViT-B-16'"),
        ("Vit-B16", "did you mean 'ViT-B-16'"),
    ],
)
def test_a_name_of_the_hub_gets_the_name_to_write(name, said):
    with pytest.raises(ValueError, match=f"is not known to open_clip.*{said}"):
        CLIPZeroShotClassifier(name).fit(None, LABELS)


def test_openais_own_repositories_are_known_by_their_tag():
    with pytest.raises(FileNotFoundError, match="as model_name='ViT-B-16', pretrained='openai'"):
        CLIPZeroShotClassifier("hf-hub:openai/clip-vit-base-patch16").fit(None, LABELS)


@pytest.mark.parametrize("name", ["ViT-B-16", "hf-hub:nobody/nothing", "local-dir:/nowhere", "V"])
@pytest.mark.parametrize("kind", [CLIPSVDClassifier, CLIPEncoder])
def test_what_is_missing_is_said_without_frames_of_ours(name, kind, photographs):
    """A notebook prints every frame and every error before the last one."""
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        kind(name, "openai").fit(*photographs)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    ours = [entry for entry in caught.traceback if "skclipsvd/" in str(entry.path)]
    assert len([entry for entry in ours if "tests" not in str(entry.path)]) <= 5


def test_a_damaged_checkpoint_keeps_what_open_clip_said(folder):
    (folder / "open_clip_model.safetensors").write_bytes(b"hello")
    with pytest.raises(ValueError, match="damaged") as caught:
        CLIPZeroShotClassifier(f"local-dir:{folder}").fit(None, LABELS)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("mps", "has no 'mps' device"),
        ("xla", "has no 'xla' device"),
        ("meta", "it holds shapes, no numbers"),
        ("cuda:99", ""),
        ("gpu", ""),
    ],
)
def test_a_device_that_is_not_here(device, said):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is here")
    with pytest.raises(ValueError, match=f"device='{device}' cannot be used here.*{said}") as error:
        CLIPZeroShotClassifier("tiny", device=device).fit(None, LABELS)
    assert "aten::" not in str(error.value)
    assert len(str(error.value)) < 400
