"""Train the tiny CLIP that comes with the package, from nothing but drawings made on the fly.

    python tools/pretrain_tiny.py --fonts /usr/share/fonts --out skclipsvd/models

Two CPU cores are enough. The same fonts, arguments, library versions and thread count give the same
model; with other fonts it differs in detail. An interrupted run goes on from its last checkpoint
(`--checkpoint`). With glibc, MALLOC_MMAP_THRESHOLD_=8000000000 MALLOC_TRIM_THRESHOLD_=8000000000
in the environment keeps memory between steps, which can halve the time.
"""

import argparse
import copy
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from tiny_bank import build_bank
from tiny_captions import Captioner, lookalike_mask, truth, vocabulary
from tiny_pictures import FIELD, Painter

MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 32, "layers": 6, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
}
PREPROCESS = {
    "size": 32,
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


class Vocabulary:
    """The standard tokenizer, with the rows of the few tokens that captions use packed together.

    Training sees a table of some hundred rows instead of 49,408, most of which no caption would
    ever touch.
    """

    def __init__(self):
        self.tokenizer = SimpleTokenizer()
        self.ids = self.tokenizer(vocabulary()).unique()  # sorted: end-of-text stays the highest
        self._cache = {}

    def __call__(self, texts):
        """Packed tokens, cut behind the longest text's end."""
        new = [t for t in texts if t not in self._cache]
        if new:
            tokens = self.tokenizer(new)
            packed = torch.searchsorted(self.ids, tokens)
            if not torch.equal(self.ids[packed.clamp(max=len(self.ids) - 1)], tokens):
                raise ValueError(f"a word is missing from the vocabulary: {new}")
            self._cache.update(zip(new, packed, strict=True))
        tokens = torch.stack([self._cache[t] for t in texts])
        return tokens[:, : int(tokens.argmax(1).max()) + 1]


def encode_text(model, tokens):
    """Unit-length text features; the causal tower needs nothing behind the end-of-text token."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = x[torch.arange(len(x)), tokens.argmax(1)] @ model.text_projection
    return F.normalize(x, dim=-1)


def glyph_loss(logits, target, smoothing):
    """Name the glyph among its own kind (ten digits, or twenty-six letters), then among all.

    The first is the question that users ask; the second keeps digits and letters apart where they
    differ.
    """
    hidden = lookalike_mask()[target]
    everything = F.cross_entropy(logits.masked_fill(hidden, -1e4), target, label_smoothing=0.0)
    digit = target < 10
    among = 0.0
    for at, low, high in ((digit, 0, 10), (~digit, 10, 36)):
        if at.any():
            loss = F.cross_entropy(
                logits[at, low:high], target[at] - low, label_smoothing=smoothing, reduction="sum"
            )
            among = among + loss / len(target)
    return among + 0.3 * everything


def contrastive_loss(logits, true, own):
    """Pictures against captions, never counting a caption that is true of a picture as wrong.

    Parameters
    ----------
    logits, true : tensors of shape (n_pictures, n_captions)
    own : int64 tensor of shape (n_pictures,)
        The caption written for each picture.
    """
    rows = torch.arange(len(own))
    keep = ~true
    keep[rows, own] = True
    by_picture = F.cross_entropy(logits.masked_fill(~keep, -1e4), own)
    # By caption: each (picture, own caption) pair against the pictures it is false of.
    columns = logits[:, own].T.masked_fill(true[:, own].T, -1e4)
    columns = columns.scatter(1, rows[:, None], logits[rows, own][:, None])
    return (by_picture + F.cross_entropy(columns, rows)) / 2


def batch_loss(model, painter, captioner, vocab, args, level):
    """Draw a batch and return the loss, and the share of glyphs named right among their kind."""
    glyphs, names = painter.glyphs(args.glyphs, level, args.digits)
    scenes, scene_rows = painter.scenes(args.scenes, level)
    features = F.normalize(model.visual(torch.cat([glyphs, scenes]) * 2 - 1), dim=-1)
    scale = model.logit_scale.exp()
    targets = names[:, FIELD["name"]]
    logits = scale * features[: len(glyphs)] @ encode_text(model, vocab(captioner.class_texts())).T
    loss = glyph_loss(logits, targets, args.smoothing)
    with torch.no_grad():
        digit = targets < 10
        right = (logits[digit, :10].argmax(1) == targets[digit]).float().mean()
    some = args.glyphs - min(args.glyphs, args.captioned)
    rows = torch.cat([names[some:], scene_rows])
    pairs = [captioner.caption(row) for row in rows.tolist()]
    texts = sorted({text for text, _ in pairs})
    stated = dict(pairs)
    own = torch.tensor([texts.index(text) for text, _ in pairs])
    true = truth(rows, torch.tensor([stated[text] for text in texts]))
    logits = scale * features[some:] @ encode_text(model, vocab(texts)).T
    second = contrastive_loss(logits, true, own)
    return loss + args.contrast * second, right, second


def rate(seen, total, peak, warmup=20_000, tail=0.3):
    """Learning rate after `seen` pictures: a short rise, a plateau, a fall over the last `tail`.

    The plateau lets an interrupted run go on with another total.
    """
    return peak * min(1.0, (seen + 1) / warmup, max(0.005, (1 - seen / total) / tail))


def make_optimizer(model, decay):
    """AdamW that decays matrices only."""
    matrices = [p for n, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embedding" in n]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-7)


def export(model, vocab, folder, recipe):
    """Write the configuration and the weights, each under a temporary name first.

    Rows of the token table that no caption touched are left out; a reader fills them with fixed
    noise.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().half().contiguous()
        for name, value in model.state_dict().items()
        if name not in ("token_embedding.weight", "attn_mask")
    }
    tensors["token_rows"] = vocab.ids.to(torch.int32)
    tensors["token_row_weights"] = model.token_embedding.weight.detach().half()
    part = folder / "tiny.safetensors.part"
    save_file(tensors, part, metadata={"format": "1", "recipe": json.dumps(recipe)})
    part.chmod(0o644)
    os.replace(part, folder / "tiny.safetensors")
    part = folder / "tiny.json.part"
    part.write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}, indent=2) + "\n")
    os.replace(part, folder / "tiny.json")


