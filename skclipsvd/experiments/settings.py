"""Every published setting, as data, and the one default beside them.

A setting is a dict of estimator parameters. One name is not a parameter: ``steps_per_shot``, which
times the number of shots is ``max_steps``.

Sources:

* CLIP-SVD: T. Koleilat, H. Rivaz, Y. Xiao, "Singular Value Few-shot Adaptation of Vision-Language
  Models", arXiv:2509.03740, and its code, HealthX-Lab/CLIP-SVD.
* CLIP-LoRA: M. Zanella, I. Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models",
  CVPR Workshops 2024, arXiv:2405.18541, and its code, MaxZanella/CLIP-LoRA.
* 2SFS: M. Farina, M. Mancini, G. Iacca, E. Ricci, "Rethinking Few-Shot Adaptation of
  Vision-Language Models in Two Stages", CVPR 2025, arXiv:2503.11609.

The defaults of ProKeR, Tip-Adapter-F and SO are what is known of the published settings; their
classes say what is not.
"""

from __future__ import annotations

from typing import Any

NATURAL = (
    "caltech101",
    "dtd",
    "eurosat",
    "fgvc_aircraft",
    "food101",
    "imagenet",
    "oxford_flowers",
    "oxford_pets",
    "stanford_cars",
    "sun397",
    "ucf101",
)
BIOMEDICAL = (
    "btmri",
    "busi",
    "chmnist",
    "covid",
    "ctkidney",
    "kneexray",
    "kvasir",
    "lungcolon",
    "octmnist",
    "retina",
)
# Names of `skclipsvd.experiments.METHODS`, for those who only ask what there is.
METHODS = (
    "zero-shot",
    "linear-probe",
    "proker",
    "tip-adapter-f",
    "so",
    "lora",
    "svd",
    "two-stage-lora",
    "two-stage-svd",
)
IMAGENET_VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")

# The papers' backbones, as open_clip names them.
NATURAL_MODEL = {"model_name": "ViT-B-16", "pretrained": "openai"}
BIOMEDICAL_MODEL = {
    "model_name": "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    "pretrained": "openai",  # not looked at: the repository brings its own weights
}

# What a user gets: the estimators' own defaults, the same for every data set and protocol. The
# tests hold this empty, so that nobody tunes a "default" that the estimators do not have.
DEFAULT: dict[str, dict[str, Any]] = {"svd": {}, "lora": {}}

# --- CLIP-SVD

_SVD = {"batch_size": 32, "weight_decay": 0.01, "augment": True, "layers": "all"}
_SVD_BIOMEDICAL = {**_SVD, "weight_decay": 0.0}

SVD_FEW_SHOT = {**_SVD, "lr": 5e-4, "steps_per_shot": 200}
SVD_FEW_SHOT_BIOMEDICAL = {
    "btmri": {**_SVD_BIOMEDICAL, "lr": 7e-3, "epochs": 100},
    "busi": {**_SVD_BIOMEDICAL, "lr": 2e-3, "epochs": 100},
    "chmnist": {**_SVD_BIOMEDICAL, "lr": 7e-3, "epochs": 100},
    "covid": {**_SVD_BIOMEDICAL, "lr": 5e-4, "epochs": 100},
    "ctkidney": {**_SVD_BIOMEDICAL, "lr": 1e-3, "epochs": 200},
    "kneexray": {**_SVD_BIOMEDICAL, "lr": 8e-3, "epochs": 100},
    "kvasir": {**_SVD_BIOMEDICAL, "lr": 5e-3, "epochs": 100},
    "lungcolon": {**_SVD_BIOMEDICAL, "lr": 3e-3, "epochs": 100},
    "octmnist": {**_SVD_BIOMEDICAL, "lr": 1e-2, "epochs": 100},
    "retina": {**_SVD_BIOMEDICAL, "lr": 7e-3, "epochs": 100},
}
SVD_BASE_TO_NOVEL = {
    "caltech101": {**_SVD, "lr": 4e-4, "epochs": 20},
    "dtd": {**_SVD, "lr": 4e-4, "epochs": 20},
    "eurosat": {**_SVD, "lr": 4e-4, "epochs": 20},
    "fgvc_aircraft": {**_SVD, "lr": 4e-4, "epochs": 20},
    "food101": {**_SVD, "lr": 4e-4, "epochs": 10},
    "imagenet": {**_SVD, "lr": 4e-4, "epochs": 10},
    "oxford_flowers": {**_SVD, "lr": 4e-4, "epochs": 10},
    "oxford_pets": {**_SVD, "lr": 4e-4, "epochs": 20},
    "stanford_cars": {**_SVD, "lr": 4e-4, "epochs": 10},
    "sun397": {**_SVD, "lr": 4e-4, "epochs": 10},
    "ucf101": {**_SVD, "lr": 4e-4, "epochs": 10},
    # The paper has no base-to-novel setting for busi.
    "btmri": {**_SVD_BIOMEDICAL, "lr": 9e-3, "epochs": 100},
    "chmnist": {**_SVD_BIOMEDICAL, "lr": 1e-3, "epochs": 60},
    "covid": {**_SVD_BIOMEDICAL, "lr": 2e-3, "epochs": 50},
    "ctkidney": {**_SVD_BIOMEDICAL, "lr": 1e-2, "epochs": 200, "layers": tuple(range(4, 12))},
    "kneexray": {**_SVD_BIOMEDICAL, "lr": 2e-3, "epochs": 60},
    "kvasir": {**_SVD_BIOMEDICAL, "lr": 3e-3, "epochs": 60},
    "lungcolon": {**_SVD_BIOMEDICAL, "lr": 1e-2, "epochs": 100},
    "octmnist": {**_SVD_BIOMEDICAL, "lr": 2e-2, "epochs": 100},
    "retina": {**_SVD_BIOMEDICAL, "lr": 2e-2, "epochs": 60},
}
SVD_CROSS_DATASET = {**_SVD, "lr": 5e-4, "epochs": 10}
SVD_DOMAIN_GENERALISATION = {**_SVD, "lr": 5e-4, "epochs": 1}

