"""A model folder from a stranger is data: nothing in it runs, opens or asks for anything else."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import open_clip
import pytest
from helpers.mutations import mutate_json, no_longer_than, peak_bytes

from skclipsvd import CLIPZeroShotClassifier, clear_caches
from skclipsvd.clip.local_config import check_model_config

LABELS = ["temple", "flower"]


@pytest.fixture
def folder(small_model, tmp_path):
    return Path(shutil.copytree(small_model.removeprefix("local-dir:"), tmp_path / "model"))


def change(folder, section, **entries):
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    (config["model_cfg"][section] if section else config["model_cfg"]).update(entries)
    file.write_text(json.dumps(config))


def fit(folder):
    clear_caches()
    return CLIPZeroShotClassifier(f"local-dir:{folder}").fit(None, LABELS)


@pytest.mark.parametrize("asks", [True, False])
def test_a_folders_own_tokeniser_code_is_not_run(folder, tmp_path, asks):
    pytest.importorskip("transformers")
    trace = tmp_path / "it ran"
    (folder / "tok.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "from transformers import BertTokenizer\nclass Tok(BertTokenizer): pass\n"
    )
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    auto_map = {"AutoTokenizer": ["tok.Tok", None]}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Tok", "auto_map": auto_map})
    )
    change(folder, "text_cfg", hf_tokenizer_name="stranger/model")
    if asks:
        change(folder, "text_cfg", tokenizer_kwargs={"trust_remote_code": True})
    with pytest.raises(ValueError, match="trust_remote_code" if asks else "auto_map") as caught:
        fit(folder)
    assert str(folder) in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("vision_cfg", "timm_model_name", "hf-hub:stranger/model"),
        ("vision_cfg", "timm_model_name", "local-dir:/tmp"),
        ("vision_cfg", "width", 10**9),
        ("vision_cfg", "width", "48"),
        ("vision_cfg", "image_size", float("nan")),
        ("vision_cfg", "layers", True),
        ("text_cfg", "vocab_size", 10**12),
        ("text_cfg", "hf_model_name", "../other"),
        ("text_cfg", "hf_model_name", "/etc"),
        ("text_cfg", "hf_tokenizer_name", "/etc"),
        ("text_cfg", "tokenizer_kwargs", {"bpe_path": "/etc/passwd"}),
        ("text_cfg", "surprise", 1),
        ("", "cast_dtype", "float16"),
    ],
)
def test_what_is_not_allowed_is_refused_by_file_and_key(folder, section, key, value):
    change(folder, section, **{key: value})
    with pytest.raises(ValueError, match="Nothing of this model was loaded") as caught:
        fit(folder)
    assert "open_clip_config.json" in str(caught.value)
    assert (next(iter(value)) if isinstance(value, dict) else key) in str(caught.value)


def test_sizes_that_are_allowed_one_by_one_are_bounded_together(folder):
    change(folder, "text_cfg", width=16384, vocab_size=2_000_000, heads=16)
    with pytest.raises(ValueError, match="GiB is refused"):
        fit(folder)


@pytest.mark.parametrize("section", ["quantization_config", "attn_implementation"])
def test_a_hugging_face_configuration_that_names_code_is_refused(folder, section):
    (folder / "config.json").write_text(json.dumps({"text": {section: "stranger/kernels"}}))
    with pytest.raises(ValueError, match=section):
        fit(folder)


@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_configuration_of_open_clip_is_allowed(name):
    check_model_config(open_clip.get_model_config(name), Path(name))


@pytest.mark.parametrize(("image_size", "patch_size"), [(4096, 1), (2112, 16)])
def test_positions_are_bounded_because_attention_takes_their_square(folder, image_size, patch_size):
    change(folder, "vision_cfg", image_size=image_size, patch_size=patch_size, width=48)
    with pytest.raises(ValueError, match="together ask for too much"):
        fit(folder)


@pytest.mark.slow
def test_two_hundred_mutated_configurations(
    folder, small_model, photographs, tmp_path, record_property
):
    """Each gives the model as before, another one that predicts, or one clear error; fast."""
    trace, peak, counts = tmp_path / "it ran", peak_bytes(), Counter()
    file = folder / "open_clip_config.json"
    whole, images = json.loads(file.read_text()), photographs[0][:2]
    full = json.loads(json.dumps(whole))
    full["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"clean": "lower"}
    full["model_cfg"]["vision_cfg"]["pool_type"] = "tok"
    full["preprocess_cfg"] |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "mode": "RGB"}
    expected = CLIPZeroShotClassifier(small_model).fit(None, LABELS).predict_proba(images)
    rng = random.Random(3)
    for number in range(200):
        config = json.loads(json.dumps(full if number % 2 else whole))
        mutate_json(config, rng, trace)
        file.write_text(json.dumps(config))
        with no_longer_than(120):
            try:
                answer = fit(folder).predict_proba(images)
            except (ValueError, FileNotFoundError) as error:
                answer, said = None, str(error)
        if answer is None:
            assert 10 < len(said) < 3000
            counts["refused"] += 1
            continue
        assert np.isfinite(answer).all()
        same = np.array_equal(answer, expected)
        counts["the same answers" if same else "other answers"] += 1
        assert not trace.exists()
    assert not trace.exists()
    assert peak_bytes() - peak < 2**30
    for outcome, count in counts.items():
        record_property(f"mutations of models' configurations: {outcome}", count)


def test_the_callers_random_numbers_are_left_alone(fresh_caches):
    import torch

    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    CLIPZeroShotClassifier("tiny").fit(None, LABELS)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
