"""Every example runs as a script of its own, without a warning."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# The documentation's build runs all of them, too.
QUICK = {"plot_quick_start.py", "plot_own_photographs.py"}


def parameters():
    for path in EXAMPLES:
        marks = () if path.name in QUICK else pytest.mark.slow
        yield pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("example", list(parameters()))
def test_example_runs(example, tmp_path):
    if example.name == "plot_dask.py":
        pytest.importorskip("distributed", reason="dask is not installed")
    environment = {
        **os.environ,
        "MPLBACKEND": "Agg",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        # As for all tests, without what Python says of other packages' files.
        "PYTHONWARNINGS": "error::UserWarning",
    }
    done = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "%" in done.stdout
    assert not list(tmp_path.iterdir())  # the folder of whoever runs it is left alone


def test_there_are_examples():
    assert {path.name for path in EXAMPLES} > QUICK
