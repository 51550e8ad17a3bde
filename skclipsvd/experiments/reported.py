"""What papers report, in per cent: means over all data sets of a family.

Of the CLIP-SVD paper: T. Koleilat, H. Rivaz, Y. Xiao, "Singular Value Few-shot Adaptation of
Vision-Language Models". SO's own, of 1, 2 and 4 shots: N. Mrabah, N. Richet, I. Ben Ayed,
E. Granger, "Sparsity Outperforms Low-Rank Projections in Few-Shot Adaptation".
"""

from __future__ import annotations

SOURCE = "arXiv:2509.03740"
SHOTS = (1, 2, 4, 8, 16)
# By the number of shots; fewer numbers are of the first ones.
FEW_SHOT: dict[str, dict[str, tuple[float, ...]]] = {
    "natural": {
        "zero-shot CLIP": (65.36,) * 5,
        "linear probing": (45.77, 56.92, 66.79, 73.43, 78.39),
        "CoOp": (68.09, 70.13, 73.59, 76.45, 79.01),
        "MaPLe": (69.27, 72.58, 75.37, 78.89, 81.79),
        "Tip-Adapter-F": (70.62, 73.08, 75.75, 78.51, 81.15),
        "ProKeR": (71.32, 73.74, 76.23, 79.84, 82.01),
        "SO (arXiv:2504.12436)": (73.8, 76.6, 78.9),
        "CLIP-LoRA": (72.20, 75.41, 77.32, 80.10, 82.89),
        "CLIP-SVD": (73.20, 76.06, 78.18, 80.55, 82.97),
    },
    "biomedical": {
        "zero-shot BiomedCLIP": (42.38,) * 5,
        "BiomedCoOp": (56.87, 59.32, 64.34, 68.96, 73.41),
        "CLIP-SVD": (56.35, 62.63, 68.02, 73.26, 76.46),
    },
}
# Base classes, novel classes, harmonic mean; 16 shots.
BASE_TO_NOVEL = {
    "natural": {
        "CLIP": (69.34, 74.22, 71.70),
        "CLIP-LoRA": (84.10, 74.80, 79.18),
        "CLIP-SVD": (84.38, 76.29, 80.13),
    },
    "biomedical": {
        "BiomedCLIP": (49.27, 67.17, 55.23),
        "CLIP-LoRA": (70.56, 59.84, 64.76),
        "CLIP-SVD": (82.64, 74.31, 78.25),
    },
}
