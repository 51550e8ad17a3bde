"""The page that a repository of the hub shows of a fitted classifier."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCardData
from open_clip.pretrained import get_pretrained_cfg

from ..clip import class_texts, is_published
from ..clip.prompts import as_list
from ..clip.tags import clean_name
from ..labels import plain

if TYPE_CHECKING:
    from ._base import BaseCLIPClassifier

_HUB = "hf-hub:"
_CLASSES_AT_MOST = 1000
_METHODS = {
    "CLIPSVDClassifier": (
        "singular values of the weights were tuned ([CLIP-SVD](https://arxiv.org/abs/2509.03740))"
    ),
    "CLIPLoRAClassifier": (
        "low-rank additions to the weights were tuned "
        "([CLIP-LoRA](https://arxiv.org/abs/2405.18541))"
    ),
    "CLIPZeroShotClassifier": "nothing was tuned: its classes are texts (zero-shot)",
}
_ONE_OF = "It answers one of these classes, whatever an image shows"
_ANY_OF = "Each label has a probability of its own, and an image may get several labels or none"
_LIMITS = (
    "{}, and its probabilities are not calibrated. Check it on images of your own. Backbone and "
    "images have terms of their own."
)


def model_card(estimator: BaseCLIPClassifier, repository: str, scores: Mapping[str, Any]) -> str:
    """Describe a fitted classifier in Markdown; nothing is loaded for it.

    Parameters
    ----------
    estimator : classifier of this package
        Fitted.
    repository : str
        ``"OWNER/NAME"``, from where the card says to load it.
    scores : mapping of str to number or str
        What its author measured.

    Returns
    -------
    card : str
    """
    kind, several = type(estimator).__name__, estimator._gives_several
    parts = [
        f"---\n{_header(estimator)}\n---",
        f"# {repository.partition('/')[2]}",
        f"An image classifier of {len(estimator.classes_):,} "
        f"{'labels, any number per image' if several else 'classes'}: CLIP, in which "
        f"{_METHODS.get(kind, 'a part was tuned')}, by "
        "[skclipsvd](https://github.com/skclipsvd/skclipsvd). The file holds what was fitted, and "
        "no code; the frozen weights are loaded by their name.",
        *_use(estimator, repository),
        "## Backbone",
        _table(("", ""), _backbone(estimator)),
        "## Fit",
        _table(("", ""), _fit(estimator)),
    ]
    if scores:
        parts += [
            "## Scores",
            "As its author measured them:",
            _table(("score", "value"), ((name, _number(value)) for name, value in scores.items())),
        ]
    parts += ["## Classes", _classes(estimator)]
    parts += ["## Limits", _LIMITS.format(_ANY_OF if several else _ONE_OF)]
    return "\n\n".join(parts) + "\n"


def _header(estimator: BaseCLIPClassifier) -> str:
    data = ModelCardData(
        base_model=_base_model(estimator),
        library_name="skclipsvd",
        pipeline_tag="image-classification",
        tags=["clip", "few-shot-learning"],
    )
    return data.to_yaml().strip()


def _base_model(estimator: BaseCLIPClassifier) -> str | None:
    """Find the repository of the hub that has the backbone."""
    if estimator.model_name.startswith(_HUB):
        return estimator.model_name.removeprefix(_HUB).partition("@")[0]
    if not _pretrained_says_which(estimator) or not estimator.pretrained:
        return None
    entry = get_pretrained_cfg(clean_name(estimator.model_name), estimator.pretrained)
    return os.path.dirname(entry.get("hf_hub", "")) or None


def _use(estimator: BaseCLIPClassifier, repository: str) -> list[str]:
    named = _to_name(estimator)
    advice = (
        "A file chooses no repository, folder or checkpoint that is opened, so the backbone has to "
        "be named; its author knows where it is."
    )
    asked = "".join(f', {name}="{value}"' for name, value in named.items())
    code = (
        "from skclipsvd import load_adapter\n\n"
        f'clf = load_adapter("hf-hub:{repository}"{asked})\n'
        'print(clf.predict(["photo.jpg"]), clf.predict_proba(["photo.jpg"]))'
    )
    return ["## Use", *([advice] if named else []), f"```python\n{code}\n```"]


def _to_name(estimator: BaseCLIPClassifier) -> dict[str, str]:
    """Find what a reader has to pass, without the paths of its author's machine."""
    if estimator.model_name.startswith(_HUB):
        return {"model_name": estimator.model_name}
    if not is_published(estimator.model_name, None):
        return {"model_name": "local-dir:FOLDER"}
    if not is_published(estimator.model_name, estimator.pretrained):
        return {"pretrained": "FILE"}
    return {}


def _backbone(estimator: BaseCLIPClassifier) -> Iterable[tuple[str, str]]:
    named = _to_name(estimator)
    yield "model", named.get("model_name", estimator.model_name)
    if _pretrained_says_which(estimator):
        yield "weights", named.get("pretrained", str(estimator.pretrained))
    yield "fingerprint of the weights", estimator.backbone_fingerprint_
    config = getattr(estimator, "backbone_config_", {})  # 0.1.0 did not keep it
    if "size" in config:
        height, width = config["size"]
        yield "image size", f"{height} x {width} pixels"


def _pretrained_says_which(estimator: BaseCLIPClassifier) -> bool:
    """Whether `pretrained` says which weights."""
    return estimator.model_name != "tiny" and is_published(estimator.model_name, None)


def _fit(estimator: BaseCLIPClassifier) -> Iterable[tuple[str, str]]:
    fitted = vars(estimator)
    yield "estimator", type(estimator).__name__
    n = estimator.n_parameters_
    yield "parameters tuned", f"{fitted.get('n_parameters_tuned_', 0):,} of {n:,}"
    if "strength_" in fitted:
        yield "strength", f"{fitted['strength_']:.3g}, where 0 is the frozen model and 1 the fit"
    if "head_weight_" in fitted:
        share = fitted["head_weight_"]
        yield "head", f"a logistic regression on the embeddings, {share:.0%} of the score"
    losses = fitted.get("loss_curve_", ())
    if len(losses):
        yield "steps", f"{len(losses):,}"
        yield "training loss", f"{losses[0]:.4g} at first, {losses[-1]:.4g} at last"
    if "lr_" in fitted:
        yield "learning rate", f"{fitted['lr_']:.3g}"
    if "best_validation_score_" in fitted:
        yield "validation accuracy", f"{fitted['best_validation_score_']:.3f}"


def _classes(estimator: BaseCLIPClassifier) -> str:
    labels = [plain(label) for label in estimator.classes_]
    templates = as_list(estimator.templates)
    shown = zip(labels, class_texts(labels, estimator.class_names), strict=True)
    rows = [
        (str(label), "; ".join(t.replace("{}", text) for text in texts for t in templates))
        for label, texts in list(shown)[:_CLASSES_AT_MOST]
    ]
    table = _table(("label", "what CLIP reads"), rows)
    hidden = len(labels) - len(rows)
    return f"{table}\n\nAnd {hidden:,} more." if hidden else table


def _number(value: Any) -> str:
    value = plain(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Write text so that Markdown and HTML show it as it is, in one cell."""
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", escape(" ".join(str(text).split()), quote=False))
