"""Disks that are full, read-only or not there: caches cost time, files are as before."""

import os
import subprocess
import sys

import pytest

from skclipsvd import CLIPZeroShotClassifier, load_adapter
from skclipsvd.experiments.results import COLUMNS, Results
from tests.helpers.operations import contents, leftovers, nothing_is_left, same

FAULTS = ["full", "nearly_full", "read_only"]
CANNOT_WRITE = r"No space left|File too large|Read-only|Permission denied"


# Old versions of NumPy leave a file that they could not finish to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*ZipFile.__del__")
@pytest.mark.parametrize("fault", [*FAULTS, "a_file"])
def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(
    cold_fit, disk, fault, record_property
):
    with disk.fault(fault):
        before = contents(disk.folder)
        with nothing_is_left():
            answer = cold_fit()
        assert contents(disk.folder) == before
        assert not leftovers(disk.folder)
    same(cold_fit(), answer)
    made = contents(disk.folder)
    assert {path.rpartition(".")[2] for path in made} == {"npz", "safetensors"}
    same(cold_fit(), answer)
    assert contents(disk.folder) == made
    record_property("disks that cannot be written to", 1)


NOBODY = """
import os, sys
from pathlib import Path
from skclipsvd import CLIPSVDClassifier
from skclipsvd.adaptation import factors

factors.MIN_RANK_ON_DISK = 1
images = [open(path, "rb").read() for path in sys.argv[1:]]
for name in ("HOME", "SKCLIPSVD_CACHE", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
os.setuid(54321)
clf = CLIPSVDClassifier("tiny", layers="top", max_steps=0).fit(images, ["temple", "flower"] * 2)
print(len(clf.predict(images)))
"""


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another user"
)
def test_a_user_without_a_home_fits(photographs):
    command = [sys.executable, "-W", "ignore", "-c", NOBODY, *photographs[0][::5]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "4\n", done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_an_adapter_that_cannot_be_written_leaves_the_old_one(
    small_model, disk, fault, record_property
):
    path = disk.folder / "a.safetensors"
    old = CLIPZeroShotClassifier(small_model).fit(None, ["a", "b"])
    new = CLIPZeroShotClassifier(small_model).fit(None, ["c", "d", "e"])
    old.save_adapter(path)
    before = path.read_bytes()
    with disk.fault(fault), nothing_is_left(), pytest.raises(OSError, match=CANNOT_WRITE):
        new.save_adapter(path)
    assert contents(disk.folder) == {str(path): before}
    new.save_adapter(path)
    assert load_adapter(path, small_model).classes_.tolist() == ["c", "d", "e"]
    record_property("disks that cannot be written to", 1)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("n_before", [0, 1])
def test_rows_that_cannot_be_written_leave_the_others(disk, fault, n_before, record_property):
    path = disk.folder / "rows.csv"
    rows = [dict.fromkeys(COLUMNS, "1" * 9) | {"accuracy": 0.5, "seed": seed} for seed in range(90)]
    rows = [row | dict.fromkeys(("shots", "n_train", "n_test"), 1) for row in rows]
    results = Results(path)
    if n_before:
        results.append(rows[:1])
    before = path.read_bytes()
    with disk.fault(fault), nothing_is_left(), pytest.raises(OSError, match=CANNOT_WRITE):
        results.append(rows)
    assert path.read_bytes() == before
    results.append(rows)
    same(results.rows(), rows)
    record_property("disks that cannot be written to", 1)
