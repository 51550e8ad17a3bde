"""What a fit changed: singular values, heads, one image's scores, and words for heads."""

import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from helpers.families import FAMILIES, TEXT, VIT, bert_look_alike, write_model
from open_clip.transform import image_transform_v2
from open_clip.transformer import TextTransformer
from PIL import Image
from safetensors.torch import save_file
from sklearn.exceptions import NotFittedError
from torch import nn

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.adaptation.heads import compare_heads, find_heads, relative_change
from skclipsvd.clip import load_backbone
from skclipsvd.inspection import (
    describe_heads,
    explain_prediction,
    head_changes,
    load_concepts,
    singular_value_changes,
)
from skclipsvd.inspection.contributions import (
    leading_directions,
    split,
    splittable_image_tower,
    splittable_text_tower,
)
from skclipsvd.inspection.phrases import embed_phrases
from skclipsvd.inspection.pursuit import centred_units, describe_direction, text_span

CPU = torch.device("cpu")
TINY = Path(__import__("skclipsvd").__file__).parent / "models" / "tiny.json"
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (40, 60, 220),
    "yellow": (240, 220, 40),
    "purple": (140, 40, 160),
    "orange": (250, 140, 20),
    "black": (10, 10, 10),
    "white": (250, 250, 250),
}
# What the tiny model's captions were made of.
WORDS = [
    *COLOURS, "circle", "square", "triangle", "star", "heart", "zero", "one", "two", "three",
    "four", "five", "letter", "digit", "left", "right", "top", "bottom", "small", "large",
]  # fmt: skip


@pytest.fixture(scope="module")
def svd(digits):
    paths, labels = digits
    settings = dict(lr=0.01, max_steps=8, augment=False, random_state=0)
    return CLIPSVDClassifier("tiny", **settings).fit(paths[:64], labels[:64])


@pytest.fixture(scope="module")
def lora(digits):
    paths, labels = digits
    settings = dict(lr=0.003, max_steps=4, augment=False, random_state=0)
    return CLIPLoRAClassifier("tiny", **settings).fit(paths[:64], labels[:64])


@pytest.fixture(scope="module")
def frozen():
    return load_backbone("tiny", None, CPU).model


# ---------------------------------------------------------------- singular values


