"""One small randomly initialised member of every family of open_clip models, end to end."""

import copy
import pickle
import sys

import numpy as np
import open_clip
import pytest
import torch
from helpers.families import FAMILIES, bert_look_alike, write_model
from open_clip.transform import image_transform_v2
from PIL import Image

from skclipsvd import CLIPSVDClassifier
from skclipsvd.adaptation import LowRankAdaptation, find_targets
from skclipsvd.clip import build_prompts, load_backbone
from skclipsvd.clip.skeleton import structural_copy
from skclipsvd.training.text_encoder import text_encoder

SLOW = {"EVA02", "MobileCLIP", "ViTamin"}


def families():
    for name in (*FAMILIES, "timm ViT with BERT"):
        yield pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [], id=name)


@pytest.fixture(scope="module", params=families())
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = FAMILIES.get(request.param) or bert_look_alike(folder)
    return request.param, write_model(folder, config)


def open_clips_own_scores(model, backbone, paths, classes):
    transform = image_transform_v2(backbone.preprocess, is_train=False)
    images = torch.stack([transform(Image.open(path)) for path in paths])
    tokens = backbone.tokenize([f"a photo of a {name}." for name in classes])
    with torch.no_grad():
        image = torch.nn.functional.normalize(model.encode_image(images), dim=-1)
        text = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
        logits = model.logit_scale.exp() * image @ text.T
        if getattr(model, "logit_bias", None) is not None:
            logits = logits + model.logit_bias
    return logits.numpy()


def three_kinds(photographs):
    """Ten photographs under three names: of two classes `decision_function` is a difference."""
    labels = photographs[1][::2].astype("<U10")
    labels[::4] = "photo"
    return photographs[0][::2], labels


def fresh_model(name):
    return open_clip.create_model(name, pretrained_text=False).eval()


def test_zero_steps_are_open_clips_own_scores(family, photographs):
    paths, labels = three_kinds(photographs)
    clf = CLIPSVDClassifier(family[1], max_steps=0).fit(paths, labels)
    backbone = load_backbone(family[1], None, torch.device("cpu"))
    expected = open_clips_own_scores(fresh_model(family[1]), backbone, paths, clf.classes_)
    np.testing.assert_allclose(clf.decision_function(paths), expected, atol=1e-5, rtol=1e-5)


def test_a_few_steps_lower_the_loss_and_merge_exactly(family, photographs):
    paths, labels = three_kinds(photographs)
    clf = CLIPSVDClassifier(
        family[1], max_steps=8, lr=0.003, weight_decay=0.0, augment=False, random_state=0
    ).fit(paths, labels)
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]
    assert {name.partition(".")[0] for name in clf.singular_values_} == {"image", "text"}
    backbone = load_backbone(family[1], None, torch.device("cpu"))
    usual = [t for t in find_targets(backbone.model) if t.matrix != "conv"]
    assert clf.n_parameters_tuned_ == sum(t.rank for t in usual)
    plain = fresh_model(family[1])
    plain.load_state_dict(clf.merged_state_dict())
    expected = open_clips_own_scores(plain, backbone, paths, clf.classes_)
    np.testing.assert_allclose(clf.decision_function(paths), expected, atol=1e-5, rtol=1e-5)
    loaded = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(loaded.predict_proba(paths), clf.predict_proba(paths))


def test_trained_and_merged_forms_agree(family, photographs):
    """The first loss of a warm start is the loss of the merged model."""
    paths, labels = photographs[0][::2], photographs[1][::2]
    clf = CLIPSVDClassifier(
        family[1], max_steps=3, lr=0.003, augment=False, random_state=0, warm_start=True
    ).fit(paths, labels)
    right = (labels == "temple").astype(int)
    merged = -np.log(clf.predict_proba(paths)[np.arange(len(paths)), right]).mean()
    clf.set_params(max_steps=1).fit(paths, labels)
    assert clf.loss_curve_[0] == pytest.approx(merged, rel=1e-3)