def load_bank(args):
    """The bank of glyphs and shapes, built once and kept in `args.bank`."""
    path = Path(args.bank)
    if not path.exists():
        np.savez(path, **build_bank(args.fonts))
    return dict(np.load(path))


def split_families(bank, held_out):
    """Font families to train with; every `held_out`-th is left for choosing between variants."""
    count = len(bank["families"])
    return [f for f in range(count) if not held_out or f % held_out != held_out - 1]


def train(args):
    """Run the recipe; return the averaged model and its vocabulary."""
    torch.manual_seed(args.seed)
    vocab, bank = Vocabulary(), load_bank(args)
    config = copy.deepcopy(MODEL)
    config["text_cfg"]["vocab_size"] = len(vocab.ids)
    model = CLIP(**config)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = make_optimizer(model, args.decay)
    size = args.glyphs + args.scenes
    start, steps = 0, args.pictures // size
    if args.checkpoint and Path(args.checkpoint).exists():
        state = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(state["model"]), average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    # A resumed run draws other pictures than an uninterrupted one, never the same ones twice.
    painter = Painter(bank, args.seed + start, split_families(bank, args.held_out))
    captioner, begun, seen = Captioner(args.seed + start), time.time(), []
    for step in range(start, steps):
        level = min(1.0, max(0.0, (step * size - args.easy[0]) / (args.easy[1] - args.easy[0])))
        for group in optimizer.param_groups:
            group["lr"] = rate(step * size, steps * size, args.lr)
        loss, right, second = batch_loss(model, painter, captioner, vocab, args, level)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update(model, average, step)
        seen.append((loss.item(), right.item(), second.item()))
        if (step + 1) % args.every == 0 or step + 1 == steps:
            mean = np.mean(seen, axis=0)
            seen.clear()
            print(
                f"step {step + 1}/{steps} loss {mean[0]:.3f} contrast {mean[2]:.3f} "
                f"digits {mean[1]:.3f} "
                f"scale {model.logit_scale.exp():.1f} {time.time() - begun:.0f} s",
                flush=True,
            )
            save(args, model, average, optimizer, step + 1)
            export(average, vocab, args.out, recipe_of(args, step + 1))
    return average, vocab


@torch.no_grad()
def update(model, average, step):
    """Clamp the logit scale as CLIP does, and move the running average of the weights."""
    model.logit_scale.clamp_(max=math.log(100))
    keep = min(0.999, (1 + step) / (10 + step))
    for new, mean in zip(model.parameters(), average.parameters(), strict=True):
        mean.lerp_(new, 1 - keep)


def save(args, model, average, optimizer, step):
    """Write a checkpoint to go on from."""
    if args.checkpoint:
        state = {"model": model.state_dict(), "average": average.state_dict(), "step": step}
        torch.save(state | {"optimizer": optimizer.state_dict()}, args.checkpoint + ".part")
        os.replace(args.checkpoint + ".part", args.checkpoint)


def recipe_of(args, steps):
    """The few numbers that the weights file remembers about its making."""
    return {"pictures": steps * (args.glyphs + args.scenes), "seed": args.seed, "lr": args.lr}


def parse():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--fonts", nargs="+", default=["/usr/share/fonts"], help="folders with fonts"
    )
    parser.add_argument(
        "--bank", default="tiny_bank.npz", help="where drawn glyphs are kept between runs"
    )
    parser.add_argument("--out", default="skclipsvd/models", help="folder of the model files")
    parser.add_argument(
        "--checkpoint", default="", help="file to go on from, and to write while training"
    )
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--glyphs", type=int, default=96, help="letters and digits per batch")
    parser.add_argument("--scenes", type=int, default=32, help="shapes and textures per batch")
    parser.add_argument(
        "--captioned", type=int, default=16, help="glyphs per batch that get full captions"
    )
    parser.add_argument(
        "--digits", type=float, default=0.5, help="share of digits among the glyphs"
    )
    parser.add_argument(
        "--easy",
        type=int,
        nargs=2,
        default=[40_000, 240_000],
        metavar=("FROM", "TO"),
        help="pictures between which degradations grow from nothing to everything",
    )
    parser.add_argument("--contrast", type=float, default=0.5, help="weight of the caption loss")
    parser.add_argument(
        "--held-out", type=int, default=6, help="leave out every so many-th font family"
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--smoothing", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--every", type=int, default=200, help="steps between reports and checkpoints"
    )
    return parser.parse_args()


def main():
    """Train as the command line says."""
    args = parse()
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
