"""Checkpoints and configurations that must not be believed; the activation that must be right."""

import json
import os
import shutil
from pathlib import Path

import open_clip
import pytest
import torch

from skclipsvd import CLIPZeroShotClassifier, clear_caches, describe_targets
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


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused_with_a_way_out(tmp_path):
    archive = tmp_path / "ViT-B-16.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(archive)
    with pytest.raises(ValueError, match="TorchScript archive"):
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


def test_openai_weights_get_the_activation_that_they_were_trained_with(monkeypatch, tmp_path):
    """open_clip 3 only warns, and computes another function, where the configuration has GELU."""
    asked = {}

    def record(name, **kwargs):
        asked.update(kwargs)
        raise RuntimeError("stop here")

    monkeypatch.setattr(open_clip, "create_model", record)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # which nobody asks
    for model, tag, expected in (
        ("ViT-B-16", "openai", True),
        ("ViT-B-16", "laion2b_s34b_b88k", False),
        ("ViT-B-16-quickgelu", "dfn2b", True),
    ):
        clear_caches()
        with pytest.raises(ValueError, match="stop here"):
            CLIPZeroShotClassifier(model, tag).fit(None, LABELS)
        assert asked["force_quick_gelu"] is expected
        assert asked["require_pretrained"]
        assert asked["weights_only"]


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