def tensors_of(module):
    return [*module.parameters(), *module.buffers()]


def test_a_skeleton_has_its_own_modules_and_everybodys_tensors(family):
    model = load_backbone(family[1], None, torch.device("cpu")).model
    skeleton = structural_copy(model)
    tensors = tensors_of(model)
    expected = copy.deepcopy(model, memo={id(tensor): tensor for tensor in tensors})
    named = (dict(m.named_modules()) for m in (model, skeleton, expected))
    for (name, original), own, copied in zip(*(n.items() for n in named), strict=True):
        assert type(own[1]) is type(original)
        assert own[1] is not original
        assert list(vars(own[1])) == list(vars(copied[1])), name
        for table in ("_parameters", "_buffers", "_modules", "_forward_hooks"):
            assert getattr(own[1], table) is not getattr(original, table)
        for tensor, same in zip(tensors_of(own[1]), tensors_of(original), strict=True):
            assert tensor is same
    images = torch.rand(2, 3, *np.broadcast_to(model.visual.image_size, 2))
    with torch.no_grad():
        before = model.encode_image(images)
        torch.testing.assert_close(skeleton.encode_image(images), before, rtol=0, atol=0)
        for module in skeleton.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(torch.zeros_like(parameter)))
        torch.testing.assert_close(model.encode_image(images), before, rtol=0, atol=0)


class Counting(torch.nn.Linear):
    """Calls a method of its own as a hook."""

    def __init__(self):
        super().__init__(2, 2)
        self.calls = 0
        self.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1


class CopiedItsOwnWay(Counting):
    def __deepcopy__(self, memo):
        twin = memo[id(self)] = type(self)()
        twin.calls = 100
        return twin


@pytest.mark.parametrize(("kind", "first"), [(Counting, 0), (CopiedItsOwnWay, 100)])
def test_a_skeleton_respects_hooks_repetitions_and_own_copies(kind, first):
    twice = kind()
    model = torch.nn.Sequential(twice, torch.nn.Sequential(), twice)
    skeleton = structural_copy(model)
    assert skeleton[0] is skeleton[2]
    assert skeleton[0] is not twice
    assert skeleton[1] is not model[1]
    skeleton(torch.ones(2))
    assert (skeleton[0].calls, twice.calls) == (first + 2, 0)


@pytest.mark.parametrize("family", ["ModifiedResNet", "ConvNeXt"], indirect=True)
def test_spatial_kernels_where_asked_for(family, photographs):
    paths, labels = photographs[0][::2], photographs[1][::2]
    clf = CLIPSVDClassifier(
        family[1], max_steps=4, lr=0.003, augment=False, matrices=["conv"], random_state=0
    ).fit(paths, labels)
    backbone = load_backbone(family[1], None, torch.device("cpu"))
    kernels = {t.name: t for t in find_targets(backbone.model) if t.matrix == "conv"}
    assert set(clf.singular_values_) == set(kernels)
    frozen = backbone.model.state_dict()
    merged = clf.merged_state_dict()
    changed = [t.tensor for t in kernels.values() if (merged[t.tensor] != frozen[t.tensor]).any()]
    assert changed
    assert all(frozen[name].ndim == 4 for name in changed)
    loss = clf.loss_curve_[-1]
    assert np.isfinite(loss)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_what_is_left_out_of_prompts_changes_nothing(family, dropout):
    backbone = load_backbone(family[1], None, torch.device("cpu"))
    texts = [["temple"], ["flower"], ["a photo of a temple"]]
    prompts = build_prompts(texts, ["a photo of a {}.", "{}"], backbone.tokenize)
    adaptation = LowRankAdaptation([], {}, 1.0, dropout, backbone.device)
    encode = text_encoder(backbone.skeleton(), prompts.tokens, adaptation)
    with torch.no_grad():
        full = backbone.model.encode_text(prompts.tokens)
        torch.testing.assert_close(encode(), full, atol=1e-5, rtol=1e-4)
    never_cut = family[0] in {"SigLIP", "CoCa"}
    assert (encode.n_tokens == prompts.tokens.numel()) == never_cut
    longest = max(len(row.nonzero()) for row in prompts.tokens)
    shared = encode.n_tokens < len(prompts.tokens) * longest / 1.5
    assert shared == (not never_cut and "BERT" not in family[0] and dropout == 0)


