"""A fit that was cut off goes on, and ends with the bits of one that was left alone."""

import json
import os
import re
import signal
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier
from skclipsvd.exceptions import CheckpointWarning
from skclipsvd.experiments import CLIPSOClassifier
from skclipsvd.training import Checkpoint, Encoders, checkpoint
from skclipsvd.training.checkpoint import Snapshot

BASE = dict(lr=0.01, augment=False, random_state=0, batch_size=8)
CASES = {
    "one batch": (CLIPSVDClassifier, dict(batch_size=32, max_steps=6)),
    "within an epoch": (CLIPSVDClassifier, dict(max_steps=8)),
    "crops": (CLIPSVDClassifier, dict(max_steps=8, augment=True)),
    "micro-batches": (CLIPSVDClassifier, dict(max_steps=5, micro_batch_size=3)),
    # What frozen blocks remember has the last bits of the first epoch's batches: with these sizes
    # others than of later epochs' batches, with 19 and 1 the same.
    "frozen blocks": (CLIPSVDClassifier, dict(max_steps=8, layers="top", batch_size=9)),
    "frozen blocks, micro-batches": (
        CLIPSVDClassifier,
        dict(max_steps=8, layers="top", batch_size=19, micro_batch_size=3),
    ),
    "one tower": (CLIPSVDClassifier, dict(max_steps=5, towers=["text"])),
    "early stopping": (
        CLIPSVDClassifier,
        dict(epochs=8, early_stopping=True, n_iter_no_change=3, lr=0.1, validation_fraction=0.3),
    ),
    "LoRA": (CLIPLoRAClassifier, dict(max_steps=8, augment=True, checkpointing=True)),
    "LoRA, early stopping": (
        CLIPLoRAClassifier,
        dict(epochs=4, early_stopping=True, validation_fraction=0.3),
    ),
    "SO": (CLIPSOClassifier, dict(max_steps=8, refresh=3, density=0.01)),
}


@pytest.fixture
def every_step(monkeypatch):
    """Write a checkpoint before every step but the first."""
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)


@pytest.fixture
def cut_off(monkeypatch, every_step):
    """Return a function that fits, and presses Ctrl-C when `n` checkpoints are written."""

    def fit_and_interrupt(classifier, *data, n=3, **options):
        write, written = Checkpoint.write, []

        def counted(self, snapshot):
            write(self, snapshot)
            written.append(self.path)
            if len(written) == n:
                signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "write", counted)
            with pytest.raises(KeyboardInterrupt) as caught:
                classifier.fit(*data, **options)
        return caught.value, written[-1]

    return fit_and_interrupt


@pytest.fixture
def steps(monkeypatch):
    """The steps that are taken, as a list that grows."""
    taken, backward = [], Encoders.backward

    def counted(self, *args):
        taken.append(len(args[0]))
        return backward(self, *args)

    monkeypatch.setattr(Encoders, "backward", counted)
    return taken


def assert_same_fit(a, b):
    """Equal to the bit in everything that a fit leaves."""
    assert vars(a).keys() == vars(b).keys()
    for name, value in vars(b).items():
        if not name.endswith("_"):
            continue
        there = getattr(a, name)
        if isinstance(value, dict):
            assert there.keys() == value.keys()
            for key in value:
                np.testing.assert_array_equal(there[key], value[key], err_msg=f"{name} {key}")
        else:
            np.testing.assert_array_equal(there, value, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_the_same_call_goes_on(case, small_model, photographs, tmp_path, cut_off, steps):
    kind, options = CASES[case]
    alone = kind(small_model, **{**BASE, **options}).fit(*photographs)
    n_steps = len(steps)
    classifier = clone(alone).set_params(checkpoint_dir=tmp_path / "new folder")
    before = dict(vars(classifier))
    error, path = cut_off(classifier, *photographs)
    assert str(path) in str(error)
    assert vars(classifier) == before
    steps.clear()
    classifier.fit(*photographs)
    assert len(steps) == n_steps - 3
    assert_same_fit(classifier, alone)
    assert not any(path.parent.iterdir())


def test_a_fit_of_several_labels_goes_on(small_model, photographs, tmp_path, cut_off, steps):
    paths, labels = photographs
    y = pd.DataFrame({"temple": labels == "temple", "third": np.arange(20) % 3 == 0}).astype(int)
    alone = CLIPSVDClassifier(small_model, max_steps=8, class_weight="balanced", **BASE)
    alone.fit(paths, y)
    classifier = clone(alone).set_params(checkpoint_dir=tmp_path)
    cut_off(classifier, paths, y)
    steps.clear()
    clone(classifier).fit(paths, y.rename(columns={"third": "picture"}))
    clone(classifier).fit(paths, y.assign(third=1 - y["third"]))
    assert len(steps) == 2 * 8  # other words, other labels: other fits
    assert_same_fit(classifier.fit(paths, y), alone)
    assert len(steps) == 2 * 8 + 5


@pytest.fixture
def fifth_step_interrupted(steps, monkeypatch):
    """Return a function that fits, presses Ctrl-C in the fifth step, and returns what it says."""

    def fit_and_interrupt(classifier, *data):
        backward = Encoders.backward

        def interrupted(self, *args):
            loss = backward(self, *args)
            if len(steps) == 5:
                signal.raise_signal(signal.SIGINT)
            return loss

        steps.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Encoders, "backward", interrupted)
            with pytest.raises(KeyboardInterrupt) as caught:
                classifier.fit(*data)
        return str(caught.value)

    return fit_and_interrupt


