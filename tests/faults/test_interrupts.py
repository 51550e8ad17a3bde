"""SIGINT wherever it can come: all is as before or as after, and the next call works."""

import os

import pytest

import skclipsvd
from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier, load_adapter
from skclipsvd.adaptation import factors
from skclipsvd.experiments.results import COLUMNS, Results
from tests.helpers.operations import (
    Operation,
    Places,
    fitted_state,
    leftovers,
    nothing_is_left,
)

# A file whose opening was interrupted is closed when it is collected, and says so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FAST = dict(max_steps=2, lr=0.01, augment=False, random_state=0, device="cpu")
FITS = {
    "SVD": (CLIPSVDClassifier, {}),
    "threads": (CLIPSVDClassifier, {"n_jobs": 2, "augment": True, "batch_size": 8}),
    "early stopping": (CLIPSVDClassifier, {"early_stopping": True, "validation_fraction": 0.3}),
    "warm start": (CLIPSVDClassifier, {"warm_start": True}),
    "LoRA": (CLIPLoRAClassifier, {"n_jobs": 2}),
    "image tower": (CLIPSVDClassifier, {"towers": ("image",), "layers": "top"}),
}
OTHERS = ["zero shot", "cold fit", "predict", "cold predict", "load_adapter", "save_adapter", "row"]


@pytest.fixture
def operation(request, small_model, photographs, tmp_path, monkeypatch):
    return request.getfixturevalue("make_operation")(request.param)


@pytest.fixture
def make_operation(small_model, photographs, tmp_path, monkeypatch, fresh_caches):
    """Build an operation by name."""
    paths, labels = photographs
    monkeypatch.setenv("SKCLIPSVD_IMAGE_CACHE", str(tmp_path / "images"))
    monkeypatch.setenv("SKCLIPSVD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(factors, "MIN_RANK_ON_DISK", 32)

    def clear():
        skclipsvd.clear_caches()
        for file in [*tmp_path.rglob("*.npz"), *tmp_path.rglob("*.safetensors")]:
            file.unlink()

    def refit(kind, settings, *, is_cold=False):
        clf = kind(small_model, **{**FAST, **settings}).fit(paths[::2], labels[::2])
        old = fitted_state(clf)

        def reset():
            clf.__dict__ = {k: v for k, v in vars(clf).items() if not k.endswith("_")} | old
            if is_cold:
                clear()

        return Operation(lambda: clf.fit(paths, labels) and None, lambda: fitted_state(clf), reset)

    def zero_shot():
        clf = CLIPZeroShotClassifier(small_model).fit(None, ["a", "b"])
        old = fitted_state(clf)
        return Operation(
            lambda: clf.fit(None, ["c", "d", "e"]) and None,
            lambda: fitted_state(clf),
            lambda: clf.__dict__.update(old),
        )

    def predict(is_cold):
        clf = CLIPSVDClassifier(small_model, **FAST, n_jobs=2).fit(paths, labels)
        return Operation(
            lambda: clf.predict_proba(paths),
            lambda: fitted_state(clf),
            clear if is_cold else lambda: None,
        )

    def adapters():
        one, other = (
            CLIPSVDClassifier(small_model, **{**FAST, "random_state": seed, "lr": lr})
            for seed, lr in enumerate((0.01, 0.02))
        )
        one.fit(paths, labels).save_adapter(tmp_path / "adapter")
        return one, other.fit(paths, labels)

    def load():
        adapters()
        return Operation(lambda: fitted_state(load_adapter(tmp_path / "adapter", small_model)))

    def save():
        one, other = adapters()
        return Operation(
            lambda: other.save_adapter(tmp_path / "adapter"),
            lambda: fitted_state(load_adapter(tmp_path / "adapter", model_name=small_model)),
            lambda: one.save_adapter(tmp_path / "adapter"),
        )

    def row():
        rows = [dict.fromkeys(COLUMNS, 1) | {"seed": seed, "accuracy": 0.1} for seed in (1, 2)]
        file = tmp_path / "rows.csv"

        def reset():
            file.unlink(missing_ok=True)
            Results(file).append(rows[:1])

        return Operation(lambda: Results(file).append(rows), lambda: Results(file).rows(), reset)

    return {
        **{name: lambda fit=fit: refit(*fit) for name, fit in FITS.items()},
        "cold fit": lambda: refit(*FITS["SVD"], is_cold=True),
        "zero shot": zero_shot,
        "predict": lambda: predict(False),
        "cold predict": lambda: predict(True),
        "load_adapter": load,
        "save_adapter": save,
        "row": row,
    }


def interrupt(operation, n_places, folder):
    """Interrupt an operation at about so many places, and check it after each."""
    answer, before, after = operation.expected()
    places = Places()
    places.record(operation.run)
    operation.reset()
    n_interrupted = 0
    for place, turn in places.some(n_places):
        with nothing_is_left(place, turn):
            was_interrupted = places.interrupt(operation.run, place, turn)
        assert not leftovers(folder), (place, turn)
        operation.check(answer, before, after)
        n_interrupted += was_interrupted
    return n_interrupted


@pytest.mark.parametrize("name", [*FITS, *OTHERS])
def test_an_interrupt_anywhere_leaves_all_as_before_or_after(make_operation, name, tmp_path):
    assert interrupt(make_operation[name](), 12, tmp_path) > 6


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FITS, *OTHERS])
def test_an_interrupt_everywhere_leaves_all_as_before_or_after(
    make_operation, name, tmp_path, record_property
):
    n = interrupt(make_operation[name](), int(os.environ.get("SKCLIPSVD_PLACES", 60)), tmp_path)
    record_property(f"interrupts: {name}", n)
    record_property("interrupts: in all", n)
    assert n > 12
