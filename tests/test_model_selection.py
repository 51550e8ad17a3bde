"""K-shot sampling and splitting: properties for any labels, and inside scikit-learn."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.neighbors import KNeighborsClassifier

from skclipsvd.model_selection import (
    FewShotSplit,
    base_novel_split,
    find_duplicates,
    harmonic_mean_score,
    sample_shots,
)

# NumPy drops zero characters at the end of a string.
texts = st.text(st.characters(exclude_characters="\0"), max_size=3)


@st.composite
def few_shot_problems(draw, extra=(1, 4)):
    """Labels in any order with enough items per class, and a number of shots."""
    n_shots = draw(st.integers(1, 4))
    kind = draw(st.sampled_from([texts, st.integers(-9, 9)]))
    classes = draw(st.lists(kind, min_size=2, max_size=4, unique=True))
    counts = [max(1, n_shots + draw(st.integers(*extra))) for _ in classes]
    y = draw(st.permutations([c for c, n in zip(classes, counts, strict=True) for _ in range(n)]))
    return np.array(y), n_shots, draw(st.integers(0, 2**32))


# --- sample_shots


@given(few_shot_problems())
@settings(max_examples=60, deadline=None)
def test_every_class_has_its_shots(problem):
    y, n_shots, seed = problem
    indices = sample_shots(y, n_shots, random_state=seed)
    assert (np.diff(indices) > 0).all()
    assert set(np.unique(y[indices], return_counts=True)[1]) == {n_shots}
    np.testing.assert_array_equal(np.unique(y[indices]), np.unique(y))


@given(few_shot_problems())
@settings(max_examples=40, deadline=None)
def test_nested(problem):
    y, n_shots, seed = problem
    draws = [set(sample_shots(y, k, random_state=seed)) for k in range(1, n_shots + 1)]
    assert all(few < many for few, many in pairwise(draws))


@given(few_shot_problems(), st.randoms())
@settings(max_examples=40, deadline=None)
def test_a_class_does_not_depend_on_the_others(problem, random):
    y, n_shots, seed = problem
    indices = sample_shots(y, n_shots, random_state=seed)
    label = random.choice(list(np.unique(y)))
    members = np.flatnonzero(y == label)
    alone = members[sample_shots(y[members], n_shots, random_state=seed)]
    np.testing.assert_array_equal(indices[y[indices] == label], alone)


@given(few_shot_problems(extra=(-3, 1)), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_replacement_repeats_as_little_as_possible(problem, n_shots):
    y, _, seed = problem
    indices = sample_shots(y, n_shots, random_state=seed, replace=True)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        times = (indices[y[indices] == label][:, None] == members).sum(axis=0)
        assert times.sum() == n_shots
        assert times.max() - times.min() <= 1


def test_the_draw_is_fixed_for_ever():
    # Written down once: whatever the machine, the version of NumPy or the hash seed.
    y = np.repeat(["cat", "dog", "Öwl \N{OWL}"], 50)
    assert sample_shots(y, 2, random_state=1).tolist() == [18, 43, 66, 80, 104, 109]


def test_seeds_differ_and_none_is_not_the_global_generator():
    y = np.repeat([0, 1], 500)
    draws = {tuple(sample_shots(y, 3, random_state=seed)) for seed in range(20)}
    assert len(draws) == 20
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    assert not np.array_equal(sample_shots(y, 5), sample_shots(y, 5))
    np.testing.assert_array_equal(before, np.random.get_state()[1])
    a, b = (sample_shots(y, 5, random_state=np.random.RandomState(3)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_draws_are_uniform():
    y = np.zeros(10, dtype=int)
    counts = sum(np.bincount(sample_shots(y, 2, random_state=s), minlength=10) for s in range(2000))
    assert np.abs(counts - 400).max() < 100  # five standard deviations


def test_shots_come_from_different_groups():
    y = np.repeat(["a", "b"], 12)
    groups = np.tile(np.repeat([1, 2, 3], 4), 2)
    for seed in range(5):
        drawn = sample_shots(y, 3, random_state=seed, groups=groups)
        assert [sorted(groups[drawn][y[drawn] == c]) for c in "ab"] == [[1, 2, 3]] * 2
        fewer = sample_shots(y, 2, random_state=seed, groups=groups)
        assert set(fewer) < set(drawn)


@pytest.mark.parametrize(
    "form", [list, tuple, np.array, pd.Series, lambda y: pd.Series(y, dtype="category")]
)
def test_forms_of_y(form):
    y = ["b", "a", "b", "a", "a"]
    np.testing.assert_array_equal(
        sample_shots(form(y), 2, random_state=0), sample_shots(y, 2, random_state=0)
    )


# --- FewShotSplit


@given(few_shot_problems())
@settings(max_examples=40, deadline=None)
def test_split_is_a_partition_of_nested_draws(problem):
    y, n_shots, seed = problem
    splits = list(FewShotSplit(n_shots, 2, random_state=seed).split(np.zeros(len(y)), y))
    assert len(splits) == 2
    for i, (train, test) in enumerate(splits):
        np.testing.assert_array_equal(train, sample_shots(y, n_shots, random_state=seed + i))
        np.testing.assert_array_equal(np.sort(np.append(train, test)), np.arange(len(y)))


@given(few_shot_problems(extra=(3, 5)), st.data())
@settings(max_examples=40, deadline=None)
def test_given_test_items_are_kept_apart(problem, data):
    y, n_shots, seed = problem
    test = np.array(sorted({np.flatnonzero(y == c)[data.draw(st.integers(0, 2))] for c in set(y)}))
    mask = np.isin(np.arange(len(y)), test)
    for form in (test, mask, test[::-1].tolist()):
        for train, held_out in FewShotSplit(n_shots, 2, test=form, random_state=seed).split(y, y):
            np.testing.assert_array_equal(held_out, test)
            assert not set(train) & set(test)
            assert set(np.unique(y[train], return_counts=True)[1]) == {n_shots}


@given(st.integers(0, 1000), st.integers(1, 3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_group_on_both_sides(seed, n_shots, fixed):
    rng = np.random.RandomState(seed)
    groups = np.repeat(np.arange(30), 4)
    y = np.where(rng.rand(120) < 0.5, "a", "b")
    test = groups < 5 if fixed else None
    for train, held_out in FewShotSplit(n_shots, test=test, random_state=seed).split(y, y, groups):
        assert not set(groups[train]) & set(groups[held_out])
        assert len(held_out)


def test_inside_cross_validation_and_search():
    X, y = load_digits(return_X_y=True)
    X, y = X[:300], y[:300]
    paths = [f"{i}.png" for i in range(300)]
    cv = FewShotSplit(4, 2, random_state=1)
    assert len(list(cv.split(paths, y))) == cv.get_n_splits(paths, y) == 2
    scores = cross_val_score(KNeighborsClassifier(1), X, y, cv=cv)
    assert scores.shape == (2,)
    assert scores.min() > 0.6
    search = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 2]}, cv=cv).fit(X, y)
    assert search.n_splits_ == 2
    assert repr(cv).startswith("FewShotSplit(n_shots=4, n_splits=2")


def test_groups_are_routed():
    X, y = load_digits(return_X_y=True)
    X, y = X[:200], y[:200]
    groups = np.arange(200) // 4
    with sklearn.config_context(enable_metadata_routing=True):
        results = cross_validate(
            KNeighborsClassifier(1),
            X,
            y,
            cv=FewShotSplit(2, random_state=0),
            params={"groups": groups},
            return_indices=True,
        )
    for train, test in zip(*results["indices"].values(), strict=True):
        assert not set(groups[train]) & set(groups[test])
    # Groups may also be left out.
    with sklearn.config_context(enable_metadata_routing=True):
        cross_validate(KNeighborsClassifier(1), X, y, cv=FewShotSplit(2, random_state=0))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_shots": 0}, "n_shots must be an int of at least 1; got 0"),
        ({"n_shots": 1.0}, "n_shots must be"),
        ({"n_shots": True}, "n_shots must be"),
        ({"n_shots": 3}, r"Class 'b' has 2 items.*n_shots=3; pass replace=True"),
        ({"n_shots": 1, "n_splits": 0}, "n_splits must be"),
        ({"n_shots": 1, "random_state": -1}, "random_state must be"),
        ({"n_shots": 1, "random_state": "1"}, "random_state must be"),
        ({"n_shots": 1, "test": [9]}, "position 9, but there are 5"),
        ({"n_shots": 1, "test": [-1]}, "position -1"),
        ({"n_shots": 1, "test": [0.5]}, r"positions \(int\) or a mask"),
        ({"n_shots": 1, "test": [True, False]}, "mask of 2 items, but there are 5"),
        ({"n_shots": 1, "test": []}, "No item is left to test on"),
        ({"n_shots": 1, "test": [1, 3]}, "No item of class 'b' is left to train on"),
        ({"n_shots": 9, "replace": True}, "No item is left to test on"),
    ],
)
def test_split_errors(parameters, message):
    y = ["a", "b", "a", "b", "a"]
    with pytest.raises(ValueError, match=message):
        list(FewShotSplit(**parameters).split(y, y))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "y is None"),
        ([], "holds no labels"),
        ([0.5, 1.5], "continuous"),
        ([[0, 1], [1, 0]], "1d array"),
        (["a", "b"], "inconsistent numbers of samples"),
    ],
)
def test_label_errors(y, message):
    with pytest.raises(ValueError, match=message):
        list(FewShotSplit(1).split(range(5), y))


def test_sample_errors():
    with pytest.raises(ValueError, match="n_shots must be"):
        sample_shots([0, 1], 0)
    with pytest.raises(ValueError, match="inconsistent"):
        sample_shots([0, 1], 1, groups=[1])
    with pytest.raises(ValueError, match="Class 1 has 1 items"):
        sample_shots([0, 0, 1], 2)


# --- base and novel classes


@given(st.lists(texts, min_size=2, max_size=9, unique=True))
def test_base_classes_are_the_first_half(classes):
    base, novel = base_novel_split(classes * 2)
    assert [*base, *novel] == sorted(classes)
    assert len(base) - len(novel) in (0, 1)


def test_base_novel_in_the_order_of_a_data_set():
    base, novel = base_novel_split(["b", "c"], classes=["c", "b", "a", "c"])
    assert (base.tolist(), novel.tolist()) == (["c", "b"], ["a"])
    with pytest.raises(ValueError, match="not among classes, first \\['z'\\]"):
        base_novel_split(["z", "a"], classes=["a", "b"])
    with pytest.raises(ValueError, match="at least two classes; got 1"):
        base_novel_split(["a", "a"])


@given(st.floats(0, 100), st.floats(0, 100))
def test_harmonic_mean(base, novel):
    score = harmonic_mean_score(base, novel)
    tolerance = 1e-9
    assert min(base, novel) * (1 - tolerance) <= score <= max(base, novel) * (1 + tolerance)
    assert score == harmonic_mean_score(novel, base)


def test_harmonic_mean_limits():
    assert harmonic_mean_score(0, 0) == 0
    assert harmonic_mean_score(0, 1) == 0
    for bad in (-1, float("nan"), float("inf"), "1", None):
        with pytest.raises(ValueError, match="novel must be a finite number"):
            harmonic_mean_score(1, bad)


# --- find_duplicates


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.floats(-1, 1))
def test_duplicates_are_all_pairs_above_the_threshold(seed, n, m, threshold):
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    angles = (one @ other.T) / np.outer(*(np.linalg.norm(e, axis=1) for e in (one, other)))
    pairs = find_duplicates(one, other, threshold=threshold)
    assert set(zip(pairs["first"], pairs["second"], strict=True)) == set(
        zip(*np.nonzero(angles >= threshold), strict=True)
    )
    np.testing.assert_allclose(pairs["similarity"], angles[pairs["first"], pairs["second"]])
    assert (np.diff(pairs["similarity"]) <= 0).all()
    within = find_duplicates(one, threshold=threshold)
    assert (within["first"] < within["second"]).all()
    crossed = find_duplicates(one, one, threshold=threshold)
    assert len(crossed) >= 2 * len(within)


def test_duplicates_beyond_one_block():
    embeddings = np.random.default_rng(0).normal(size=(3000, 32))
    embeddings[2900] = 3 * embeddings[7]
    embeddings[2100] = embeddings[1500] + 1e-3
    pairs = find_duplicates(embeddings, threshold=0.999)
    assert pairs[["first", "second"]].to_numpy().tolist() == [[7, 2900], [1500, 2100]]


@pytest.mark.parametrize(
    ("embeddings", "others", "threshold", "message"),
    [
        ([[1.0, 0.0]], [[1.0]], 0.9, "have 2 features and others 1"),
        ([[1.0], [0.0]], None, 0.9, r"embeddings\[1\] is all zeros"),
        ([[1.0]], [[0.0]], 0.9, r"others\[0\] is all zeros"),
        ([[1.0]], [[np.nan]], 0.9, "others contains NaN"),
        (["a.jpg", "b.jpg"], None, 0.9, "could not convert string|Expected 2D"),
        ([[1.0]], None, 98, "threshold=98 must be from -1 to 1"),
    ],
)
def test_duplicates_of_what_is_no_embedding(embeddings, others, threshold, message):
    with pytest.raises(ValueError, match=message):
        find_duplicates(embeddings, others, threshold=threshold)