@pytest.mark.parametrize("case", ["crops", "early stopping", "LoRA", "SO"])
def test_an_interrupt_costs_no_more_than_its_step(
    case, small_model, photographs, tmp_path, steps, fifth_step_interrupted
):
    """Half a minute between two checkpoints is not lost, and nothing of the step is kept."""
    kind, options = CASES[case]
    alone = kind(small_model, **{**BASE, **options}).fit(*photographs)
    classifier = clone(alone).set_params(checkpoint_dir=tmp_path)
    said = fifth_step_interrupted(classifier, *photographs)
    assert re.search(r"continues from the checkpoint .*\.safet", said)
    assert not hasattr(classifier, "classes_")
    steps.clear()
    assert_same_fit(classifier.fit(*photographs), alone)
    assert len(steps) == alone.n_iter_ - 4


def test_a_large_state_is_copied_only_to_be_written(
    small_model, photographs, tmp_path, steps, monkeypatch, fifth_step_interrupted
):
    """Then an interrupt costs the steps since: here the first one alone was written."""
    monkeypatch.setattr(checkpoint, "EVERY_STEP_BYTES", 1000)
    alone = CLIPSVDClassifier(small_model, max_steps=8, **BASE).fit(*photographs)
    classifier = clone(alone).set_params(checkpoint_dir=tmp_path)
    said = fifth_step_interrupted(classifier, *photographs)
    assert "continues from the checkpoint" in said
    steps.clear()
    assert_same_fit(classifier.fit(*photographs), alone)
    assert len(steps) == 8 - 1


@pytest.mark.parametrize("is_left", [False, True])
@pytest.mark.parametrize("error", [MemoryError, OSError, RuntimeError])
@pytest.mark.filterwarnings("error::skclipsvd.exceptions.CheckpointWarning")
def test_an_interrupt_arrives_although_nothing_can_be_written(
    error, is_left, small_model, photographs, tmp_path, monkeypatch, fifth_step_interrupted
):
    save, calls = checkpoint.save_file, []

    def fails(*args, **options):
        calls.append(args)
        if len(calls) > 1:
            if not is_left:
                next(tmp_path.glob("CLIPSVD*.safetensors")).unlink()
            raise error("no room")
        return save(*args, **options)

    monkeypatch.setattr(checkpoint, "save_file", fails)
    clf = CLIPSVDClassifier(small_model, max_steps=8, checkpoint_dir=tmp_path, **BASE)
    said = fifth_step_interrupted(clf, *photographs)
    assert len(calls) == 2
    assert str(tmp_path) in said
    if is_left:
        assert "continues from the checkpoint" in said
    else:
        assert "could not be written; the same call starts over" in said
        assert not any(tmp_path.iterdir())


def test_a_warm_start_goes_on(small_model, photographs, tmp_path, cut_off):
    def twice_fitted():
        clf = CLIPSVDClassifier(small_model, max_steps=5, warm_start=True, **BASE)
        return clf.fit(*photographs).set_params(lr=0.02)

    alone = twice_fitted().fit(*photographs)
    classifier = twice_fitted().set_params(checkpoint_dir=str(tmp_path))
    first = {name: s.copy() for name, s in classifier.singular_values_.items()}
    cut_off(classifier, *photographs)
    assert classifier.singular_values_.keys() == first.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(classifier.singular_values_[name], values)
    assert_same_fit(classifier.fit(*photographs), alone)


