"""SO, ProKeR and Tip-Adapter-F against their papers' formulas, written down a second time."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from torch import nn
from torch.nn import functional as F

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.adaptation.sparse import SparseAdam
from skclipsvd.experiments import CLIPSOClassifier, ProKeRClassifier, TipAdapterFClassifier

TRAIN, TEST = slice(0, 40), slice(40, 100)


@pytest.fixture(scope="module")
def train(digits):
    return digits[0][TRAIN], digits[1][TRAIN]


@pytest.fixture(scope="module")
def test(digits):
    return digits[0][TEST], digits[1][TEST]


@pytest.fixture(scope="module")
def frozen(train, test):
    """Embeddings of both parts, class texts, logit scale and one-hot labels, of open CLIP."""
    clf = CLIPZeroShotClassifier("tiny").fit(*train)
    embedded = [clf.transform(X).astype(float) for X in (train[0], test[0])]
    one_hot = (train[1][:, None] == clf.classes_).astype(float)
    return *embedded, clf.text_features_.astype(float), clf.logit_scale_, one_hot


def zero_shot(**parameters):
    return CLIPZeroShotClassifier("tiny", **parameters)


# --- SO


def moved(before, after):
    """Places that are not the same bits."""
    return set(np.flatnonzero(before.ravel() != after.ravel()).tolist())


class Recorder:
    """A matrix under SO, whose gradients are given, and which entries every step moved."""

    def __init__(self, start, density, refresh, seed=3):
        self.number = nn.Parameter(torch.tensor(start))
        self.optimiser = SparseAdam([self.number], density, refresh, seed)
        self.optimiser.param_groups[0]["lr"] = 0.01
        self.steps = []

    def step(self, gradient):
        before = self.number.detach().numpy().copy()
        self.number.grad = torch.tensor(gradient)
        self.optimiser.step()
        self.steps.append(moved(before, self.number.detach().numpy()))
        return self.number.detach().numpy()


SHAPE, DENSITY, REFRESH = (20, 30), 0.0102, 5
N_MOVED = 6


def test_a_step_of_so_moves_exactly_its_share():
    rng = np.random.default_rng(0)
    matrix = Recorder(rng.normal(size=SHAPE).astype("float32"), DENSITY, REFRESH)
    for _ in range(3 * REFRESH):
        matrix.step(rng.normal(size=SHAPE).astype("float32"))
    assert [len(step) for step in matrix.steps] == [N_MOVED] * (3 * REFRESH)
    # Only the first entries until others are drawn; three draws at most in three times as many.
    assert len(set().union(*matrix.steps[:REFRESH])) == N_MOVED
    assert N_MOVED < len(set().union(*matrix.steps)) <= 3 * N_MOVED
    tiny = Recorder(np.ones((2, 2), dtype="float32"), DENSITY, REFRESH)
    tiny.step(np.ones((2, 2), dtype="float32"))
    assert len(tiny.steps[0]) == 1


def test_so_is_the_papers_update():
    rng = np.random.default_rng(1)
    start = rng.normal(size=SHAPE).astype("float32")
    gradients = rng.normal(size=(3 * REFRESH, *SHAPE)).astype("float32")
    # A gradient that grows enough makes a draw's entries the largest of the running mean.
    scout = Recorder(start, DENSITY, REFRESH)
    for k in range(3 * REFRESH):
        scout.step(np.full(SHAPE, 1000.0 ** (k // REFRESH), dtype="float32"))
    drawn = scout.steps[::REFRESH]
    assert len(set().union(*drawn)) > 2 * N_MOVED

    matrix = Recorder(start, DENSITY, REFRESH)
    theta, mean, square = start.astype(float).ravel(), np.zeros(start.size), np.zeros(start.size)
    for k, gradient in enumerate(gradients, start=1):
        found = matrix.step(gradient)
        sparse = np.zeros(start.size)
        at = list(drawn[(k - 1) // REFRESH])
        sparse[at] = gradient.ravel()[at]
        mean = 0.9 * mean + 0.1 * sparse
        square = 0.999 * square + 0.001 * sparse**2
        dropped = np.argsort(-np.abs(mean))[N_MOVED:]
        mean[dropped] = square[dropped] = 0
        unbiased = square / (1 - 0.999**k)
        theta -= 0.01 * mean / (1 - 0.9**k) / (np.sqrt(unbiased) + 1e-8)
        np.testing.assert_allclose(found.ravel(), theta, rtol=1e-4, atol=1e-6)
        assert matrix.steps[-1] == set(np.flatnonzero(mean).tolist())


def test_so_of_all_entries_is_adam():
    rng = np.random.default_rng(2)
    start = rng.normal(size=SHAPE).astype("float32")
    matrix, theirs = Recorder(start, 1.0, REFRESH), nn.Parameter(torch.tensor(start))
    adam = torch.optim.Adam([theirs], lr=0.01)
    for _ in range(12):
        gradient = rng.normal(size=SHAPE).astype("float32")
        found = matrix.step(gradient)
        theirs.grad = torch.tensor(gradient)
        adam.step()
    np.testing.assert_allclose(found, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_steps", [1, 10])
def test_a_fit_of_so_moves_its_share_of_each_matrix(n_steps, train):
    clf = CLIPSOClassifier("tiny", max_steps=n_steps, augment=False, random_state=0).fit(*train)
    before = CLIPZeroShotClassifier("tiny").fit(*train).merged_state_dict()
    after = clf.merged_state_dict()
    # By matrix, of which some are stacked in one tensor.
    n_blocks = {name: 3 if name.endswith("in_proj_weight") else 1 for name in before}
    tuned = ("in_proj_weight", "out_proj.weight", "c_fc.weight", "c_proj.weight")
    total = 0
    for name, frozen in before.items():
        places = moved(frozen.numpy(), after[name].numpy())
        if name.endswith(tuned):
            size = frozen.numel() // n_blocks[name]
            assert len(places) == n_blocks[name] * int(5e-4 * size), name
        else:
            assert not places, name
        total += len(places)
    assert total == clf.n_parameters_tuned_ == sum(len(v) for v in clf.changes_.values()) / 2
    changes = np.abs(np.concatenate([v for k, v in clf.changes_.items() if k.endswith("/by")]))
    assert changes.max() < 1.1 * 2e-4 * n_steps
    # The first step of Adam is the rate itself.
    assert n_steps > 1 or changes.min() > 0.9 * 2e-4


def test_so_without_steps_is_zero_shot(train, test):
    clf = CLIPSOClassifier("tiny", max_steps=0).fit(*train)
    expected = zero_shot().fit(*train).decision_function(test[0])
    np.testing.assert_array_equal(clf.decision_function(test[0]), expected)
    assert clf.n_parameters_tuned_ == 0


def test_so_predicts_what_it_trained(train, test, tmp_path):
    parameters = dict(max_steps=6, refresh=2, density=0.05, lr=0.01, augment=False)
    clf = CLIPSOClassifier("tiny", random_state=0, **parameters).fit(*train)
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]
    # The loss of a fit that goes on from it is that of its merged weights.
    scores = clf.decision_function(train[0])
    targets = torch.from_numpy(np.searchsorted(clf.classes_, train[1]))
    loss = F.cross_entropy(torch.from_numpy(scores), targets)
    further = clone(clf).set_params(batch_size=len(train[0]), warm_start=True, max_steps=1)
    vars(further).update({k: v for k, v in vars(clf).items() if k.endswith("_")})
    assert further.fit(*train).loss_curve_[0] == pytest.approx(float(loss), rel=1e-4)
    none, half = clf.with_strength(0.0), clf.with_strength(0.5)
    expected = zero_shot().fit(*train).decision_function(test[0])
    np.testing.assert_array_equal(none.decision_function(test[0]), expected)
    for name, values in clf.changes_.items():
        factor = 0.5 if name.endswith("/by") else 1
        np.testing.assert_array_equal(half.changes_[name], factor * values)
    copy = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(copy.predict_proba(test[0]), clf.predict_proba(test[0]))
    again = clone(clf).fit(*train)
    np.testing.assert_array_equal(again.predict_proba(test[0]), clf.predict_proba(test[0]))
    other = clone(clf).set_params(random_state=1).fit(*train)
    assert (other.predict_proba(test[0]) != clf.predict_proba(test[0])).any()
    with pytest.raises(ValueError, match=r"an\.safetensors.*cannot hold a CLIPSOClassifier.*job"):
        clf.save_adapter(tmp_path / "an.safetensors")
    assert clf.with_classes(["square", "circle"]).predict(test[0]).shape == (60,)


def test_so_trains_until_it_has_learnt(train):
    clf = CLIPSOClassifier("tiny", density=0.05, lr=0.01, augment=False, random_state=0)
    assert clf.n_steps_for(10_000) == 2000
    assert clf.set_params(epochs=3).n_steps_for(100) == 12
    X, y = train[0][:20], train[1][:20]
    clf.set_params(epochs="auto").fit(X, y)
    assert clf.n_iter_ < 2000
    assert clf.loss_curve_[-1] < 0.01 <= clf.loss_curve_[-2]


def test_so_checks_its_parameters(train):
    for wrong in ({"density": 0.0}, {"density": 1.5}, {"refresh": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CLIPSOClassifier("tiny", **wrong).fit(*train)
    with pytest.raises(TypeError, match="weight_decay"):
        CLIPSOClassifier("tiny", weight_decay=0.1)


# --- ProKeR


@pytest.mark.parametrize(("beta", "lam"), [(1.0, 1.0), (7.0, 0.2)])
def test_proker_is_one_solve(beta, lam, train, test, frozen):
    X, Z, T, _, Y = frozen
    clf = ProKeRClassifier(zero_shot(), beta=beta, lam=lam).fit(*train)
    squares = np.array([[np.sum((a - b) ** 2) for b in X] for a in np.vstack([X, Z])])
    K, k = np.split(np.exp(-beta * squares), [len(X)])
    a = np.linalg.solve(K / lam + np.eye(len(X)), Y - X @ T.T)
    np.testing.assert_allclose(clf.decision_function(test[0]), Z @ T.T + k @ a / lam, atol=1e-6)


def test_proker_lies_between_the_labels_and_the_texts(train, test, frozen):
    _, Z, T, _, Y = frozen
    held = ProKeRClassifier(zero_shot(), lam=1e9).fit(*train)
    np.testing.assert_allclose(held.decision_function(test[0]), Z @ T.T, atol=1e-6)
    loose = ProKeRClassifier(zero_shot(), beta=10.0, lam=1e-9).fit(*train)
    np.testing.assert_allclose(loose.decision_function(train[0]), Y, atol=1e-5)


# --- Tip-Adapter-F


def tip_scores(images, keys, T, scale, Y, alpha=1.0, beta=5.5):
    """The paper's formula, image by image."""
    nearness = np.array([[np.exp(-beta * (1 - image @ key)) for key in keys] for image in images])
    return scale * images @ T.T + alpha * nearness @ Y


