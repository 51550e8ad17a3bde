"""open_clip's tags: what a load by tag, by file and by tag and file gives beside weights."""

import hashlib
import os
import re
import warnings
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory
from open_clip import pretrained as tables
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file

from skclipsvd import CLIPEncoder, CLIPSVDClassifier, CLIPZeroShotClassifier, load_adapter
from skclipsvd.clip import load_backbone
from skclipsvd.clip import weights as module
from skclipsvd.clip.tags import settings
from skclipsvd.exceptions import AmbiguousCheckpointWarning, SkclipsvdWarning
from tests.conftest import SMALL_CONFIG

LABELS = ["temple", "flower"]
CPU = torch.device("cpu")
# A small architecture whose tags differ as those of ViT-B-32 and of SigLIP do.
TAGS = {
    "quick": tables._pcfg(hf_hub="someone/quick/", quick_gelu=True),
    "squashed": tables._slpcfg(hf_hub="someone/squashed/"),
    "plain": tables._pcfg(hf_hub="someone/plain/"),
}
WANTED = {
    "quick": ("quick_gelu", "shortest", (0.48145466, 0.4578275, 0.40821073)),
    "squashed": ("gelu", "squash", (0.5, 0.5, 0.5)),
    "plain": ("gelu", "shortest", (0.48145466, 0.4578275, 0.40821073)),
}


@pytest.fixture
def architecture(monkeypatch):
    monkeypatch.setitem(factory._MODEL_CONFIGS, "small-CLIP", SMALL_CONFIG["model_cfg"])
    monkeypatch.setitem(tables._PRETRAINED, "small-CLIP", TAGS)
    return "small-CLIP"


@pytest.fixture
def file(small_model, tmp_path):
    """The small model's weights as a file of its own, as somebody downloaded it."""
    source = Path(small_model.removeprefix("local-dir:")) / "open_clip_model.safetensors"
    target = tmp_path / "downloaded.safetensors"
    target.write_bytes(source.read_bytes())
    return str(target)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A cache of the hub's client, to put files in."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(repository, content, name="open_clip_model.safetensors"):
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
        (folder / "snapshots" / ("0" * 40) / name).write_bytes(content)

    return put


def told(backbone):
    config = backbone.config
    return config["activation"], config["resize_mode"], config["mean"]


@pytest.mark.parametrize("form", ["file", "tag and file", "folder"])
def test_the_home_folder_is_found(form, architecture, file, small_model, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = Path(small_model.removeprefix("local-dir:"))
    asked = {
        "file": (architecture, "~/downloaded.safetensors", file),
        "tag and file": (architecture, "plain:~/downloaded.safetensors", f"plain:{file}"),
        "folder": ("local-dir:~/model", "anything", "anything"),
    }[form]
    (tmp_path / "model").symlink_to(folder, target_is_directory=True)
    name, near, far = asked
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AmbiguousCheckpointWarning)
        found = load_backbone(name, near, CPU)
        same = load_backbone(small_model if form == "folder" else name, far, CPU)
    assert found.identity == same.identity
    missing = ("local-dir:~/gone", None) if form == "folder" else (name, near.replace("down", "up"))
    with pytest.raises(FileNotFoundError, match="~/"):
        load_backbone(*missing, CPU)


# --- all of open_clip's tags, without weights


class Recorded(torch.nn.Module):
    """Stands for a model of any size where only what open_clip decided on is looked at."""

    def __init__(self, quick_gelu=False, vision_cfg=None, **others):
        super().__init__()
        self.quick_gelu = quick_gelu
        self.visual = SimpleNamespace(image_size=vision_cfg["image_size"])
        self.logit_scale = torch.nn.Parameter(torch.zeros(()))