def test_without_a_seed_it_goes_on_as_it_began(small_model, photographs, tmp_path, cut_off):
    """The validation part and the first factors are drawn before training."""
    options = {**BASE, "random_state": None, "augment": True}
    classifier = CLIPLoRAClassifier(
        small_model, epochs=2, early_stopping=True, validation_fraction=0.3, **options
    )
    state = np.random.get_state()
    try:
        np.random.seed(3)
        alone = clone(classifier).fit(*photographs)
        classifier.set_params(checkpoint_dir=tmp_path)
        np.random.seed(3)
        cut_off(classifier, *photographs)
        np.random.seed(4)
        assert_same_fit(classifier.fit(*photographs), alone)
    finally:
        np.random.set_state(state)


def test_a_validation_part_and_weights_belong_to_the_fit(
    small_model, photographs, tmp_path, cut_off, steps
):
    paths, labels = np.array(photographs[0]), photographs[1]
    data, extra = (paths[:16], labels[:16]), dict(X_val=paths[16:], y_val=labels[16:])
    alone = CLIPSVDClassifier(small_model, max_steps=6, **BASE).fit(*data, **extra)
    classifier = clone(alone).set_params(checkpoint_dir=tmp_path)
    _, path = cut_off(classifier, *data, **extra)
    steps.clear()
    clone(classifier).fit(*data)
    weighted = clone(classifier).fit(*data, sample_weight=np.arange(1, 17), **extra)
    assert weighted.n_iter_ == 6
    assert len(steps) == 12
    assert path.exists()
    assert_same_fit(classifier.fit(*data, **extra), alone)
    assert len(steps) == 12 + 6 - 3


@pytest.mark.parametrize("change", ["lr", "images", "labels", "order"])
def test_another_fit_leaves_it_alone(change, small_model, photographs, tmp_path, cut_off, steps):
    paths, labels = photographs
    classifier = CLIPSVDClassifier(small_model, max_steps=6, checkpoint_dir=tmp_path, **BASE)
    _, path = cut_off(classifier, paths, labels)
    held = path.read_bytes()
    other, data = clone(classifier), (paths, labels)
    if change == "lr":
        other.set_params(lr=0.02)
    elif change == "images":
        data = [*paths[:9], paths[8], *paths[10:]], labels
    elif change == "labels":
        data = paths, np.roll(labels, 1)
    else:
        data = paths[::-1], labels[::-1]
    steps.clear()
    other.fit(*data)
    assert len(steps) == 6
    assert path.read_bytes() == held
    assert_same_fit(other, clone(other).set_params(checkpoint_dir=None).fit(*data))


def test_where_it_runs_and_what_it_says_do_not_matter(
    small_model, photographs, tmp_path, cut_off, steps, monkeypatch
):
    """Nor where the files lie: what they contain does."""
    paths, labels = photographs
    classifier = CLIPSVDClassifier(small_model, max_steps=6, checkpoint_dir=tmp_path, **BASE)
    cut_off(classifier, paths, labels)
    steps.clear()
    monkeypatch.chdir(os.path.dirname(paths[0]))
    names = [os.path.basename(path) for path in paths]
    clone(classifier).set_params(verbose=1, n_jobs=2).fit(names, labels)
    assert len(steps) == 3


def test_candidates_of_a_search_do_not_meet(small_model, photographs, tmp_path, every_step):
    grid = {"lr": [0.001, 0.01], "max_steps": [3, 4]}
    classifier = CLIPSVDClassifier(small_model, **BASE)
    results = []
    for folder in (None, tmp_path):
        search = GridSearchCV(
            clone(classifier).set_params(checkpoint_dir=folder),
            grid,
            cv=2,
            n_jobs=2,
            error_score="raise",
            scoring="neg_log_loss",
        )
        with parallel_config(backend="threading"):
            results.append(search.fit(*photographs).cv_results_["mean_test_score"])
    np.testing.assert_array_equal(*results)
    assert not any(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_said_and_not_used(small_model, photographs, tmp_path, cut_off):
    alone = CLIPSVDClassifier(small_model, max_steps=5, **BASE).fit(*photographs)
    classifier = clone(alone).set_params(checkpoint_dir=tmp_path)
    _, path = cut_off(classifier, *photographs)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:-20], whole[:middle] + b"\xff" + whole[middle + 1 :]):
        path.write_bytes(damaged)
        with pytest.warns(CheckpointWarning, match="is damaged.*starts over"):
            again = clone(classifier).fit(*photographs)
        assert_same_fit(again, classifier.set_params(checkpoint_dir=None).fit(*photographs))
        classifier.set_params(checkpoint_dir=tmp_path)
        assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    file = Checkpoint(folder, "Fit", "0" * 20)
    file.random_state(0)
    tensors = {"number/0": torch.arange(5.0), "order": torch.arange(3)}
    file.write(Snapshot(tensors, {"n_visits": 3, "scaler": {}}))
    return file.path, file.path.read_bytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_changed_byte_passes_for_a_number(written, data):
    path, whole = written
    place = data.draw(st.integers(0, len(whole) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != whole[place]))
    path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = Checkpoint(path.parent, "Fit", "0" * 20).found
    if found is None:
        assert [w.category for w in caught] == [CheckpointWarning]
    else:  # white space of the header, or the like
        assert torch.equal(found.tensors["number/0"], torch.arange(5.0))
        assert torch.equal(found.tensors["order"], torch.arange(3))
        assert found.values["n_visits"] == 3


def test_a_folder_that_cannot_be_written_to_is_said_before_work(small_model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    clf = CLIPSVDClassifier(small_model, checkpoint_dir=tmp_path / "file" / "folder")
    with pytest.raises(ValueError, match=r"checkpoint_dir='.*nothing can be written there"):
        clf.fit(["no such image.jpg"] * 4, [0, 0, 1, 1])
    assert not hasattr(clf, "classes_")


def test_a_disk_that_fills_up_costs_the_checkpoint_not_the_fit(
    small_model, photographs, tmp_path, every_step, monkeypatch
):
    def full(tensors, path, metadata):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    alone = CLIPSVDClassifier(small_model, max_steps=4, **BASE).fit(*photographs)
    classifier = clone(alone).set_params(checkpoint_dir=tmp_path)
    with pytest.warns(CheckpointWarning, match="No space left.*goes on without") as caught:
        classifier.fit(*photographs)
    assert len(caught) == 1
    assert_same_fit(classifier, alone)
    assert not any(tmp_path.iterdir())


SCRIPT = """
import json, os, signal, sys
import numpy as np
from skclipsvd import CLIPSVDClassifier
from skclipsvd.training import Encoders, checkpoint

settings, paths, labels, out, dies_after = json.loads(sys.stdin.read())
checkpoint.EVERY_SECONDS = 0.0
backward, steps = Encoders.backward, []

def counted(self, *args):
    steps.append(1)
    if len(steps) > dies_after > 0:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return backward(self, *args)

Encoders.backward = counted
clf = CLIPSVDClassifier(**settings).fit(paths, labels)
np.savez(out, steps=len(steps), losses=clf.loss_curve_, **clf.singular_values_)
"""


def test_a_killed_process_costs_the_steps_since_its_checkpoint(small_model, photographs, tmp_path):
    """kill -9, the same command again: the same singular values to the bit, fewer steps."""
    options = dict(model_name=small_model, max_steps=7, **{**BASE, "augment": True})

    def run(dies_after=0, **more):
        task = [{**options, **more}, photographs[0], photographs[1].tolist()]
        task += [str(tmp_path / "out.npz"), dies_after]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT],
            input=json.dumps(task),
            text=True,
            capture_output=True,
        )
        if dies_after:
            return done
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "out.npz") as file:
            return dict(file)

    alone = CLIPSVDClassifier(**options).fit(*photographs)
    folder = tmp_path / "checkpoints"
    killed = run(dies_after=4, checkpoint_dir=str(folder))
    assert killed.returncode != 0
    assert not killed.stderr
    assert len(list(folder.iterdir())) == 1
    resumed = run(checkpoint_dir=str(folder))
    assert 3 <= resumed.pop("steps") < 7
    np.testing.assert_array_equal(resumed.pop("losses"), alone.loss_curve_)
    assert resumed.keys() == alone.singular_values_.keys()
    for name, values in alone.singular_values_.items():
        np.testing.assert_array_equal(resumed[name], values)
    assert not any(folder.iterdir())
