"""A fit that changed no training prediction says so, and no other fit does."""

import warnings

import numpy as np
import pytest

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.exceptions import SkclipsvdWarning, UnchangedPredictionsWarning
from skclipsvd.training import unchanged


def warned(classifier, *data, **options):
    """Whether a fit warns, and with what words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier.fit(*data, **options)
    own = [w for w in caught if issubclass(w.category, UnchangedPredictionsWarning)]
    assert len(own) <= 1
    assert all(w.filename == __file__ for w in own), "it names the user's line"
    return str(own[0].message) if own else ""


@pytest.mark.parametrize("kind", [CLIPSVDClassifier, CLIPLoRAClassifier])
@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("lr", [1e-9, 1e-5, 1e-3, 3e-2])
def test_it_is_right(kind, augment, lr, small_model, photographs):
    paths, labels = photographs
    zero_shot = CLIPZeroShotClassifier(small_model).fit(None, labels).predict(paths)
    clf = kind(small_model, lr=lr, max_steps=4, batch_size=8, augment=augment, random_state=0)
    message = warned(clf, paths, labels)
    predicted = clf.predict(paths)
    assert bool(message) == bool((predicted == zero_shot).all() and (predicted != labels).any())
    if message:
        n_wrong = (predicted != labels).sum()
        assert f"its 20 training images (still wrong: {n_wrong})" in message
        assert f"raise lr (it is {lr:.3g}) or train for more steps" in message
        assert issubclass(UnchangedPredictionsWarning, SkclipsvdWarning)


def test_both_happen(small_model, photographs):
    """The test above would prove nothing if no fit changed anything, or every one did."""
    settings = dict(max_steps=4, batch_size=8, augment=False, random_state=0)
    assert warned(CLIPSVDClassifier(small_model, lr=1e-9, **settings), *photographs)
    assert not warned(CLIPSVDClassifier(small_model, lr=3e-2, **settings), *photographs)


def test_nothing_is_amiss_where_all_was_right_before(small_model, photographs):
    paths, _ = photographs
    names = {"a": "temple", "b": "flower"}
    zero_shot = CLIPZeroShotClassifier(small_model, class_names=names).fit(None, ["a", "b"])
    scores = zero_shot.decision_function(paths)
    order = np.argsort(scores)
    chosen = [paths[i] for i in order]
    labels = zero_shot.predict(chosen)
    if len(set(labels)) < 2:
        pytest.skip("the random model calls all images the same")
    clf = CLIPSVDClassifier(small_model, class_names=names, lr=1e-9, max_steps=2)
    assert not warned(clf, chosen, labels)


def test_no_steps_are_asked_to_change_nothing(small_model, photographs):
    assert not warned(CLIPSVDClassifier(small_model, max_steps=0), *photographs)


def test_early_stopping_that_keeps_the_start(small_model, photographs):
    paths, labels = np.array(photographs[0]), photographs[1]
    clf = CLIPSVDClassifier(
        small_model, lr=0.5, epochs=3, augment=False, early_stopping=True, random_state=0
    )
    zero_shot = CLIPZeroShotClassifier(small_model).fit(None, labels).predict(paths)
    # Labels that the start answers best of all.
    validation = dict(X_val=paths, y_val=zero_shot)
    message = warned(clf, paths, labels, **validation)
    if (clf.predict(paths) == zero_shot).all():
        assert "early_stopping kept the start" in message
    assert clf.best_validation_score_ == 1


def test_a_warm_start_is_compared_with_the_last_fit(small_model, photographs):
    settings = dict(max_steps=4, batch_size=8, augment=False, random_state=0)
    clf = CLIPSVDClassifier(small_model, lr=3e-3, warm_start=True, **settings)
    clf.fit(*photographs)
    first = clf.predict(photographs[0])
    message = warned(clf.set_params(lr=1e-9), *photographs)
    assert (clf.predict(photographs[0]) == first).all()
    assert bool(message) == bool((first != photographs[1]).any())


def test_what_training_saw_spares_the_comparison(small_model, photographs, monkeypatch):
    def forbidden(*_):
        raise AssertionError("an extra pass")

    monkeypatch.setattr(unchanged, "unit_image_features", forbidden)
    clf = CLIPSVDClassifier(small_model, lr=3e-2, max_steps=20, augment=False, random_state=0)
    clf.fit(*photographs)


def test_a_comparison_is_a_few_images_where_one_changed(small_model, photographs, monkeypatch):
    seen = []
    embed = unchanged.unit_image_features

    def counted(model, pixels):
        seen.append(len(pixels))
        return embed(model, pixels)

    monkeypatch.setattr(unchanged, "unit_image_features", counted)
    paths, labels = photographs
    clf = CLIPSVDClassifier(small_model, lr=3e-2, max_steps=20, augment=True, random_state=0)
    clf.fit(paths * 3, np.tile(labels, 3))
    assert sum(seen) <= 16