@pytest.fixture
def without_weights(monkeypatch, tmp_path):
    """Everything but open_clip's own decisions is left out."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not looked at")
    for name in ("CLIP", "CustomTextCLIP", "CoCa"):
        monkeypatch.setattr(factory, name, Recorded)
    monkeypatch.setattr(factory, "load_checkpoint", lambda *args, **kwargs: None)
    for name in ("check_transformers_config", "check_names_no_code", "HFTokenizer"):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: None)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: None)
    pytest.importorskip("transformers")
    fetched = tmp_path / "fetched.safetensors"
    fetched.write_bytes(b"neither")
    repository = SimpleNamespace(**dict.fromkeys(("file", "find", "first"), lambda names: fetched))
    monkeypatch.setattr(module, "Repository", lambda name: repository)
    return str(path)


def loaded(model_name, pretrained):
    """What a load decides on, and the warnings of this package that it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, _ = module.build_model(model_name, pretrained)
    ours = [str(w.message) for w in caught if issubclass(w.category, SkclipsvdWarning)]
    return {"quick_gelu": model.quick_gelu, **model.visual.preprocess_cfg}, ours


@pytest.mark.parametrize("model_name", sorted(tables._PRETRAINED))
def test_every_tag_of_open_clip_gets_its_own_settings(model_name, without_weights):
    path = without_weights
    config = factory.get_model_config(model_name)
    by_path, warned = loaded(model_name, path)
    named = set(re.findall(r"[\w-]+", " ".join(warned)))
    for tag in tables.list_pretrained_tags_by_model(model_name):
        entry = tables.get_pretrained_cfg(model_name, tag)
        expected = asdict(PreprocessCfg())
        expected.update({key: entry[key] for key in expected.keys() & entry.keys()})
        expected["size"] = config["vision_cfg"]["image_size"]
        # One configuration is QuickGELU's own, and its tag's entry does not repeat it.
        quick = entry.get("quick_gelu", False) or model_name == "roberta-ViT-B-32"
        expected["quick_gelu"] = quick
        assert loaded(model_name, tag) == (expected, [])
        assert loaded(model_name, f"{tag}:{path}") == (expected, [])
        if by_path != expected:
            assert tag in named
    first = (warned or [""])[0]
    differ = [tag for tag in tables.list_pretrained_tags_by_model(model_name)
              if loaded(model_name, tag)[0] != by_path]  # fmt: skip
    assert bool(differ) == bool(warned)
    if differ:
        assert f"pretrained='{differ[0]}:{path}'" in first


@pytest.mark.skipif(not open_clip.__version__.startswith("3.3"), reason="the page names 3.3")
def test_the_page_says_how_many_tags_differ_from_a_file():
    """And that there are some, else the test above compares nothing."""
    tags = tables.list_pretrained()
    differ = [
        {name for name, value in settings(*tag).items() if value != settings(tag[0], None)[name]}
        for tag in tags
    ]
    preprocess = sum(bool(names - {"quick_gelu"}) for names in differ)
    activation = sum("quick_gelu" in names for names in differ)
    page = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
    said = f"Of the {len(tags)} tags of open_clip 3.3, {preprocess} need a different pre-processing"
    assert said in " ".join(page.split())
    assert f"and {activation} a different activation" in " ".join(page.split())


# --- the small architecture, with weights


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_before_the_path_makes_the_file_that_tags_model(architecture, file, tag, photographs):
    paths = photographs[0][:6]
    encoder = CLIPEncoder(architecture, f"{tag}:{file}").fit(paths)
    quick_gelu, resize_mode, mean = WANTED[tag]
    assert told(load_backbone(architecture, f"{tag}:{file}", CPU)) == WANTED[tag]
    config = {**SMALL_CONFIG["model_cfg"], "quick_gelu": quick_gelu == "quick_gelu"}
    plain = open_clip.CLIP(**config).eval()
    plain.load_state_dict(load_file(file))
    std = (0.5, 0.5, 0.5) if tag == "squashed" else PreprocessCfg.std
    preprocess = PreprocessCfg(size=32, mean=mean, std=std, resize_mode=resize_mode)
    transform = image_transform_v2(preprocess, is_train=False)
    with torch.no_grad():
        images = torch.stack([transform(Image.open(path)) for path in paths])
        expected = torch.nn.functional.normalize(plain.encode_image(images), dim=-1)
    np.testing.assert_allclose(encoder.transform(paths), expected, atol=1e-5)


