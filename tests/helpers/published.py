"""The published updates, re-implemented literally and independently of the package.

CLIP-SVD: every adapted matrix is three layers (V, s, U). CLIP-LoRA: a low-rank product beside the
frozen one. Attention is written out; every prompt is padded to the full context; AdamW with torch's
own cosine schedule. Only open_clip's building blocks and the tokeniser are borrowed.
"""

import torch
from torch import nn
from torch.nn import functional as F


class ThreeLayers(nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        self.v = nn.Linear(vh.shape[1], vh.shape[0], bias=False)
        self.u = nn.Linear(u.shape[1], u.shape[0], bias=True)
        self.v.weight, self.u.weight = nn.Parameter(vh), nn.Parameter(u)
        self.u.bias = nn.Parameter(bias.clone())
        for frozen in (*self.v.parameters(), *self.u.parameters()):
            frozen.requires_grad_(False)
        self.s = nn.Parameter(s)

    def forward(self, x):
        return self.u(self.v(x) * self.s)


class PlainAttention(nn.Module):
    def __init__(self, attention):
        super().__init__()
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        self.q, self.k, self.v = (ThreeLayers(w, b) for w, b in zip(weights, biases, strict=True))
        self.o = ThreeLayers(attention.out_proj.weight, attention.out_proj.bias)
        self.heads = attention.num_heads

    def forward(self, query, key, value, need_weights=False, attn_mask=None):
        n, length, width = query.shape
        q, k, v = (
            layer(query).reshape(n, length, self.heads, width // self.heads).permute(0, 2, 1, 3)
            for layer in (self.q, self.k, self.v)
        )
        weights = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        if attn_mask is not None:
            weights = weights + attn_mask
        mixed = (weights.softmax(dim=-1) @ v).permute(0, 2, 1, 3).reshape(n, length, width)
        return self.o(mixed), None


def factorise(model):
    """Rewrite a private open_clip model into the published layers, in place."""
    model.requires_grad_(False)
    for transformer in (model.visual.transformer, model.transformer):
        for block in transformer.resblocks:
            block.attn = PlainAttention(block.attn)
            fc, proj = block.mlp.c_fc, block.mlp.c_proj
            dtype_witness = fc.weight
            block.mlp.c_fc = ThreeLayers(fc.weight, fc.bias)
            block.mlp.c_proj = ThreeLayers(proj.weight, proj.bias)
            block.mlp.c_fc.weight = dtype_witness  # open_clip looks at its dtype
    return model


def singular_values(model):
    found = {}
    for tower, transformer in (("image", model.visual.transformer), ("text", model.transformer)):
        for i, block in enumerate(transformer.resblocks):
            for role in "qkvo":
                found[f"{tower}.{i}.{role}"] = getattr(block.attn, role).s
            found[f"{tower}.{i}.fc"] = block.mlp.c_fc.s
            found[f"{tower}.{i}.proj"] = block.mlp.c_proj.s
    return found


class LoRALinear(nn.Module):
    """CLIP-LoRA's layer: the frozen product, plus scale * B A applied to the same input."""

    def __init__(self, weight, bias, a, rank, alpha):
        super().__init__()
        self.weight, self.bias = weight, bias
        self.a = nn.Parameter(a.clone())
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.scaling = alpha / rank**0.5

    def forward(self, x):
        return F.linear(x, self.weight, self.bias) + x @ (self.b @ self.a).T * self.scaling


class PlainLoRAAttention(nn.Module):
    def __init__(self, attention, starts, rank, alpha):
        super().__init__()
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        self.q, self.k, self.v = (
            LoRALinear(w.detach(), b.detach(), a, rank, alpha)
            for w, b, a in zip(weights, biases, starts, strict=True)
        )
        self.o, self.heads = attention.out_proj, attention.num_heads

    forward = PlainAttention.forward


def add_lora(model, starts, rank, alpha):
    """Put LoRA layers into a private open_clip model; `starts` holds A by matrix name."""
    model.requires_grad_(False)
    layers = {}
    for tower, transformer in (("image", model.visual.transformer), ("text", model.transformer)):
        for i, block in enumerate(transformer.resblocks):
            names = [f"{tower}.{i}.{role}" for role in "qkv"]
            block.attn = PlainLoRAAttention(
                block.attn, [starts[name] for name in names], rank, alpha
            )
            layers.update(zip(names, (block.attn.q, block.attn.k, block.attn.v), strict=True))
    return layers


def optimise(
    model, parameters, images, tokens, targets, *, steps, lr, weight_decay, loss_of=F.cross_entropy
):
    """Run the loop that both papers share on one whole batch and return the losses."""
    optimiser = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps, eta_min=1e-6)
    losses = []
    for _ in range(steps):
        image_features = F.normalize(model.encode_image(images), dim=-1)
        text_features = F.normalize(model.encode_text(tokens), dim=-1)
        loss = loss_of(model.logit_scale.exp() * image_features @ text_features.T, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses
