"""What every benchmark writes down: the numbers, what made them, and on what machine."""

import contextlib
import json
import os
import platform
import shlex
import sys
import time
import warnings
from pathlib import Path

import open_clip
import sklearn
import torch

import skclipsvd

RESULTS = Path(__file__).parent / "results"


def machine():
    """Describe the hardware and the versions that a figure depends on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "scikit-learn": sklearn.__version__,
        "skclipsvd": skclipsvd.__version__,
    }


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def write(name, settings, rows):
    """Save a benchmark's rows as JSON under ``benchmarks/results``."""
    RESULTS.mkdir(exist_ok=True)
    module = f"benchmarks.{name.partition('-')[0]}"
    report = {
        "command": shlex.join(["python", "-m", module, *map(_without_folders, sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "settings": settings,
        "rows": rows,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")


def _without_folders(argument):
    """Name a file or a folder, but not where on this machine it lies."""
    kind, colon, path = argument.rpartition(":")
    return f"{kind}{colon}{Path(path).name}" if path.startswith("/") else argument


@contextlib.contextmanager
def quiet_random_weights():
    """Ask for random weights without being told that they are random."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pretrained=None")
        yield


def table(header, rows):
    """Format rows as a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