def test_without_epochs_it_is_the_cache(train, test, frozen):
    X, Z, T, scale, Y = frozen
    clf = TipAdapterFClassifier(zero_shot(), epochs=0).fit(*train)
    np.testing.assert_allclose(
        clf.decision_function(test[0]), tip_scores(Z, X, T, scale, Y), atol=1e-6
    )
    clf.set_params(alpha=3.0, beta=2.0).fit(*train)
    np.testing.assert_allclose(
        clf.decision_function(test[0]), tip_scores(Z, X, T, scale, Y, 3.0, 2.0), atol=1e-6
    )
    clf.set_params(alpha=0).fit(*train)
    np.testing.assert_allclose(clf.decision_function(test[0]), scale * Z @ T.T, atol=1e-6)


def test_the_keys_are_tuned_by_adamw(train, test, frozen):
    X, Z, T, scale, Y = frozen
    clf = TipAdapterFClassifier(zero_shot(), epochs=4, lr=0.05, augment=False).fit(*train)
    keys = torch.tensor(X, requires_grad=True)
    optimiser = torch.optim.AdamW([keys], lr=0.05)
    images, texts, values = (torch.tensor(array) for array in (X, T, Y))
    for k in range(4):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * k / 4)) / 2
        optimiser.zero_grad()
        logits = torch.exp(5.5 * (images @ keys.T) - 5.5) @ values + scale * images @ texts.T
        F.cross_entropy(logits, values.argmax(1)).backward()
        optimiser.step()
    assert np.abs(clf.keys_ - X).max() > 0.05
    np.testing.assert_allclose(clf.keys_, keys.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(
        clf.decision_function(test[0]), tip_scores(Z, clf.keys_, T, scale, Y), atol=1e-6
    )


def test_crops_are_drawn_by_the_random_state(train):
    clf = TipAdapterFClassifier(zero_shot(), epochs=2, random_state=0).fit(*train)
    again = clone(clf).fit(*train)
    np.testing.assert_array_equal(clf.keys_, again.keys_)
    other = clone(clf).set_params(random_state=1).fit(*train)
    plain = clone(clf).set_params(augment=False).fit(*train)
    assert all((clf.keys_ != keys).any() for keys in (other.keys_, plain.keys_))
    # As decoding in between forgets nothing, smaller batches of the model change nothing either.
    parts = clone(clf).set_params(classifier__batch_size=7).fit(*train)
    np.testing.assert_allclose(parts.keys_, clf.keys_, atol=1e-5)


# --- both


ON_TOP = {
    "ProKeR": ProKeRClassifier(zero_shot()),
    "Tip-Adapter-F": TipAdapterFClassifier(zero_shot(), epochs=2, random_state=0),
}
both = pytest.mark.parametrize("name", ON_TOP)


@both
def test_they_live_in_scikit_learn(name, train, test):
    clf = clone(ON_TOP[name]).fit(*train)
    scores = clf.decision_function(test[0])
    np.testing.assert_array_equal(clf.classes_[scores.argmax(1)], clf.predict(test[0]))
    embedded = clf.classifier_.transform(test[0])
    np.testing.assert_array_equal(clf.predict_embeddings(embedded), clf.predict(test[0]))
    copy = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(copy.decision_function(test[0]), scores)
    assert cross_val_score(clone(clf), *train, cv=2, error_score="raise").min() > 0.7
    search = GridSearchCV(
        clone(clf), {"classifier__templates": ["{}", "a photo of a {}."], "beta": [1, 5.5]}, cv=2,
        error_score="raise",
    ).fit(*train)  # fmt: skip
    assert search.best_estimator_.predict(test[0][:3]).shape == (3,)
    with pytest.raises(NotFittedError):
        clone(clf).predict(test[0])


@both
def test_two_classes_have_one_column(name, train):
    X, y = train[0], np.where(train[1] == "zero", "zero", "other")
    clf = clone(ON_TOP[name]).fit(X, y)
    scores = clf.decision_function(X)
    assert scores.shape == (40,)
    np.testing.assert_array_equal(clf.predict(X), np.where(scores > 0, "zero", "other"))


@both
def test_a_validation_part_chooses(name, train, test):
    clf = clone(ON_TOP[name]).set_params(classifier__templates="a {}.")
    plain, chosen = clone(clf).fit(*train), clone(clf).fit(*train, X_val=test[0], y_val=test[1])
    assert chosen.score(*test) >= plain.score(*test)
    # One that is wrong throughout makes other numbers the best.
    wrong = np.roll(np.array(sorted(set(test[1]))), 1)[np.searchsorted(plain.classes_, test[1])]
    other = clone(clf).fit(*train, X_val=test[0], y_val=wrong)
    assert other.score(test[0], wrong) > plain.score(test[0], wrong)
    numbers = [name for name in ("alpha_", "beta_", "lam_") if hasattr(plain, name)]
    assert any(getattr(other, n) != getattr(plain, n) for n in numbers)
    told = clone(clf).set_params(beta=2.0).fit(*train, X_val=test[0], y_val=wrong)
    assert told.beta_ == 2.0


@both
def test_what_is_wrong_is_said_and_nothing_is_left(name, train, test):
    clf = clone(ON_TOP[name]).fit(*train)
    before = pickle.dumps(clf)
    cases = {
        "X_val and y_val belong together": dict(X_val=test[0]),
        r"y_val has labels that y has not: \['cat'\]": dict(X_val=test[0][:1], y_val=["cat"]),
        r"X_val\[0\] = 'nowhere.png'": dict(X_val=["nowhere.png"], y_val=["zero"]),
    }
    for message, parts in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            clf.fit(*train, **parts)
    with pytest.raises(ValueError, match="one class only"):
        clf.fit(train[0], ["zero"] * 40)
    assert pickle.dumps(clf) == before
    with pytest.raises(ValueError, match="beta"):
        clone(clf).set_params(beta=-1.0).fit(*train)


def test_they_stand_on_adapted_features_too(train, test):
    first = CLIPSVDClassifier("tiny", max_steps=3, lr=0.02, augment=False, random_state=0)
    clf = ProKeRClassifier(clone(first).set_params(head="logistic"), lam=1e9).fit(*train)
    expected = clone(first).fit(*train)  # the texts' answer alone is corrected
    np.testing.assert_array_equal(clf.predict(test[0]), expected.predict(test[0]))