def test_every_singular_value_before_and_after(svd, frozen):
    table = singular_value_changes(svd)
    assert list(table.columns) == [
        "tower", "block", "matrix", "index", "before", "after", "relative_change",
    ]  # fmt: skip
    assert len(table) == svd.n_parameters_tuned_
    width = 128
    block = frozen.visual.transformer.resblocks[4]
    matrices = {
        "v": block.attn.in_proj_weight[2 * width :],
        "o": block.attn.out_proj.weight,
        "proj": block.mlp.c_proj.weight,
    }
    for role, matrix in matrices.items():
        chosen = (table.tower == "image") & (table.block == 4) & (table.matrix == role)
        rows = table[chosen]
        expected = np.linalg.svd(matrix.detach().numpy().astype(float), compute_uv=False)
        np.testing.assert_allclose(rows.before, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(rows.after, svd.singular_values_[f"image.4.{role}"])
        np.testing.assert_array_equal(rows["index"], range(width))
        np.testing.assert_allclose(
            rows.relative_change, (rows.after - rows.before) / rows.before, rtol=1e-6
        )
    assert (table.relative_change != 0).any()


def test_change_of_nothing():
    start, after = np.array([0.0, 0.0, 0.0, 2.0]), np.array([0.0, 1.0, -1.0, 1.0])
    with np.errstate(all="raise"):
        found = relative_change(after - start, start)
    np.testing.assert_array_equal(found, [0, np.inf, -np.inf, -0.5])


def test_without_pandas_tables_are_dicts(svd, digits, monkeypatch):
    frames = singular_value_changes(svd), head_changes(svd)
    explanation = explain_prediction(svd, digits[0][70])
    monkeypatch.setitem(sys.modules, "pandas", None)
    for frame, rows in zip(frames, (singular_value_changes(svd), head_changes(svd)), strict=True):
        assert rows == frame.to_dict("records")
        assert {type(value) for value in rows[0].values()} <= {str, int, float}
    bare = explain_prediction(svd, digits[0][70])
    assert bare.components[0] == dict(tower="image", block=None, head=None, kind="embedding")
    label = svd.classes_[3]
    ranked = explanation.table(label)
    assert [row["change"] for row in bare.table(label)] == ranked.change.tolist()
    assert explanation.components.block.dtype == "Int64"


def test_only_what_was_tuned_has_changes(svd, lora):
    with pytest.raises(TypeError, match=r"CLIPLoRAClassifier.*head_changes"):
        singular_value_changes(lora)
    zero_shot = CLIPZeroShotClassifier("tiny").fit(None, ["a", "b"])
    for function in (singular_value_changes, head_changes, describe_heads):
        with pytest.raises(TypeError, match="CLIPZeroShotClassifier"):
            function(zero_shot)
    with pytest.raises(TypeError, match="str"):
        explain_prediction("tiny", "x.png")
    for function in (singular_value_changes, head_changes, describe_heads):
        with pytest.raises(NotFittedError):
            function(CLIPSVDClassifier("tiny"))
    with pytest.raises(NotFittedError):
        explain_prediction(CLIPSVDClassifier("tiny"), "x.png")


def test_other_weights_are_noticed(digits, small_model):
    clf = CLIPSVDClassifier("tiny", max_steps=0).fit(digits[0][:20], digits[1][:20])
    clf.model_name = small_model
    for function in (singular_value_changes, head_changes):
        with pytest.raises(ValueError, match="fingerprint"):
            function(clf)


# ---------------------------------------------------------------- heads


def dense_change(before, after, block, head, width=128, head_width=32):
    """The definition: products of size width x width, in float64."""
    rows = slice(head * head_width, (head + 1) * head_width)

    def products(model):
        attention = model.visual.transformer.resblocks[block].attn
        q, k, v = (w[rows].double() for w in attention.in_proj_weight.detach().chunk(3))
        o = attention.out_proj.weight.detach().double()[:, rows]
        return o @ v, q.T @ k

    return [
        float((new - old).norm() / old.norm())
        for old, new in zip(products(before), products(after), strict=True)
    ]


def test_head_changes_are_those_of_the_products(svd, lora, frozen):
    for clf in (svd, lora):
        table = head_changes(clf)
        assert list(table.columns) == [
            "tower", "block", "head", "value_output", "query_key", "change",
        ]  # fmt: skip
        assert table.change.is_monotonic_decreasing
        assert len(table) == (6 + 3) * 4
        np.testing.assert_array_equal(
            table.change, table[["value_output", "query_key"]].max(axis=1)
        )
        merged = clf.merged_model()
        for block, head in ((0, 0), (5, 3), (2, 1)):
            row = table[(table.tower == "image") & (table.block == block) & (table["head"] == head)]
            expected = dense_change(frozen, merged, block, head)
            found = [row.value_output.item(), row.query_key.item()]
            np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("role", ["q", "k", "v", "o"])
def test_one_heads_own_rows_and_columns_change_no_other(digits, tower, role):
    clf = CLIPLoRAClassifier("tiny", max_steps=0, matrices=("q", "k", "v", "o"), random_state=0)
    clf.fit(digits[0][:20], digits[1][:20])
    own, rng = slice(64, 96), np.random.RandomState(0)  # head 2 of width 32
    a, b = (clf.factors_[f"{tower}.1.{role}/{part}"] for part in "ab")
    if role == "o":
        a[:, : own.start], a[:, own.stop :] = 0, 0
        b[:] = rng.standard_normal(b.shape)
    else:
        b[own] = rng.standard_normal(b[own].shape)
    table = head_changes(clf)
    top = table.iloc[0]
    assert (top.tower, top.block, top["head"]) == (tower, 1, 2)
    changed, same = ("value_output", "query_key")[:: 1 if role in "vo" else -1]
    assert top[changed] > 0.01
    assert top[same] == 0
    assert (table.change[1:] == 0).all()
    assert len(head_changes(clf, tower=tower)) == {"image": 24, "text": 12}[tower]


def test_zero_steps_change_no_head(digits):
    clf = CLIPSVDClassifier("tiny", max_steps=0).fit(digits[0][:20], digits[1][:20])
    assert (head_changes(clf).change == 0).all()
    assert (singular_value_changes(clf).relative_change == 0).all()
    with pytest.raises(ValueError, match="no head of the image tower changed"):
        describe_heads(clf)


@pytest.mark.parametrize("family", ["ModifiedResNet", "ConvNeXt"])
def test_towers_without_heads_say_so(family, photographs, tmp_path):
    name = write_model(tmp_path, FAMILIES[family])
    clf = CLIPSVDClassifier(name, max_steps=1, augment=False).fit(*photographs)
    assert set(head_changes(clf).tower) == {"text"}
    with pytest.raises(ValueError, match=rf"the image tower \({family}\) has no blocks of"):
        head_changes(clf, tower="image")
    for function in (describe_heads, lambda clf: explain_prediction(clf, photographs[0][0])):
        with pytest.raises(ValueError, match=rf"the image tower \({family}\) cannot be split"):
            function(clf)
    model = clf.merged_model()
    model.transformer = nn.Identity()
    with pytest.raises(ValueError, match=rf"image tower \({family}\) and the text tower \(Ident"):
        compare_heads(model, model)


def test_unknown_tower(svd):
    with pytest.raises(ValueError, match="tower='vision'"):
        head_changes(svd, tower="vision")


class Wrapped(nn.Module):
    """A timm model where open_clip has it."""

    def __init__(self, name, **settings):
        super().__init__()
        self.visual = nn.Module()
        self.visual.trunk = timm.create_model(name, **settings).eval()

    def forward(self, pixels):
        return self.visual.trunk(pixels)


class Text(nn.Module):
    """A Hugging Face text model where open_clip has it."""

    def __init__(self, kind, **settings):
        super().__init__()
        transformers = pytest.importorskip("transformers")
        self.visual, self.text = nn.Module(), nn.Module()
        config = transformers.AutoConfig.for_model(kind, vocab_size=50, **settings)
        self.text.config = config
        whole = transformers.AutoModel.from_config(config).eval()
        self.text.transformer = whole.encoder if config.is_encoder_decoder else whole

    def forward(self, tokens):
        return self.text.transformer(tokens).last_hidden_state


def images_of(size):
    return torch.from_numpy(np.random.RandomState(0).randn(2, 3, size, size).astype(np.float32))


TOKENS = torch.arange(3, 15).reshape(2, 6)
SWIN = dict(img_size=56, embed_dim=24, depths=(1, 1), num_heads=(2, 4), window_size=7)
BERT = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32
)  # fmt: skip
T5 = dict(d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3)
LAYOUTS = {
    "ViT": (lambda: Wrapped("test_vit"), images_of(160)),
    "rotary": (lambda: Wrapped("test_vit4"), images_of(160)),
    "EVA": (lambda: Wrapped("eva02_tiny_patch14_224", img_size=28, depth=2), images_of(28)),
    "EVA-01": (lambda: Wrapped("eva_giant_patch14_224", img_size=28, depth=1, embed_dim=48,
                               num_heads=4), images_of(28)),
    "relative": (lambda: Wrapped("vit_relpos_small_patch16_224", img_size=32, depth=2),
                 images_of(32)),
    "Swin": (lambda: Wrapped("swin_tiny_patch4_window7_224", **SWIN), images_of(56)),
    "BERT": (lambda: Text("bert", **BERT), TOKENS),
    "XLM-R": (lambda: Text("xlm-roberta", **BERT), TOKENS),
    "T5": (lambda: Text("mt5", **T5), TOKENS),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_and_columns_of_a_head_are_one_head_in_every_family(layout):
    """Without its value rows, or without its output columns, a head says the same: nothing.

    And then it does not matter what it looks at.
    """
    build, inputs = LAYOUTS[layout]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().eval()
        for parameter in model.parameters():  # layer scales start near zero
            parameter.data += 0.1 * torch.randn_like(parameter)
    found = find_heads(model)
    assert found
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for heads in found:
        head, width = heads.n_heads - 2, heads.v.shape[0] // heads.n_heads
        own = slice(head * width, (head + 1) * width)

        def with_rows(role, value, heads=heads, own=own):
            target = getattr(heads, role)
            changed = {k: v.clone() for k, v in state.items()}
            start = target.rows[0]
            rows = slice(start + own.start, start + own.stop)
            changed[target.tensor][rows] = value
            bias = target.tensor.replace("weight", "bias")
            if bias in changed and role == "v":
                changed[bias][rows] = 0
            bias = target.tensor.replace("qkv.weight", "v_bias")  # EVA keeps it elsewhere
            if bias in changed and role == "v":
                changed[bias][own] = 0
            return changed

        silent = {k: v.clone() for k, v in state.items()}
        silent[heads.o.tensor][:, own] = 0
        outputs = [run(model, part, inputs) for part in (state, silent, with_rows("v", 0))]
        assert (outputs[0] - outputs[1]).abs().max() > 1e-3
        torch.testing.assert_close(outputs[1], outputs[2], atol=2e-5, rtol=1e-4)
        for role in "qk":
            elsewhere = with_rows(role, 0.3)
            assert (run(model, elsewhere, inputs) - outputs[0]).abs().max() > 1e-5
            elsewhere[heads.o.tensor] = silent[heads.o.tensor]
            torch.testing.assert_close(
                run(model, elsewhere, inputs), outputs[1], atol=2e-5, rtol=1e-4
            )


def run(model, state, inputs):
    model.load_state_dict(state)
    with torch.no_grad():
        return model(inputs)


# ---------------------------------------------------------------- explanations


def write_random_model(folder, config):
    """A model none of whose norms and biases is trivial."""
    content = {"model_cfg": config, "preprocess_cfg": {"size": config["vision_cfg"]["image_size"]}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        for name, parameter in model.named_parameters():
            if name not in ("logit_scale", "logit_bias"):
                parameter.data += 0.1 * torch.randn_like(parameter)
    save_file(model.state_dict(), folder / "model.safetensors")
    return f"local-dir:{folder}"


VARIANTS = {
    "class token": {"vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": True},
    "average": {
        "vision_cfg": {**VIT, "pool_type": "avg", "ls_init_value": 0.3, "no_ln_pre": True},
        "text_cfg": {
            **TEXT, "pool_type": "last", "no_causal_mask": True, "proj_bias": True,
            "ls_init_value": 0.3,
        },
        "custom_text": True,
        "init_logit_bias": -3.0,
    },
    "norm of the average": {
        "vision_cfg": {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407},
        "custom_text": True,
    },
    "first token": {
        "vision_cfg": {**VIT, "patch_dropout": 0.5},
        "text_cfg": {**TEXT, "pool_type": "first", "no_causal_mask": True, "proj_type": "none"},
        "custom_text": True,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=VARIANTS)
def fitted(request, tmp_path_factory, photographs):
    folder = tmp_path_factory.mktemp("variant")
    name = write_random_model(folder, {"embed_dim": 32, **VARIANTS[request.param]})
    templates = ["a photo of a {}.", "{}", "one {} in a picture"]
    class_names = {"temple": ["temple", "old temple"], "flower": "flower"}
    settings = dict(max_steps=3, lr=0.01, augment=False, random_state=0)
    clf = CLIPSVDClassifier(name, templates=templates, class_names=class_names, **settings)
    return clf.fit(*photographs)


def own_scores(model, clf, path):
    """Scores from nothing but open_clip, with the fitted scale."""
    backbone = load_backbone(clf.model_name, clf.pretrained, CPU)
    transform = image_transform_v2(backbone.preprocess, is_train=False)
    pixels = transform(Image.open(path))[None]
    words = {label: [str(label)] for label in clf.classes_}
    for label, text in (clf.class_names or {}).items():
        words[label] = [text] if isinstance(text, str) else text
    templates = [clf.templates] if isinstance(clf.templates, str) else clf.templates
    with torch.no_grad():
        embedding = model.eval().encode_image(pixels)
        texts = []
        for label in clf.classes_:
            prompts = [t.replace("{}", w) for w in words[label] for t in templates]
            units = nn.functional.normalize(model.encode_text(backbone.tokenize(prompts)), dim=-1)
            texts.append(nn.functional.normalize(units.mean(dim=0), dim=0))
        image = nn.functional.normalize(embedding[0], dim=0)
        scores = clf.logit_scale_ * torch.stack(texts) @ image + clf.logit_bias_
    return embedding[0].numpy(), scores.numpy()


def check_explanation(clf, path):
    explanation = explain_prediction(clf, path)
    backbone = load_backbone(clf.model_name, clf.pretrained, CPU)
    embedding, after = own_scores(clf.merged_model(), clf, path)
    _, before = own_scores(backbone.skeleton(), clf, path)
    np.testing.assert_allclose(explanation.embedding, embedding, atol=1e-5)
    np.testing.assert_allclose(explanation.image_contributions.sum(0), embedding, atol=1e-5)
    np.testing.assert_allclose(explanation.scores_after, after, atol=1e-4)
    np.testing.assert_allclose(explanation.scores_before, before, atol=1e-4)
    np.testing.assert_allclose(explanation.changes.sum(axis=0), after - before, atol=1e-4)
    whole = explanation.heat_map.sum(axis=(1, 2)) + explanation.heat_map_rest
    np.testing.assert_allclose(whole, after, atol=1e-4)
    assert explanation.heat_map.shape == (len(clf.classes_), 4, 4)
    assert np.abs(explanation.heat_map).max() > 1e-3
    assert len(explanation.components) == len(explanation.changes)
    assert explanation.prediction == clf.predict([path])[0]
    return explanation


def test_every_variant_adds_up(fitted, photographs):
    explanation = check_explanation(fitted, photographs[0][0])
    assert np.abs(explanation.scores_after - explanation.scores_before).max() > 0.01
    kinds = explanation.components.groupby(["tower", "kind"]).size()
    assert kinds["image", "head"] == 2 * 3
    assert kinds["text", "head"] == 2 * 2
    assert kinds["image", "bias"] == kinds["text", "bias"] == 2 + 1
    assert kinds["image", "mlp"] == kinds["text", "mlp"] == 2
    assert kinds["image", "embedding"] == kinds["text", "embedding"] == 1


def test_texts_add_up(fitted):
    model = fitted.merged_model()
    backbone = load_backbone(fitted.model_name, fitted.pretrained, CPU)
    tokens = backbone.tokenize(["a temple", "a photo of a very old temple in the evening sun"])
    with torch.no_grad():
        expected = model.encode_text(tokens)
    found = split(splittable_text_tower(model), tokens)
    torch.testing.assert_close(found.embedding, expected)
    torch.testing.assert_close(found.contributions.sum(dim=1), expected, atol=1e-5, rtol=0)


def test_texts_add_up_where_padding_is_masked():
    settings = dict(context_length=12, vocab_size=50, width=32, heads=2, layers=2, output_dim=16)
    model = nn.Module()
    model.text = TextTransformer(
        no_causal_mask=True, use_pad_mask=True, pool_type="first", **settings
    )
    model.encode_text = model.text.eval()
    tokens = torch.tensor([[7, 8, 9] + [0] * 9, list(range(20, 32))])
    found = split(splittable_text_tower(model), tokens)
    torch.testing.assert_close(found.contributions.sum(dim=1), model.text(tokens))


@pytest.mark.parametrize("name", ["svd", "lora"])
def test_tiny_adds_up(name, request, digits):
    clf = request.getfixturevalue(name)
    explanation = check_explanation(clf, digits[0][100])
    label = clf.classes_[4]
    ranked = explanation.table(label)
    assert ranked.change.abs().is_monotonic_decreasing
    moved = explanation.scores_after[4] - explanation.scores_before[4]
    assert ranked.change.sum() == pytest.approx(moved, abs=1e-4)
    top = ranked.iloc[0]
    assert explanation.changes[:, 4][np.abs(explanation.changes[:, 4]).argmax()] == top.change
    assert "prediction=" in repr(explanation)
    assert len(repr(explanation)) < 200
    with pytest.raises(ValueError, match="label='ten' is none of the classes"):
        explanation.table("ten")


def test_zero_shot_has_a_map_and_no_changes(digits):
    clf = CLIPZeroShotClassifier("tiny").fit(None, sorted(set(digits[1])))
    explanation = explain_prediction(clf, digits[0][0])
    assert (explanation.changes == 0).all()
    expected = clf.decision_function(digits[0][:1])[0]
    np.testing.assert_allclose(explanation.scores_after, expected, atol=1e-4)


def test_each_part_is_what_the_part_computes(fitted, photographs):
    """One head, one MLP and one patch, from torch's own attention and by the definition."""
    explanation = explain_prediction(fitted, photographs[0][1])
    model = fitted.merged_model()
    visual = model.visual
    backbone = load_backbone(fitted.model_name, fitted.pretrained, CPU)
    transform = image_transform_v2(backbone.preprocess, is_train=False)
    pixels = transform(Image.open(photographs[0][1]))[None]
    pooled = slice(0, 1) if visual.pool_type == "tok" else slice(1, None)
    with torch.no_grad():
        x = visual._embeds(pixels)
        streams, heads, patches, mlps = [x], [], [], []
        for block in visual.transformer.resblocks:
            normed = block.ln_1(x)
            weights = block.attn(normed, normed, normed, average_attn_weights=False)[1][0]
            v = nn.functional.linear(
                normed[0], block.attn.in_proj_weight[96:], block.attn.in_proj_bias[96:]
            )
            columns = block.attn.out_proj.weight.split(16, dim=1)
            each = [  # from every token to every token
                block.ls_1(weights[h][:, :, None] * (v[:, 16 * h : 16 * h + 16] @ columns[h].T))
                for h in range(3)
            ]
            heads.append([part.sum(dim=1) for part in each])
            patches.append(sum(each))
            x = x + block.ls_1(block.attn(normed, normed, normed)[0])
            mlps.append(block.ls_2(block.mlp(block.ln_2(x)))[0])
            x = x + mlps[-1][None]
            streams.append(x)

        def write(parts):
            """Through the last norm of this very image, and the projection: (width)."""
            rows, last = parts[pooled], x[0, pooled]
            if visual.final_ln_after_pool:
                rows, last = rows.mean(0, keepdim=True), last.mean(0, keepdim=True)
            centred = rows - rows.mean(dim=-1, keepdim=True)
            scaled = centred / (last.var(dim=-1, correction=0) + 1e-5).sqrt()[:, None]
            return (scaled * visual.ln_post.weight).mean(dim=0) @ visual.proj

        table = explanation.components

        def found(**place):
            wanted = (table.tower == "image").to_numpy(copy=True)
            for name, value in place.items():
                wanted &= (table[name] == value).fillna(False).to_numpy(dtype=bool)
            (row,) = np.flatnonzero(wanted)
            return torch.from_numpy(explanation.image_contributions[row])

        close = dict(atol=1e-5, rtol=1e-4)
        for block in range(2):
            for head in range(3):
                expected = write(heads[block][head])
                torch.testing.assert_close(found(block=block, head=head), expected, **close)
            expected = write(mlps[block])
            torch.testing.assert_close(found(block=block, kind="mlp"), expected, **close)
        torch.testing.assert_close(found(kind="embedding"), write(streams[0][0]), **close)

        patch = 6  # row 1, column 2; token 0 is the class token
        read = sum(write(part[:, 1 + patch]) for part in patches)
        image = read / np.linalg.norm(explanation.embedding)
        expected = fitted.logit_scale_ * fitted.text_features_ @ image.numpy()
    np.testing.assert_allclose(explanation.heat_map[:, 1, 2], expected, atol=1e-4)


def test_towers_that_cannot_be_split(photographs, tmp_path):
    cases = {
        "timm ViT": ("image", r"VisionTransformer"),
        "CoCa": ("image", r"VisionTransformer"),
        "BERT": ("text", r"BertModel"),
        "norms": ("image", r"VisionTransformer"),
    }
    for family, (tower, kind) in cases.items():
        folder = tmp_path / family
        folder.mkdir()
        config = FAMILIES.get(family)
        if family == "BERT":
            config = {**bert_look_alike(folder), "vision_cfg": VIT}
        elif family == "norms":
            config = {"vision_cfg": {**VIT, "scale_attn_inner": True}}
        clf = CLIPZeroShotClassifier(write_model(folder, config)).fit(None, ["temple", "flower"])
        with pytest.raises(ValueError, match=rf"the {tower} tower \({kind}\) cannot be split"):
            explain_prediction(clf, photographs[0][0])


def test_bad_images_and_changed_texts(svd, digits, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        explain_prediction(svd, "nowhere.png")
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    with pytest.raises(ValueError, match="cannot be decoded"):
        explain_prediction(svd, broken)
    other = svd.with_classes(svd.classes_)
    other.templates = "a drawing of {}"
    with pytest.raises(ValueError, match=r"with_classes"):
        explain_prediction(other, digits[0][0])


def test_nothing_shared_is_left_changed(svd, digits):
    before = svd.predict_proba(digits[0][100:108])
    backbone = load_backbone("tiny", None, CPU)
    explain_prediction(svd, digits[0][0])
    describe_heads(svd, WORDS, digits[0][:8])
    assert not any(module._forward_pre_hooks for module in backbone.model.modules())
    assert backbone.model.positional_embedding.shape[0] == 77
    np.testing.assert_array_equal(svd.predict_proba(digits[0][100:108]), before)


# ---------------------------------------------------------------- descriptions


def squares(n):
    """Pictures of one coloured square each, somewhere on grey."""
    rng = np.random.RandomState(0)
    names, pictures = list(COLOURS), []
    for i in range(n):
        picture = np.full((32, 32, 3), 128, dtype=np.uint8)
        top, left = rng.randint(0, 12, 2)
        picture[top : top + 20, left : left + 20] = COLOURS[names[i % len(names)]]
        pictures.append(picture)
    return pictures, [names[i % len(names)] for i in range(n)]


@pytest.fixture(scope="module")
def colour_head(tmp_path_factory):
    """The tiny model, but its last block's head 0 writes the text of a square's colour."""
    pictures, names = squares(160)
    backbone = load_backbone("tiny", None, CPU)
    model, visual = backbone.skeleton(), backbone.model.visual
    units, _ = centred_units(embed_phrases(WORDS, backbone))
    read = reads_of_last_head(visual, pictures)
    with torch.no_grad():
        centre = torch.eye(128) - 1 / 128
        joint = (centre * visual.ln_post.weight @ visual.proj).double()
        wanted = torch.from_numpy(units[[WORDS.index(n) for n in names]]) @ torch.linalg.pinv(joint)
        written = torch.linalg.pinv(read - read.mean(dim=0), rtol=1e-3) @ wanted
        u, s, vh = torch.linalg.svd(written)
        attention = model.visual.transformer.resblocks[5].attn
        rows, columns = attention.in_proj_weight.clone(), attention.out_proj.weight.clone()
        rows[256:288] = (u[:, :32] * s[:32].sqrt()).T
        columns[:, :32] = vh[:32].T * s[:32].sqrt()
        attention.in_proj_weight, attention.out_proj.weight = map(nn.Parameter, (rows, columns))
    folder = tmp_path_factory.mktemp("colour")
    (folder / "open_clip_config.json").write_text(TINY.read_text())
    save_file(
        {k: v.detach().contiguous() for k, v in model.state_dict().items()},
        folder / "model.safetensors",
    )
    clf = CLIPSVDClassifier(f"local-dir:{folder}", max_steps=1, lr=1e-4, augment=False)
    return clf.fit(pictures[:16], names[:16]), pictures


@torch.no_grad()
def reads_of_last_head(visual, pictures):
    """What the attention of the last block's head 0 reads for the class token."""
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
    x = visual._embeds(pixels)
    for block in visual.transformer.resblocks[:5]:
        x = block(x)
    last = visual.transformer.resblocks[5]
    normed = last.ln_1(x)
    weights = last.attn(normed, normed, normed, average_attn_weights=False)[1]
    return torch.einsum("bt,btd->bd", weights[:, 0, 0], normed).double()


def test_a_head_that_writes_colours_is_described_by_colours(colour_head):
    clf, pictures = colour_head
    found = describe_heads(clf, WORDS, pictures, n_heads=24)
    rows = found[(found.block == 5) & (found["head"] == 0)]
    assert rows["rank"].tolist() == [1, 2, 3, 4, 5]
    assert set(rows.text) <= COLOURS.keys()
    assert rows.explained.is_monotonic_increasing
    assert rows.explained.iloc[-1] > 0.7
    words = ", ".join(rows.text)
    assert set(rows.description) == {f"image block 5, head 0: {words}"}
    others = found[found["rank"] == 1].text.isin(COLOURS)
    assert others.mean() < 0.7  # other heads see other things in the same pictures


def test_its_weights_alone_say_colours_too(colour_head):
    clf, _ = colour_head
    found = describe_heads(clf, WORDS, n_heads=24, n_directions=2, n_texts=2)
    rows = found[(found.block == 5) & (found["head"] == 0)]
    assert set(rows.direction) == {1, 2}
    assert set(rows.text) <= COLOURS.keys()


def test_text_span_explains_what_projection_explains(frozen):
    backbone = load_backbone("tiny", None, CPU)
    units, _ = centred_units(embed_phrases(WORDS, backbone))
    rng = np.random.RandomState(0)
    shares = rng.dirichlet(np.full(8, 0.3), size=200)
    outputs = shares @ units[:8] + 0.01 * rng.standard_normal((200, 128)) + 3.0
    chosen = text_span(outputs, units, 8)
    assert {WORDS[i] for i, _ in chosen[:6]} <= COLOURS.keys()
    centred = outputs - outputs.mean(axis=0)
    for n in (1, 4, 8):
        basis = np.linalg.qr(units[[i for i, _ in chosen[:n]]].T)[0]
        share = ((centred @ basis) ** 2).sum() / (centred**2).sum()
        assert chosen[n - 1][1] == pytest.approx(share, rel=1e-6)
    assert text_span(np.zeros((5, 128)), units, 3) == []


def test_text_span_ignores_texts_beside_the_outputs():
    outputs = np.diag([3.0, 2.0, 0, 0])[[0, 1, 0, 1]] * np.array([1, 1, -1, -1])[:, None]
    texts = np.array([[0.1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    found = text_span(outputs, texts / np.linalg.norm(texts, axis=1, keepdims=True), 4)
    assert [index for index, _ in found] == [1, 2]
    np.testing.assert_allclose([share for _, share in found], [9 / 13, 1])


def test_a_mixture_is_found_again_whichever_way_it_points():
    rng = np.random.RandomState(0)
    units, mean = centred_units(rng.standard_normal((300, 64)))
    mixture = units[[7, 20, 3]].T @ [1.0, 0.7, 0.4]
    along = mean / np.linalg.norm(mean)
    mixture -= (mixture @ along) * along
    mixture /= np.linalg.norm(mixture)
    for sign in (1, -1):
        found = describe_direction(sign * mixture, units, mean, 3)
        assert {index for index, _, _ in found} == {7, 20, 3}
        assert all(weight > 0 for _, weight, _ in found)
        weights = np.array([weight for _, weight, _ in found])
        chosen = units[[index for index, _, _ in found]]
        rest = mixture - weights @ chosen
        assert found[-1][2] == pytest.approx(1 - rest @ rest, abs=1e-9)
        assert found[-1][2] > 0.98
    opposite = describe_direction(np.eye(3)[0], np.array([[-1.0, 0, 0]]), np.eye(3)[2], 2)
    assert opposite == [(0, 1.0, 1.0)]


def test_directions_are_the_singular_vectors_of_the_whole_matrix(svd):
    model = svd.merged_model()
    block = model.visual.transformer.resblocks[3]
    with torch.no_grad():
        value = block.attn.in_proj_weight[256 + 64 : 256 + 96] * block.ln_1.weight
        written = block.attn.out_proj.weight[:, 64:96] @ value
        written = (written - written.mean(dim=0)) * model.visual.ln_post.weight[:, None]
        dense = (model.visual.proj.T @ written).double().numpy()
    directions, values = leading_directions(splittable_image_tower(model), block=3, head=2)
    u, expected, _ = np.linalg.svd(dense)
    np.testing.assert_allclose(values, expected[:32], rtol=1e-4)
    np.testing.assert_allclose(np.abs(np.diag(directions[:, :3].T @ u[:, :3])), 1, atol=1e-3)


@pytest.fixture(scope="module")
def two_fits(digits):
    paths, labels = digits
    settings = dict(lr=0.01, max_steps=20, augment=False)
    fits = [CLIPSVDClassifier("tiny", random_state=seed, **settings) for seed in (0, 1)]
    return [clf.fit(paths[:96], labels[:96]) for clf in fits]


@pytest.mark.parametrize("with_images", [True, False])
def test_descriptions_are_stable_over_seeds(two_fits, digits, with_images):
    X = digits[0][:100] if with_images else None
    key = ["block", "head"] if with_images else ["block", "head", "direction"]
    tables = [describe_heads(clf, WORDS, X, n_heads=24) for clf in two_fits]
    assert not np.array_equal(*(head_changes(clf).change for clf in two_fits))
    texts = [table.groupby(key).text.apply(set) for table in tables]
    shared = [len(texts[0][k] & texts[1][k]) / len(texts[0][k]) for k in texts[0].index]
    assert np.mean(shared) > 0.75
    again = describe_heads(two_fits[0], WORDS, X, n_heads=24)
    assert again.equals(tables[0])


def test_the_most_changed_heads_are_described(lora, digits):
    ranked = head_changes(lora, tower="image")
    found = describe_heads(lora, "biomedical", n_heads=3, n_texts=2, n_directions=1)
    heads = found.drop_duplicates(["block", "head"])
    assert heads[["block", "head"]].values.tolist() == ranked[["block", "head"]].values.tolist()[:3]
    np.testing.assert_array_equal(heads.change, ranked.change[:3])
    assert set(found.text) <= set(load_concepts("biomedical"))
    assert (found.weight > 0).all()
    assert found.explained.between(0, 1).all()
    assert found.strength.between(0, 1).all()
    assert set(found.tower) == {"image"}
    with_images = describe_heads(lora, ["red", "blue", "zero", "red"], digits[0][:20], n_heads=100)
    assert len(with_images.drop_duplicates(["block", "head"])) == (ranked.change > 0).sum()
    assert not with_images.duplicated(["block", "head", "text"]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(texts="generic"), r"texts='generic'.*'biomedical', 'general'"),
        (dict(texts=["red"]), "two or more"),
        (dict(texts=["red", ""]), r"texts\[1\]"),
        (dict(texts=["red", 3]), r"texts\[1\] = 3"),
        (dict(n_heads=0), "n_heads=0"),
        (dict(n_texts=1.5), "n_texts=1.5"),
        (dict(n_directions=True), "n_directions=True"),
        (dict(X=["x.png", "y.png"], n_directions=2), "n_directions is for"),
        (dict(X=["x.png"]), "one image"),
    ],
)
def test_arguments_that_make_no_sense(svd, arguments, message):
    with pytest.raises(ValueError, match=message):
        describe_heads(svd, **arguments)
