"""Zero-shot, linear probe, CLIP-LoRA, CLIP-SVD and two-stage adaptation of the tiny CLIP.

On the handwritten digits, and on three sets of photographs in the folder that the environment
variable SKCLIPSVD_DATA names, at 1 to 16 shots. One setting for all data sets and numbers of shots.
The learning rates are those that ``--select`` finds on clothing10's validation images; no setting
was tried on a test image.

The tiny model is no OpenAI CLIP: it knows drawn pictures, not photographs. What it shows is how
the methods compare on a weak backbone, not what any of them reaches on a strong one.
"""

import argparse
import functools
import sys
from dataclasses import replace

import numpy as np

from skclipsvd.datasets import load_folder
from skclipsvd.experiments import METHODS, base_to_novel, few_shot, open_data, open_folder, tables

from ._data import VARIABLE, data_set
from ._report import write

CLASS_NAMES = {
    "clothing10": {"longsleeve": "long-sleeved top", "outwear": "outerwear"},
    "grocery50": {
        **{f: f"{f} apple" for f in ("pink lady", "royal gala", "granny smith")},
        **{f: f"{f} apple" for f in ("golden delicious", "red delicious")},
        **{f: f"{f} pear" for f in ("anjou", "conference", "kaiser")},
    },
    "trashnet6": {},
}
COMMON = dict(model_name="tiny", max_steps=150)
LEARNING_RATES = {"svd": 0.05, "lora": 0.01}
GRID = {"svd": (0.005, 0.01, 0.02, 0.05, 0.1), "lora": (0.001, 0.002, 0.005, 0.01, 0.02)}
SHOTS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little training: does it run?")
    parser.add_argument("--select", action="store_true", help="choose the learning rates")
    parser.add_argument("--novel", action="store_true", help="digits, base to novel, 16 shots")
    parser.add_argument("--out", help="a CSV to keep results in, and to continue from")
    options = parser.parse_args()
    if options.select:
        return select(options.out)
    if options.novel:
        return novel(options.out)
    common, shots, seeds = COMMON, SHOTS, SEEDS
    if options.quick:
        common, shots, seeds = {**COMMON, "max_steps": 3}, (1, 2), (1, 2)
    rows = []
    for data in data_sets():
        # Mirror images and crops of digits are other characters, or none.
        rows += few_shot(
            data,
            methods=method_parameters(),
            shots=shots,
            seeds=seeds,
            out=options.out,
            verbose=1,
            setting="default",
            augment=data.name != "digits",
            **common,
        )
    print(tables(rows))
    if not options.quick:
        chosen = {**common, "lr": LEARNING_RATES, "augment": "photographs only", "seeds": seeds}
        write("methods", chosen, summarise(rows))


def method_parameters(rates=LEARNING_RATES):
    tuned = {method: method.removeprefix("two-stage-") for method in METHODS}
    return {m: {"lr": rates[base]} if base in rates else {} for m, base in tuned.items()}


def data_sets():
    sets = [open_data("digits")]
    for name, class_names in CLASS_NAMES.items():
        folder = data_set(name)
        if folder is not None:
            sets.append(open_folder(folder, class_names=class_names))
        else:
            print(f"{VARIABLE} is not set; {name} is left out", file=sys.stderr)
    return sets


def select(out):
    """Try learning rates at 4 shots on the validation images of one data set."""
    folder = data_set("clothing10")
    if folder is None:
        raise SystemExit(f"--select needs clothing10: let {VARIABLE} name its folder.")
    data = open_folder(folder, class_names=CLASS_NAMES["clothing10"])
    validation = load_folder(folder / "validation").splits["all"]
    data = replace(data, splits={**data.splits, "test": validation}, name="validation")
    ask = functools.partial(few_shot, data, shots=[4], seeds=SEEDS, out=out, verbose=1, **COMMON)
    rows = []
    for method, rates in GRID.items():
        for rate in rates:
            rows += ask(methods={method: {"lr": rate}})
    print(tables(rows))
    chosen = {**COMMON, "data": "clothing10, its validation images", "seeds": SEEDS}
    write("methods-select", chosen, summarise(rows))


def novel(out):
    """Train on five digits, and test on them and on the other five."""
    methods = {name: rates for name, rates in method_parameters().items() if name != "linear-probe"}
    chosen = {**COMMON, "augment": False}
    rows = base_to_novel(
        open_data("digits"), methods=methods, seeds=SEEDS, out=out, verbose=1, **chosen
    )
    print(tables(rows))
    for row in rows:
        row["data"] = f"digits, {row['test']}"
    write("methods-novel", {**chosen, "lr": LEARNING_RATES, "seeds": SEEDS}, summarise(rows))


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