# --- CLIP-LoRA: one setting for every data set and protocol

LORA = {
    "rank": 2,
    "alpha": 1.0,
    "dropout": 0.25,
    "matrices": ("q", "k", "v"),
    "layers": "all",
    "lr": 2e-4,
    "weight_decay": 0.01,
    "batch_size": 32,
    "augment": True,
    "steps_per_shot": 500,
}

# --- 2SFS: the whole budget is 300 steps per shot, of which the first stage takes 60 %

TWO_STAGE = {"share": 0.6}
TWO_STAGE_LORA = {**LORA, "steps_per_shot": 300, **TWO_STAGE}

# --- templates: the data sets bring those of the few-shot experiments; these differ from them

BASE_TO_NOVEL_TEMPLATES = {
    "dtd": "a photo of a {}.",
    "eurosat": "a photo of a {}.",
    "ucf101": "a photo of a {}.",
    "food101": "a photo of {}, a type of food.",
}

FAMILIES = {"natural": NATURAL, "biomedical": BIOMEDICAL}
SETTINGS = ("default", "published")


def parameters(setting: str, protocol: str, method: str, data: str) -> dict[str, Any]:
    """Look up the training parameters of a method.

    Parameters
    ----------
    setting : {"default", "published"}
        Which setting.
    protocol : {"few-shot", "base-to-novel", "cross-dataset", "domain-generalisation"}
        What it is for.
    method : str
        A name of `skclipsvd.experiments.METHODS`.
    data : str
        The name of the data set that is trained on. CLIP-LoRA, and CLIP-SVD in most protocols, have
        one setting for all natural images, which then serves unknown names, too.

    Returns
    -------
    parameters : dict
        Empty where the method trains nothing or the setting leaves all to the estimator.

    Raises
    ------
    ValueError
        An unknown setting, or no published one for this data set.

    Examples
    --------
    >>> from skclipsvd.experiments.settings import parameters
    >>> parameters("default", "few-shot", "svd", "dtd")
    {}
    >>> published = parameters("published", "few-shot", "svd", "dtd")
    >>> published["lr"], published["steps_per_shot"]
    (0.0005, 200)
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting={setting!r}: choose one of {', '.join(SETTINGS)}.")
    two_stage, tuned = method.startswith("two-stage-"), method.removeprefix("two-stage-")
    if tuned not in DEFAULT:
        return {}
    if setting == "default":
        return dict(DEFAULT[tuned])
    if tuned == "lora":
        return dict(TWO_STAGE_LORA if two_stage else LORA)
    # Nobody published CLIP-SVD in two stages: it gets CLIP-SVD's budget, divided as in 2SFS.
    return {**_published_svd(protocol, data), **(TWO_STAGE if two_stage else {})}


def _published_svd(protocol: str, data: str) -> dict[str, Any]:
    if protocol == "few-shot":
        return SVD_FEW_SHOT_BIOMEDICAL.get(data, SVD_FEW_SHOT)
    if protocol == "cross-dataset":
        return SVD_CROSS_DATASET
    if protocol == "domain-generalisation":
        return SVD_DOMAIN_GENERALISATION
    if data not in SVD_BASE_TO_NOVEL:
        raise ValueError(
            f"setting='published': CLIP-SVD has no published {protocol} setting for {data!r}, only "
            f"for {', '.join(SVD_BASE_TO_NOVEL)}. Use setting='default'."
        )
    return SVD_BASE_TO_NOVEL[data]


def template(setting: str, protocol: str, data: str, own: str) -> str:
    """Look up the prompt template for a data set.

    Parameters
    ----------
    setting, protocol, data : str
        As for `parameters`.
    own : str
        The template that comes with the data set.

    Returns
    -------
    template : str
        That of the published base-to-novel experiments where it is another than `own`.

    Examples
    --------
    >>> from skclipsvd.experiments.settings import template
    >>> template("published", "base-to-novel", "dtd", "{} texture.")
    'a photo of a {}.'
    """
    if setting == "published" and protocol == "base-to-novel":
        return BASE_TO_NOVEL_TEMPLATES.get(data, own)
    return own


def backbone(setting: str, data: str) -> dict[str, str]:
    """Look up the model that a setting is for.

    Parameters
    ----------
    setting, data : str
        As for `parameters`.

    Returns
    -------
    model : dict
        ``"model_name"`` and ``"pretrained"``: BiomedCLIP for the published biomedical experiments,
        OpenAI's ViT-B/16 for all else.

    Examples
    --------
    >>> from skclipsvd.experiments.settings import backbone
    >>> backbone("published", "dtd")
    {'model_name': 'ViT-B-16', 'pretrained': 'openai'}
    """
    biomedical = setting == "published" and data in BIOMEDICAL
    return dict(BIOMEDICAL_MODEL if biomedical else NATURAL_MODEL)
