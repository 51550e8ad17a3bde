"""Long-lived processes: the benchmark of load, shortened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = "fits=90, predictions=25, files=4000, pictures=1000"


def soak(part):
    code = (
        "import argparse, json; from benchmarks import soak; "
        f"print(json.dumps(soak.PARTS[{part!r}](argparse.Namespace({SHORT}))))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_ninety_fits_hold_on_to_nothing():
    found = soak("fits")
    assert found["growth, %"] <= 1
    assert found["at the end"] == found["threads and descriptors after the first 30"]
    assert found["merged models kept"] <= 2


@pytest.mark.slow
def test_eight_threads_agree_while_caches_are_cleared():
    found = soak("threads")
    assert found["bit-equal"] == found["predictions"] == 200
    assert found["caches cleared"] > 0


@pytest.mark.slow
def test_thousands_of_files_are_predicted_in_memory_that_does_not_grow():
    found = soak("files")
    assert found["bit-equal"] == found["files"] == 4000
    assert found["growth, %"] <= 1


@pytest.mark.slow
def test_a_search_whose_worker_was_killed_is_an_error_and_the_next_one_works():
    found = soak("search")
    assert found["a worker was killed"] == "TerminatedWorkerError"
    assert found["then as in one process"]
