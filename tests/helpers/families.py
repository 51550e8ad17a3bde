"""Small models of every family, with random weights, written as open_clip folders."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}

TIMM = {"timm_pool": "", "timm_proj": "linear", "image_size": 160}

VIT = {"image_size": 32, "layers": 2, "width": 48, "head_width": 16, "patch_size": 8}

FAMILIES = {
    "OpenAI ViT": {
        "vision_cfg": VIT,
        "quick_gelu": True,
    },
    "timm ViT": {"vision_cfg": {**TIMM, "timm_model_name": "test_vit", "timm_pool": "token"}},
    "SigLIP": {
        "vision_cfg": {
            **TIMM, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none",
        },
        "text_cfg": {
            **TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True, "width": 64,
        },
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
    },
    "EVA02": {
        "vision_cfg": {
            **TIMM, "timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token",
            "image_size": 224,
        },
        "custom_text": True,
    },
    "ConvNeXt": {"vision_cfg": {**TIMM, "timm_model_name": "test_convnext"}},
    "ModifiedResNet": {
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    },
    "MobileCLIP": {
        "vision_cfg": {
            "timm_model_name": "fastvit_mci0", "timm_pool": "avg", "timm_proj": None,
            "image_size": 64,
        },
        "custom_text": True,
    },
    "CoCa": {
        "vision_cfg": {
            **VIT, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True,
        },
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True, "context_length": 76},
        "multimodal_cfg": {
            "context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
            "attn_pooler_heads": 4,
        },
        "custom_text": True,
    },
    "ViTamin": {
        "vision_cfg": {
            "timm_model_name": "vitamin_small_224", "timm_pool": "", "timm_proj": "linear",
            "image_size": 224,
        },
        "custom_text": True,
    },
}  # fmt: skip


def write_model(folder, config):
    """Write a local model folder: configuration, and weights from a fixed seed."""
    config = {"embed_dim": 32, "text_cfg": TEXT, **config}
    preprocess = {"size": config["vision_cfg"]["image_size"]}
    content = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors"
    )
    return f"local-dir:{folder}"


def bert_look_alike(folder, dropout=0.0):
    """Save a small BERT configuration and vocabulary, and describe BiomedCLIP's kind of model."""
    transformers = pytest.importorskip("transformers")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "photo",
        "of",
        "temple",
        "flower",
        ".",
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    ).save_pretrained(folder)  # fmt: skip
    return {
        "vision_cfg": {**TIMM, "timm_model_name": "test_vit", "timm_pool": "token"},
        "text_cfg": {
            "hf_model_name": str(folder), "hf_tokenizer_name": str(folder),
            "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 32,
        },
        "custom_text": True,
    }  # fmt: skip