def test_a_text_towers_own_dropout_is_on_in_training_only(photographs, tmp_path):
    name = write_model(tmp_path, bert_look_alike(tmp_path, dropout=0.5))
    settings = dict(max_steps=1, augment=False)
    fits = [
        CLIPSVDClassifier(name, random_state=s, **settings).fit(*photographs) for s in (0, 0, 1)
    ]
    losses = [clf.loss_curve_[0] for clf in fits]
    assert losses[0] == losses[1] != losses[2]
    zero = CLIPSVDClassifier(name, max_steps=0)
    once = zero.fit(*photographs).text_features_
    np.testing.assert_array_equal(zero.fit(*photographs).text_features_, once)


def test_without_transformers_the_error_says_what_to_install(photographs, tmp_path, monkeypatch):
    name = write_model(tmp_path, bert_look_alike(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"skclipsvd\[hf\]"):
        CLIPSVDClassifier(name, max_steps=0).fit(*photographs)


@pytest.mark.slow
def test_biomedclips_look_alike_from_png_files_to_predictions(digits, tmp_path):
    """BiomedCLIP's own configuration but for a small BERT, which nobody has to download."""
    vision = {
        "timm_model_name": "vit_base_patch16_224", "timm_pool": "", "timm_proj": "linear",
        "image_size": 224,
    }  # fmt: skip
    config = bert_look_alike(tmp_path)
    name = write_model(tmp_path, {**config, "vision_cfg": vision, "embed_dim": 512})
    paths, labels = digits[0][:8], ["temple", "flower"] * 4
    clf = CLIPSVDClassifier(name, max_steps=2, batch_size=4, weight_decay=0.0, random_state=0)
    clf.fit(paths, labels)
    assert clf.n_parameters_tuned_ == 12 * 6 * 768 + 2 * 6 * 32
    assert set(clf.predict(paths)) <= {"temple", "flower"}
    np.testing.assert_allclose(clf.predict_proba(paths).sum(axis=1), 1)


@pytest.mark.slow
def test_every_configuration_of_open_clip():
    """Both towers have targets; each row of a tensor once; nothing that the paper freezes."""
    checked = 0
    for name in open_clip.list_models():
        model = on_meta(name)
        targets = find_targets(model)
        parameters = dict(model.named_parameters())
        assert {t.tower for t in targets} == {"image", "text"}, name
        assert len({t.name for t in targets}) == len(targets), name
        rows = [(t.tensor, r) for t in targets for r in (t.rows[0], t.rows[1] - 1)]
        assert len(set(rows)) == len({(t.tensor, *t.rows) for t in targets}) * 2, name
        for target in targets:
            shape = parameters[target.tensor].shape
            assert len(shape) in (2, 4), (name, target)
            assert target.rows[1] <= shape[0]
            frozen = ("embed", "norm", "bias", "ln_", "head.proj", "text_projection", "visual.proj")
            assert not any(word in target.tensor for word in frozen), (name, target)
        checked += 1
    assert checked >= 144


def on_meta(name):
    """Build a configuration without weights; Hugging Face towers from their class's defaults."""
    import transformers

    kinds = {"xlm-roberta": "xlm-roberta", "roberta": "roberta", "mt5": "mt5", "nllb": "m2m_100"}

    def local(hf_name, *args, **kwargs):
        kind = next(kind for word, kind in kinds.items() if word in str(hf_name))
        return transformers.AutoConfig.for_model(kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.AutoConfig, "from_pretrained", local)
        with torch.device("meta"):  # Hugging Face towers would take real memory first
            return open_clip.create_model(name, pretrained_text=False, device="meta")
