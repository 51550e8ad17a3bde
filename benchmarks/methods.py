"""The methods side by side: zero-shot, linear probe, CLIP-LoRA, CLIP-SVD and two-stage adaptation.

Each as a fit is that is told neither rate nor length. On photographs, with the photographic
backbone (``tools/build_photographic.py``), on the eight data sets of the folder that the variable
SKCLIPSVD_DATA of the environment names:

    python -m benchmarks.methods --backbone lite0-64

and on handwritten digits with the tiny model, where no backbone is named. No setting was tried on a
test image of digits, grocery50, trashnet6, aid18, busi3 and knee5; caltech20, steel6 and the
validation part of clothing10 had a say in what the default is (``benchmarks.defaults``).

Neither backbone is OpenAI's CLIP: tiny knows drawn pictures, and the photographic one learnt its
words from a dictionary. What the tables show is how the methods compare on weak backbones, not what
any of them reaches on a strong one.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from skclipsvd.experiments import base_to_novel, few_shot, open_data, open_folder, tables

from ._data import VARIABLE, data_set
from ._report import write
from ._study_data import PHOTOGRAPHS, template_of, words_of

METHODS = ("zero-shot", "linear-probe", "lora", "svd", "two-stage-svd")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", help="folder of an open_clip model that knows photographs")
    parser.add_argument("--data", nargs="+", choices=PHOTOGRAPHS, default=PHOTOGRAPHS)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--novel", action="store_true", help="digits, base to novel, 16 shots")
    parser.add_argument("--out", help="a CSV to keep results in, and to continue from")
    options = parser.parse_args()
    if options.novel:
        return novel(options)
    model, sets, augment, name = "tiny", [open_data("digits")], False, "methods"
    if options.backbone:
        model, sets = f"local-dir:{options.backbone}", [photographs(n) for n in options.data]
        augment, name = True, "methods-photographs"
    rows = []
    for data in sets:
        rows += few_shot(
            data,
            methods=METHODS,
            shots=options.shots,
            seeds=options.seeds,
            out=options.out,
            verbose=1,
            model_name=model,
            # Mirror images and crops of digits are other characters, or none.
            augment=augment,
            setting="default",
        )
    print(tables(rows))
    backbone = Path(options.backbone).name if options.backbone else "tiny"
    write(name, {"backbone": backbone, "augment": augment, "seeds": options.seeds}, summarise(rows))


def photographs(name):
    """Open a data set with the words and the template of `benchmarks.defaults`."""
    folder = data_set(name)
    if folder is None:
        raise SystemExit(f"{name} is in the folder that {VARIABLE} is to name.")
    data = open_folder(folder)
    names = tuple(words_of(name, label) for label in data.class_names)
    return replace(data, class_names=names, template=template_of(name))


def novel(options):
    """Train on five digits, and test on them and on the other five."""
    rows = base_to_novel(
        open_data("digits"),
        methods=[name for name in METHODS if name != "linear-probe"],
        seeds=options.seeds,
        out=options.out,
        verbose=1,
        model_name="tiny",
        augment=False,
        setting="default",
    )
    print(tables(rows))
    for row in rows:
        row["data"] = f"digits, {row['test']}"
    settings = {"backbone": "tiny", "augment": False, "seeds": options.seeds}
    write("methods-novel", settings, summarise(rows))


def summarise(rows):
    runs = {}
    for row in rows:
        key = (row["data"], row["method"], row["shots"], row["overrides"])
        runs.setdefault(key, []).append(round(100 * row["accuracy"], 3))
    return [
        {
            "data": data,
            "method": method,
            "shots": shots,
            "parameters": overrides,
            "accuracy, %": round(float(np.mean(scores)), 2),
            "standard deviation": round(float(np.std(scores, ddof=1)), 2) if shots else None,
            "by seed": scores,
        }
        for (data, method, shots, overrides), scores in runs.items()
    ]


if __name__ == "__main__":
    main()
