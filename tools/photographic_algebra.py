"""From a classifier of images to the two sides of a dual encoder."""

import torch
from torch import Tensor

# A text of n classes has n**-0.25 the length of one class's: between their mean (n**-0.5), which
# is too quiet beside single classes, and a unit vector, which is too loud.
LOUDNESS = 0.25


def projection(weight: Tensor, bias: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Turn a classifier into an image head and the texts of its classes.

    Centring takes away what all logits share, which no decision depends on.

    Returns
    -------
    head_weight : Tensor of shape (rank + 1, n_features)
    head_bias : Tensor of shape (rank + 1,)
    classes : Tensor of shape (n_classes, rank)
        ``(features @ head_weight.T + head_bias)[:, :rank] @ classes.T`` are the centred logits, up
        to what the rank cuts off.
    """
    weight, bias = weight.double(), bias.double()
    weight, bias = weight - weight.mean(0), bias - bias.mean()
    classes = torch.linalg.svd(weight, full_matrices=False)[0][:, :rank]
    head_weight, head_bias = classes.T @ weight, classes.T @ bias
    nothing = head_weight.new_zeros(1)
    head_weight = torch.cat([head_weight, nothing.expand(1, weight.shape[1])])
    return head_weight.float(), torch.cat([head_bias, nothing]).float(), classes.float()


def text_targets(shares: Tensor, classes: Tensor) -> Tensor:
    """Unit vectors of shape (n_texts, rank + 1) for distributions over the classes.

    Inner products with an image's embedding are those of the short vector of the first `rank`
    dimensions.
    """
    n_meant = 1 / shares.square().sum(1, keepdim=True)  # 1 for one class, n for n equal shares
    short = n_meant**LOUDNESS * shares @ classes
    length = short.norm(dim=1, keepdim=True)
    short = short / length.clamp(min=1)
    rest = (1 - short.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat([short, rest], 1)