def test_a_file_alone_is_told_to_be_ambiguous_once_per_load(architecture, file, fresh_caches):
    message = (
        r"activation GELU; mean .*quick: activation QuickGELU \| squashed: mean \(0\.5, 0\.5, 0\.5"
        r"\).*resize_mode 'squash'.*pretrained='quick:.*'plain:"
    )
    clf = CLIPZeroShotClassifier(architecture, file)
    with pytest.warns(AmbiguousCheckpointWarning, match=message):
        first = clf.fit(None, LABELS)
    clf.fit(None, LABELS).predict([np.zeros((32, 32, 3), np.uint8)])  # warnings are errors here
    assert first.backbone_config_["activation"] == "gelu"


def test_a_file_of_an_architecture_whose_tags_agree_is_not_warned_of(
    architecture, file, monkeypatch
):
    monkeypatch.setitem(tables._PRETRAINED, "small-CLIP", {"plain": TAGS["plain"]})
    CLIPZeroShotClassifier(architecture, file).fit(None, LABELS)
    monkeypatch.setitem(tables._PRETRAINED, "small-CLIP", {})
    load_backbone(architecture, file, CPU)


@pytest.mark.parametrize("tag", TAGS)
def test_a_copy_of_what_the_hub_brought_is_used_as_its_tag(
    architecture, file, hub, tag, fresh_caches
):
    hub(f"someone/{tag}", Path(file).read_bytes())
    by_tag = load_backbone(architecture, tag, CPU)
    by_file = load_backbone(architecture, file, CPU)
    assert told(by_tag) == told(by_file) == WANTED[tag]
    assert by_tag.identity == by_file.identity


def test_a_copy_in_the_safe_format_is_known_too(architecture, file, hub, fresh_caches, monkeypatch):
    """A load takes it where the table names the other format."""
    named = tables._pcfg(hf_hub="someone/named/weights.bin", quick_gelu=True)
    monkeypatch.setitem(tables._PRETRAINED, "small-CLIP", {**TAGS, "quick": named})
    hub("someone/named", Path(file).read_bytes(), "weights.safetensors")
    assert told(load_backbone(architecture, file, CPU)) == WANTED["quick"]


def test_a_file_that_is_no_copy_is_not(architecture, file, hub, fresh_caches):
    content = bytearray(Path(file).read_bytes())
    content[-1] ^= 1
    hub("someone/quick", bytes(content))
    with pytest.warns(AmbiguousCheckpointWarning):
        assert told(load_backbone(architecture, file, CPU)) == WANTED["plain"]


@pytest.mark.parametrize("genuine", [True, False])
def test_a_release_file_is_known_by_its_name_and_checksum(architecture, file, genuine, monkeypatch):
    content = Path(file).read_bytes()
    checksum = hashlib.sha256(content).hexdigest()[:8] if genuine else "0123abcd"
    release = Path(file).with_name(f"small-quick-{checksum}.safetensors")
    release.write_bytes(content)
    entry = tables._pcfg(url=f"https://example.org/v0/{release.name}", quick_gelu=True)
    monkeypatch.setitem(tables._PRETRAINED, "small-CLIP", {"released": entry})
    if genuine:
        assert told(load_backbone(architecture, str(release), CPU))[0] == "quick_gelu"
    else:
        with pytest.warns(AmbiguousCheckpointWarning):
            assert told(load_backbone(architecture, str(release), CPU))[0] == "gelu"


