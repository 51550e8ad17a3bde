"""Lets scikit-learn's own checks, which only know numbers, run through the real path code.

Every numeric row becomes a lossless image file; from there on everything is the product's own, but
for a stand-in backbone that reads the numbers back out of the pixels, so that rows stay separable.
"""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import torch
from open_clip.transform import PreprocessCfg
from PIL import Image
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from skclipsvd import (
    CLIPEncoder,
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    OpenSetClassifier,
)
from skclipsvd.clip import Backbone, fingerprint
from skclipsvd.experiments import (
    CLIPSOClassifier,
    ProKeRClassifier,
    TipAdapterFClassifier,
    TwoStageClassifier,
)

SIDE = 32
FOLDER = Path(tempfile.mkdtemp(prefix="numeric rows "))


def to_path(row):
    content = np.ascontiguousarray(row, dtype=np.float64).tobytes()
    path = FOLDER / f"{hashlib.sha1(content).hexdigest()}.png"
    if not path.exists():
        pixels = np.zeros(3 * SIDE * SIDE, dtype=np.uint8)
        pixels[: len(content)] = np.frombuffer(content, dtype=np.uint8)
        Image.fromarray(pixels.reshape(SIDE, SIDE, 3)).save(path)
    return str(path)


class NumericRows:
    """Mixin that takes numeric rows and hands their image files on."""

    def fit(self, X, y, sample_weight=None):
        X, y = validate_data(self, X, y, multi_output=get_tags(self).classifier_tags.multi_label)
        self._fit_paths([to_path(row) for row in X], y, sample_weight)
        validate_data(self, X)
        return self

    def _fit_paths(self, paths, y, sample_weight):
        super().fit(paths, y, sample_weight)

    def _scores(self, X):
        return super()._scores(self._paths(X))

    def _paths(self, X):
        check_is_fitted(self)
        return [to_path(row) for row in validate_data(self, X, reset=False)]

    def _load_backbone(self):
        return BACKBONE

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        return tags


class NumericEmbedder(NumericRows):
    """The same, of an estimator that transforms."""

    def transform(self, X):
        return super().transform(self._paths(X))


class NumericSVD(NumericEmbedder, CLIPSVDClassifier):
    pass


class NumericLoRA(NumericEmbedder, CLIPLoRAClassifier):
    pass


class NumericSO(NumericEmbedder, CLIPSOClassifier):
    pass


class NumericZeroShot(NumericEmbedder, CLIPZeroShotClassifier):
    def fit(self, X, y):
        return super().fit(X, y)

    def _fit_paths(self, paths, y, sample_weight):
        CLIPZeroShotClassifier.fit(self, paths, y)


class NumericEncoder(NumericEmbedder, CLIPEncoder):
    def fit(self, X, y=None):
        X = validate_data(self, X)
        CLIPEncoder.fit(self, [to_path(row) for row in X], y)
        return self


class FirstStage(CLIPSVDClassifier):
    def _load_backbone(self):
        return BACKBONE


class Frozen(CLIPZeroShotClassifier):
    def _load_backbone(self):
        return BACKBONE


class NumericOnTop(NumericRows):
    """The same, of a classifier on top of another one, without sample weights."""

    def fit(self, X, y):
        return super().fit(X, y)

    def _fit_paths(self, paths, y, sample_weight):
        super(NumericRows, self).fit(paths, y)

    def decision_function(self, X):
        return super().decision_function(self._paths(X))

    def predict(self, X):
        return super().predict(self._paths(X))


class NumericTwoStage(NumericOnTop, TwoStageClassifier):
    pass


class NumericProKeR(NumericOnTop, ProKeRClassifier):
    pass


class NumericTipAdapterF(NumericOnTop, TipAdapterFClassifier):
    pass


class NumericOpenSet(NumericRows, OpenSetClassifier):
    def _fit_paths(self, paths, y, sample_weight):
        OpenSetClassifier.fit(self, paths, y, sample_weight)

    def score_samples(self, X):
        return super().score_samples(self._paths(X))

    def decision_function(self, X):
        return super().decision_function(self._paths(X))

    def predict_proba(self, X):
        return super().predict_proba(self._paths(X))

    def predict(self, X):
        return super().predict(self._paths(X))


_TRAINING = dict(max_steps=80, weight_decay=0.0, batch_size=1000, augment=False)
SVD = NumericSVD("stand-in", lr=0.1, **_TRAINING)
LORA = NumericLoRA(
    "stand-in", lr=0.005, dropout=0.0, rank=16, alpha=4.0, matrices=("mlp",), **_TRAINING
)
SO = NumericSO(
    "stand-in",
    lr=0.003,
    density=0.5,
    **{k: v for k, v in _TRAINING.items() if k != "weight_decay"},
)
ZERO_SHOT = NumericZeroShot("stand-in")
ENCODER = NumericEncoder("stand-in")
TWO_STAGE = NumericTwoStage(FirstStage("stand-in", lr=0.1, **_TRAINING))
PROKER = NumericProKeR(Frozen("stand-in"))
TIP_ADAPTER_F = NumericTipAdapterF(Frozen("stand-in"), augment=False)

# A wanted rate of 0: the suite has as few as four rows, and knows no answer that is no class.
OPEN_SET = NumericOpenSet(
    FirstStage("stand-in", lr=0.1, **_TRAINING), false_alarm_rate=0, unknown=-1, cv=2
)


class _Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        nn.init.normal_(self.mlp.fc1.bias)

    def forward(self, x):
        return self.mlp.fc2(torch.cos(self.mlp.fc1(x)))


class _Numbers(nn.Module):
    """Reads float64 numbers back out of pixels and embeds them."""

    def __init__(self, width):
        super().__init__()
        self.spread = nn.Linear(3 * SIDE * SIDE // 8, width, bias=False)
        nn.init.normal_(self.spread.weight)
        self.blocks = nn.ModuleList([_Block(width)])

    def forward(self, pixels):
        bytes_ = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).flatten(1)
        numbers = bytes_.contiguous().view(torch.float64).float()
        return self.blocks[0](self.spread(torch.asinh(numbers)))


class _StandIn(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.visual = _Numbers(width)
        self.words = nn.Embedding(49408, width)
        self.blocks = nn.ModuleList([_Block(width)])
        self.logit_scale = nn.Parameter(torch.tensor(20.0).log())

    @property
    def text(self):
        return self

    def encode_image(self, pixels):
        return self.visual(pixels)

    def encode_text(self, tokens):
        return self.blocks[0](self.words(tokens).sum(dim=1))


def _build():
    import open_clip

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _StandIn().eval().requires_grad_(False)
    preprocess = PreprocessCfg(size=SIDE, mean=(0.0,) * 3, std=(1.0,) * 3)
    return Backbone(
        model, open_clip.SimpleTokenizer(), preprocess, fingerprint(model), torch.device("cpu")
    )


BACKBONE = _build()
