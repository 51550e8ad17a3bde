"""SIGKILL while something is written: files are as before or as after, and old remains go."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.kills import OPERATIONS, kill_everywhere

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("kind", ["adapter", "row"])
def test_a_killed_writer_leaves_the_old_or_the_new(kind, small_model, tmp_path):
    operation = OPERATIONS[kind](tmp_path, small_model, [])
    n_killed, _ = kill_everywhere(operation, tmp_path, 15)
    assert n_killed >= 15


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPERATIONS)
def test_a_writer_killed_anywhere_leaves_the_old_or_the_new(
    kind, small_model, photographs, tmp_path, record_property
):
    command = [sys.executable, "-m", "tests.helpers.kills", kind, "100000", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    answer = subprocess.run(
        [*command, small_model, *photographs[0][:2]],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    n_killed, n_left = json.loads(answer)
    record_property(f"kills: {kind}", n_killed)
    record_property("kills: in all", n_killed)
    record_property("kills: temporary files left, and removed later", n_left)
    assert n_killed > 50
    assert kind == "row" or n_left > 0