def test_a_tag_before_the_path_is_kept_in_an_adapter_file(
    architecture, file, photographs, tmp_path
):
    paths, labels = photographs
    clf = CLIPSVDClassifier(architecture, f"quick:{file}", max_steps=2, random_state=0)
    clf.fit(paths, labels).save_adapter(tmp_path / "a.safetensors")
    loaded_again = load_adapter(tmp_path / "a.safetensors", architecture, f"quick:{file}")
    np.testing.assert_array_equal(loaded_again.predict_proba(paths), clf.predict_proba(paths))
    with (
        pytest.raises(ValueError, match=r"activation is 'gelu' \(fitted with 'quick_gelu'\)"),
        pytest.warns(AmbiguousCheckpointWarning),
    ):
        loaded_again.set_params(pretrained=file).predict(paths)


@pytest.mark.parametrize(
    ("before", "there", "error", "message"),
    [
        (
            "quik:",
            True,
            ValueError,
            "'quik' is no tag of 'small-CLIP', whose tags are quick",
        ),
        ("quick:", False, FileNotFoundError, "there is no such file"),
        ("", False, FileNotFoundError, "there is no such file"),
    ],
)
def test_a_wrong_tag_or_path(architecture, file, before, there, error, message):
    path = file if there else f"{file}.missing.pt"
    with pytest.raises(error, match=message):
        CLIPZeroShotClassifier(architecture, f"{before}{path}").fit(None, LABELS)


def test_a_file_whose_name_has_a_colon_is_a_file(architecture, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(file).rename("quick:mine.safetensors")
    with pytest.warns(AmbiguousCheckpointWarning):
        backbone = load_backbone(architecture, "quick:mine.safetensors", CPU)
    assert told(backbone) == WANTED["plain"]


# --- TorchScript archives, as OpenAI published them


@pytest.fixture
def archive(architecture, file, tmp_path):
    model = open_clip.CLIP(**SMALL_CONFIG["model_cfg"]).eval()
    model.load_state_dict(load_file(file))
    for name, value in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    mask = model._buffers.pop("attn_mask")
    model.attn_mask = mask  # OpenAI's archives hold none
    inputs = torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, inputs, check_trace=False).save(tmp_path / "small-CLIP.pt")
        state = torch.jit.load(tmp_path / "small-CLIP.pt").state_dict()
    assert {"input_resolution", "context_length", "vocab_size"} < state.keys()
    return tmp_path / "small-CLIP.pt"


def recipe_of(error):
    """The line of code that a message prints."""
    return re.search(r"`(import torch; .*?)`", str(error))[1]


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("by_old_recipe", [False, True])
def test_the_recipe_for_a_torchscript_archive_works(
    architecture, archive, file, by_old_recipe, tmp_path
):
    if by_old_recipe:  # what this package used to print
        state = torch.jit.load(archive).state_dict()
        archive = tmp_path / "state.pt"
        torch.save(state, archive)
    with pytest.raises(ValueError, match="TorchScript archive") as caught:
        CLIPZeroShotClassifier(architecture, f"quick:{archive}").fit(None, LABELS)
    exec(recipe_of(caught.value), {})
    new = archive.with_name(f"{archive.stem}-weights.pt")
    converted = load_backbone(architecture, f"quick:{new}", CPU)
    assert converted.identity == load_backbone(architecture, f"quick:{file}", CPU).identity


# --- a file that was overwritten is another file


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("before", ["quick:", ""])
@pytest.mark.filterwarnings("ignore::skclipsvd.exceptions.AmbiguousCheckpointWarning")
def test_weights_overwritten_with_equal_size_and_time_are_others(
    architecture, file, in_place, before, tmp_path
):
    first = load_backbone(architecture, f"{before}{file}", CPU)
    other = tmp_path / "other.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, other)
    overwrite(file, other.read_bytes(), in_place)
    second = load_backbone(architecture, f"{before}{file}", CPU)
    assert second.fingerprint != first.fingerprint


def overwrite(path, content, in_place):
    """Write other bytes of the same number, and give the file its old time."""
    path = Path(path)
    status = path.stat()
    assert len(content) == status.st_size
    if in_place:
        path.write_bytes(content)
    else:
        path.with_name("new").write_bytes(content)
        path.with_name("new").replace(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
