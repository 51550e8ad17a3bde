"""The published training procedure, re-implemented literally: what the benchmarks compare with.

From the paper (arXiv 2509.03740) and its released code, whose habits are kept on purpose: every
adapted matrix is three layers (V, s, U); all class prompts are tokenised, padded to 77 tokens and
encoded in every step; images are read, decoded and cropped anew in every epoch. Attention is
torch's fused one and gradients are asked for nothing but s, as in that code, so that the
competitor is not weaker than it needs to be.
"""

import copy

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from skclipsvd.adaptation import find_targets


class FactoredLinear(nn.Module):
    def __init__(self, weight, bias, factors):
        super().__init__()
        u, s, vh = factors
        self.v, self.u = nn.Parameter(vh, False), nn.Parameter(u, False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), False)
        self.s = nn.Parameter(s.clone())
        self.weight = nn.Parameter(weight.new_empty(0), False)  # open_clip looks at its dtype

    def forward(self, x):
        return F.linear(F.linear(x, self.v) * self.s, self.u, self.bias)


class FactoredAttention(nn.Module):
    def __init__(self, attention, q, k, v, o):
        super().__init__()
        self.q, self.k, self.v, self.o = q, k, v, o
        self.n_heads = attention.num_heads

    def forward(self, query, key, value, need_weights=False, attn_mask=None):
        q, k, v = (
            layer(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for layer, x in ((self.q, query), (self.k, key), (self.v, value))
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.o(y.transpose(1, 2).flatten(2)), None


class FactoredRows(nn.Module):
    """Layers side by side, for a weight that stacks several matrices."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return torch.cat([layer(x) for layer in self.layers], dim=-1)


class FactoredConvolution(nn.Module):
    """A pointwise convolution: its kernel is a matrix over the channels."""

    def __init__(self, convolution, factors):
        super().__init__()
        u, s, vh = factors
        self.v, self.u = (nn.Parameter(part[:, :, None, None], False) for part in (vh, u))
        bias = convolution.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), False)
        self.s = nn.Parameter(s.clone())
        self.stride = convolution.stride

    def forward(self, x):
        read = F.conv2d(x, self.v, stride=self.stride)
        return F.conv2d(read * self.s[:, None, None], self.u, self.bias)


def factored(backbone, factors):
    """Copy an open_clip model and rewrite what is adapted into the published layers.

    Of the image tower's convolutions that is what this package adapts by default: the pointwise
    ones. The decompositions are given, so that both sides start from the same ones.
    """
    model = copy.deepcopy(backbone.model)
    groups = {}
    for target in find_targets(model):
        if target.name in factors:
            groups.setdefault(target.tensor, []).append(target)
    for path, module in list(model.named_modules()):
        found = {name.removeprefix(f"{path}."): g for name, g in groups.items()}
        if isinstance(module, nn.MultiheadAttention):
            roles = [*found["in_proj_weight"], *found["out_proj.weight"]]
            weights = [*module.in_proj_weight.chunk(3), module.out_proj.weight]
            biases = [*module.in_proj_bias.chunk(3), module.out_proj.bias]
            parts = zip(weights, biases, roles, strict=True)
            layers = [FactoredLinear(w, bias, factors[role.name]) for w, bias, role in parts]
            _replace(model, path, FactoredAttention(module, *layers))
        elif isinstance(module, nn.Linear) and "weight" in found and not path.endswith("out_proj"):
            n = len(found["weight"])
            biases = [None] * n if module.bias is None else module.bias.chunk(n)
            parts = zip(module.weight.chunk(n), biases, found["weight"], strict=True)
            layers = [FactoredLinear(w, bias, factors[role.name]) for w, bias, role in parts]
            _replace(model, path, layers[0] if n == 1 else FactoredRows(layers))
        elif isinstance(module, nn.Conv2d) and "weight" in found:
            _replace(model, path, FactoredConvolution(module, factors[found["weight"][0].name]))
    return model


def _replace(model, path, module):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


class PublishedTraining:
    """Its step: files and labels in, loss out."""

    def __init__(self, backbone, factors, sentences, lr, dtype=torch.float32):
        self.model = factored(backbone, factors)
        self.tokenize, self.sentences = backbone.tokenize, sentences
        self.device, self.dtype = backbone.device, dtype
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=0.01)
        size = backbone.preprocess.size
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(backbone.preprocess.mean, backbone.preprocess.std),
            ]
        )

    def images(self, paths):
        return torch.stack([self.transform(Image.open(path).convert("RGB")) for path in paths])

    def step(self, paths, labels):
        images = self.images(paths).to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            text = self.model.encode_text(self.tokenize(self.sentences).to(self.device))
            image = self.model.encode_image(images)
        text, image = F.normalize(text.float(), dim=-1), F.normalize(image.float(), dim=-1)
        loss = F.cross_entropy(self.model.logit_scale.exp() * image @ text.T, labels)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()
