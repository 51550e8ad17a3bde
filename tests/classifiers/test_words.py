"""The words that CLIP reads are those that the user meant, or the user is told."""

import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers.families import bert_look_alike, write_model

from skclipsvd import (
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    CosineClassifier,
    load_adapter,
)
from skclipsvd.exceptions import (
    BareLabelWarning,
    CutPromptWarning,
    IndistinctClassesWarning,
    SkclipsvdWarning,
    UnchangedPredictionsWarning,
)

ANIMALS = ("a cat", "a dog", "a horse", "a mouse")
PARAGRAPH = "which sleeps all day on the warm stones beside the old harbour wall " * 8


def zero_shot(model, **params):
    return CLIPZeroShotClassifier(model, **params)


def told(fit):
    """The warnings of ours that a fit gives, but for that of a training that was too short."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit()
    assert all(issubclass(one.category, SkclipsvdWarning) for one in caught)
    return [one for one in caught if one.category is not UnchangedPredictionsWarning]


# --- Bare numbers and booleans


@pytest.fixture(scope="module")
def numbers(digits):
    """Digits whose labels are numbers, and what the numbers mean."""
    paths, labels = digits[0][:200], digits[1][:200]
    names = np.unique(labels)
    return paths, np.searchsorted(names, labels), names


@pytest.mark.parametrize(
    "kind",
    [
        np.asarray,
        lambda y: y.tolist(),
        lambda y: y.astype(float),
        lambda y: y.astype(np.uint8),
        lambda y: pd.Series(y, dtype="Int64"),
        lambda y: pd.Series(y).astype("category"),
        pl.Series,
    ],
    ids=["array", "list", "float", "uint8", "Int64", "category", "polars"],
)
def test_number_labels_need_words(numbers, kind):
    """The very line that the warning advises gives the answers of text labels."""
    paths, y, names = numbers
    with pytest.warns(BareLabelWarning, match=r"dict\(enumerate\(np\.unique\(y\)\)\)") as caught:
        bare = zero_shot("tiny").fit(paths, kind(y))
    assert len(caught) == 1
    assert "'a photo of a 0.'" in str(caught[0].message)
    assert bare.score(paths, y) < 0.5
    mended = zero_shot("tiny", class_names=dict(enumerate(names))).fit(paths, kind(y))
    assert mended.score(paths, y) > 0.9
    of_text = zero_shot("tiny").fit(None, names)
    np.testing.assert_array_equal(mended.predict_proba(paths), of_text.predict_proba(paths))


@pytest.mark.parametrize(
    "labels",
    [
        [True, False],
        np.array([False, True]),
        pd.Series([True, False]),
        pd.Series([True, False], dtype="boolean"),
        [-1, 1],
        [3, 17],
        ["0", "1"],
        ["1", "2.0"],
        ["True", "False"],
        ["-1", "1"],
    ],
    ids=str,
)
def test_labels_that_mean_nothing_to_clip(small_model, labels):
    with pytest.warns(BareLabelWarning, match=r"class_names=\{"):
        zero_shot(small_model).fit(None, labels)


@pytest.mark.parametrize(
    "labels", [["zero", "one"], ["class 0", "class 1"], ["707-320", "A310"], ["0", "none"]], ids=str
)
def test_labels_with_a_word_are_words(small_model, labels):
    assert not told(lambda: zero_shot(small_model).fit(None, labels))


def test_numerals_as_text_are_words_in_a_template_of_the_users_own(small_model):
    """Who writes "the digit {}" for the labels "0", "1" has chosen both."""
    clf = zero_shot(small_model, templates="the digit {}")
    assert not told(lambda: clf.fit(None, ["0", "1"]))
    # Numbers may have been put there by scikit-learn, which knows no template.
    assert len(told(lambda: clf.fit(None, [0, 1]))) == 1


@pytest.mark.parametrize("estimator", [CLIPSVDClassifier, CLIPLoRAClassifier])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_fit_warns_once(small_model, photographs, estimator, early_stopping):
    paths, labels = photographs
    clf = estimator(small_model, max_steps=2, early_stopping=early_stopping)
    caught = told(lambda: clf.fit(paths, labels == "temple"))
    assert [one.category for one in caught] == [BareLabelWarning]
    assert caught[0].filename == __file__  # the user's own line, not one of a library
    assert not told(lambda: clf.predict(paths))
    clf.set_params(class_names={True: "a temple", False: "a flower"})
    assert not told(lambda: clf.fit(paths, labels == "temple"))


def test_other_classes_are_asked_for_words_too(small_model):
    clf = zero_shot(small_model).fit(None, ANIMALS)
    with pytest.warns(BareLabelWarning, match="numbers"):
        clf.with_classes([0, 1])
    assert not told(lambda: clf.with_classes({0: "a cat", 1: "a dog"}))


def test_two_numbers_are_told_of_one_versus_rest(small_model):
    with pytest.warns(BareLabelWarning, match="OneVsRestClassifier"):
        zero_shot(small_model).fit(None, [0, 1])
    caught = told(lambda: zero_shot(small_model).fit(None, [0, 1, 2]))
    assert "OneVsRest" not in str(caught[0].message)


def test_labels_that_are_not_counted_from_zero_get_a_mapping_of_their_own(small_model):
    caught = told(lambda: zero_shot(small_model).fit(None, [10, 20]))
    assert "class_names={10: '...', 20: '...'}" in str(caught[0].message)
    assert "enumerate" not in str(caught[0].message)


# --- class_names as a list


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_class_names_in_the_order_of_the_sorted_labels(small_model, kind):
    labels = ["b", "a", "c"]
    words = ["an apple", "a berry", "a cherry"]
    listed = zero_shot(small_model, class_names=kind(words)).fit(None, labels)
    mapped = zero_shot(small_model, class_names=dict(zip("abc", words, strict=True)))
    np.testing.assert_array_equal(listed.text_features_, mapped.fit(None, labels).text_features_)


def test_a_list_of_class_names_is_trained_saved_and_explained(small_model, photographs, tmp_path):
    paths, labels = photographs
    settings = dict(max_steps=1, random_state=0)
    words = [["a flower", "a rose"], "a temple"]
    listed = CLIPSVDClassifier(small_model, class_names=words, **settings).fit(paths, labels)
    mapping = dict(zip(["flower", "temple"], words, strict=True))
    mapped = CLIPSVDClassifier(small_model, class_names=mapping, **settings).fit(paths, labels)
    np.testing.assert_array_equal(listed.predict_proba(paths), mapped.predict_proba(paths))
    listed.save_adapter(tmp_path / "a.safetensors")
    assert load_adapter(tmp_path / "a.safetensors", small_model).class_names == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one"], r"list of 1 for 2 labels in y, \['a', 'b'\]"),
        (["one", "two", "three"], "list of 3 for 2 labels"),
        (["one", ""], r"class_names\['b'\] must be a text"),
        (["one", []], r"class_names\['b'\] must be a text or a non-empty list"),
        (["one", 2], r"class_names\['b'\]"),
    ],
)
def test_lists_of_class_names_that_do_not_fit(small_model, words, message):
    with pytest.raises(ValueError, match=message):
        zero_shot(small_model, class_names=words).fit(None, ["a", "b"])


# --- Classes that the model cannot tell apart


@pytest.mark.parametrize(
    ("params", "labels", "pair"),
    [
        ({}, ["cat", "Cat", "a dog"], "'Cat', 'cat'"),
        ({}, ["sea lake", "sea  lake", "forest"], "'sea  lake', 'sea lake'"),
        ({}, ["sea_lake", "sea lake", "forest"], "'sea lake', 'sea_lake'"),
        ({}, ["caf\u00e9", "cafe\u0301", "bar"], "'cafe\u0301', 'caf\u00e9'"),
        ({}, ["\ufb01g", "fig", "plum"], "'fig', '\ufb01g'"),
        ({}, ["cat ", "cat", "dog"], "'cat', 'cat '"),
        (
            {},
            ["black &amp; white", "black & white", "grey"],
            "'black & white', 'black &amp; white'",
        ),
        ({"class_names": {1: "cat", 2: "cat", 3: "dog"}}, [1, 2, 3], "1, 2"),
        (
            {"class_names": {1: ["cat", "pet"], 2: ["pet", "CAT"], 3: "pet"}},
            [1, 2, 3],
            "1, 2",
        ),
        ({"class_names": {1: ["cat"], 2: ["cat", "Cat"], 3: "dog"}}, [1, 2, 3], "1, 2"),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_classes_of_equal_tokens_are_named(small_model, params, labels, pair):
    clf = zero_shot(small_model, **params)
    with pytest.warns(IndistinctClassesWarning) as caught:
        clf.fit(None, labels)
    assert len(caught) == 1
    assert f": {pair} (" in str(caught[0].message)
    same = [i for i, label in enumerate(clf.classes_) if repr(label.item()) in pair.split(", ")]
    np.testing.assert_array_equal(*clf.text_features_[same])


def test_the_warning_is_true(small_model, photographs):
    """Of two equal classes the second is never predicted, and a fit cannot learn them."""
    paths, labels = photographs
    labels = np.where(labels == "temple", "temple", "Temple")
    labels[-1] = "flower"
    clf = CLIPSVDClassifier(small_model, max_steps=4, lr=0.01, random_state=0)
    with pytest.warns(IndistinctClassesWarning, match="can predict only the first"):
        clf.fit(paths, labels)
    assert "temple" not in clf.predict(paths)


@pytest.mark.parametrize("estimator", [CLIPSVDClassifier, CLIPZeroShotClassifier])
@pytest.mark.parametrize(
    ("params", "labels"),
    [
        ({}, ["cat", "CAT"]),
        ({"templates": [f"{PARAGRAPH} {{}}"]}, ["cat", "dog"]),
        ({"class_names": {"cat": f"{PARAGRAPH} cat", "dog": f"{PARAGRAPH} dog"}}, ["cat", "dog"]),
        ({"class_names": ["pet", "pet"]}, ["cat", "dog"]),
    ],
)
def test_classes_that_all_coincide_are_an_error(
    small_model, photographs, estimator, params, labels
):
    clf = estimator(small_model, **params)
    with pytest.raises(ValueError, match=r"same tokens for all 2 classes: '.*', '.*'"):
        clf.fit(photographs[0][:2], labels)
    assert not hasattr(clf, "classes_")


def test_descriptions_that_differ_too_late(small_model):
    """What was cut stands beside the names."""
    words = {"tabby": f"{PARAGRAPH} striped", "tom": f"{PARAGRAPH} orange", "dog": "a dog"}
    caught = told(lambda: zero_shot(small_model, class_names=words).fit(None, list(words)))
    equal, cut = caught
    assert equal.category is IndistinctClassesWarning
    assert "'tabby', 'tom'" in str(equal.message)
    assert "cut off: '" in str(equal.message)
    assert cut.category is CutPromptWarning


# --- Prompts that are cut


def lost_words(text, tokenize):
    """The longest beginning of a text that is read whole leaves these words."""
    words = text.split()
    for n in range(len(words), 0, -1):
        shorter = tokenize([" ".join(words[:n])], context_length=1000)
        if (shorter != 0).sum() <= 77:
            return " ".join(words[n:])
    return text


@pytest.mark.parametrize(
    ("params", "labels"),
    [
        ({"class_names": {"cat": f"a cat {PARAGRAPH}", "dog": "a dog"}}, ["cat", "dog"]),
        ({"templates": f"a photo of a {{}}, {PARAGRAPH}."}, ["cat", "dog"]),
        ({}, [f"cat {PARAGRAPH}", "dog"]),
        ({"templates": ["a {}", f"a {{}} {PARAGRAPH}"]}, ["cat", "dog"]),
    ],
    ids=["description", "template", "label", "one of two templates"],
)
def test_lost_words_are_named_with_their_label(small_model, params, labels):
    import open_clip

    with pytest.warns(CutPromptWarning) as caught:
        zero_shot(small_model, **params).fit(None, labels)
    assert len(caught) == 1
    message = str(caught[0].message)
    template = params.get("templates", "a photo of a {}.")
    template = template if isinstance(template, str) else template[1]
    words = params.get("class_names", {labels[0]: labels[0]})[labels[0]]
    lost = lost_words(template.replace("{}", words), open_clip.SimpleTokenizer())
    assert f"{labels[0][:60]!r}"[:-1] in message
    assert f": {lost[:40]!r}"[:-1] in message
    assert "77 tokens" in message


def test_a_prompt_that_just_fits_is_not_cut(small_model):
    exactly = " ".join(["cat"] * 75)  # 77 tokens with the two that mark the ends
    clf = zero_shot(small_model, templates="{}")
    assert not told(lambda: clf.fit(None, [exactly, "dog"]))
    (warning,) = told(lambda: clf.fit(None, [f"{exactly} asleep", "dog"]))
    assert warning.category is CutPromptWarning
    assert ": 'asleep'." in str(warning.message)


def test_a_word_that_is_cut_in_two_is_lost_whole(small_model):
    text = " ".join(["cat"] * 74) + " hippopotamusses"  # of several tokens
    (warning,) = told(lambda: zero_shot(small_model, templates="{}").fit(None, [text, "dog"]))
    assert "'hippopotamusses'" in str(warning.message)


def test_a_language_without_spaces_is_cut_by_characters(small_model):
    text = "\u732b\u306f\u6c17\u307e\u3050\u308c" * 40
    (warning,) = told(lambda: zero_shot(small_model, templates="{}").fit(None, [text, "dog"]))
    assert warning.category is CutPromptWarning
    named, lost = re.search(
        r"lost words: '(.+?)\.\.\.': '(.+?)\.\.\.'", str(warning.message)
    ).groups()
    assert text.startswith(named)
    assert lost in text
    assert len(lost) == 60


def test_tokenisers_of_hugging_face_are_asked_too(tmp_path):
    """Their rows end otherwise, and their padding is another token."""
    model = write_model(tmp_path, bert_look_alike(tmp_path))
    clf = zero_shot(model, templates="{}")
    assert not told(lambda: clf.fit(None, ["temple", "flower"]))
    exactly = " ".join(["temple"] * 30)  # 32 tokens with the two that mark the ends
    assert not told(lambda: clf.fit(None, [exactly, "flower"]))
    (warning,) = told(lambda: clf.fit(None, [f"{exactly} of a flower", "flower"]))
    assert warning.category is CutPromptWarning
    assert ": 'of a flower'." in str(warning.message)
    with pytest.raises(ValueError, match="same tokens"):
        clf.fit(None, [f"{exactly} photo", f"{exactly} flower"])


# --- Labels that are missing, and names in messages


@pytest.mark.parametrize(
    "labels",
    [
        ["a", "b", None, "a"],
        ["a", "b", np.nan, "a"],
        ["a", "b", float("nan"), "a"],
        np.array(["a", "b", np.nan, "a"], dtype=object),
        [0, 1, np.nan, 1],
        np.array([0, 1, np.nan, 1], dtype=np.float32),
        pd.Series(["a", "b", None, "a"]),
        pd.Series(["a", "b", pd.NA, "a"]),
        pd.Series(["a", "b", pd.NA, "a"], dtype="string"),
        pd.Series(["a", "b", pd.NA, "a"], dtype="category"),
        pd.Series([0, 1, pd.NA, 1], dtype="Int64"),
        pd.Series([True, False, pd.NA, True], dtype="boolean"),
        pd.Series(["a", "b", pd.NaT, "a"]),
        pl.Series(["a", "b", None, "a"]),
    ],
    ids=lambda y: f"{type(y).__module__} {getattr(y, 'dtype', '')}",
)
def test_missing_labels_are_named_by_row(small_model, digits, labels):
    message = r"1 label\(s\) are missing \(NaN, None or NA\): y\[2\]\. Drop"
    for clf in (zero_shot(small_model), CLIPSVDClassifier(small_model, max_steps=0)):
        with pytest.raises(ValueError, match=message):
            clf.fit(digits[0][:4], labels)
    with pytest.raises(ValueError, match=message):
        CosineClassifier().fit(np.eye(4), labels)


def test_missing_labels_of_a_validation_part(small_model, photographs):
    paths, labels = photographs
    with pytest.raises(ValueError, match=r"y_val\[1\], y_val\[3\]\. Drop"):
        CLIPSVDClassifier(small_model, max_steps=0).fit(
            paths, labels, X_val=paths[:4], y_val=["temple", None, "flower", np.nan]
        )


def test_the_word_nan_is_a_word(small_model):
    assert zero_shot(small_model).fit(None, ["nan", "naan"]).classes_.tolist() == ["naan", "nan"]


@pytest.mark.parametrize("estimator", [CLIPSVDClassifier, CLIPLoRAClassifier])
def test_without_y_the_users_own_class_is_named(small_model, photographs, estimator):
    for arguments in ((photographs[0],), (photographs[0], None)):
        with pytest.raises(ValueError, match=f"This {estimator.__name__} .*requires y"):
            estimator(small_model).fit(*arguments)


def test_messages_print_labels_as_the_user_writes_them(small_model, photographs):
    dress = np.str_("dress")
    attempts = [
        lambda: zero_shot(small_model, class_names={dress: "x"}).fit(None, ["a", "b"]),
        lambda: zero_shot(small_model).fit(None, ["a", "b"]).with_classes([dress]),
        lambda: zero_shot(small_model).fit(None, [dress, dress]),
        lambda: CLIPSVDClassifier(small_model, class_weight={dress: -1}).fit(*photographs),
        lambda: CLIPSVDClassifier(small_model).fit(
            *photographs, X_val=photographs[0][:1], y_val=[dress]
        ),
        lambda: zero_shot(small_model).fit(None, np.array(["dress", "DRESS"])),
        lambda: CosineClassifier(init={"a": [1.0]}).fit([[1.0], [2.0]], ["a", dress]),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match="'dress'") as caught:
            attempt()
        assert "str_" not in str(caught.value)


def test_messages_print_paths_as_the_user_writes_them(small_model, photographs):
    """Of a list that was made of an array, such as ``[*paths, another]``."""
    paths, labels = photographs
    clf = zero_shot(small_model).fit(None, ["a", "b"])
    attempts = {
        "FileNotFoundError": lambda: clf.predict([np.str_("gone.jpg")]),
        "ValueError": lambda: clf.predict(np.str_("gone.jpg")),
        "ConflictingLabelsWarning": lambda: CLIPSVDClassifier(
            small_model, max_steps=0, augment=False
        ).fit([*np.array(paths), np.str_(paths[0])], [*labels, labels[-1]]),
    }
    for kind, attempt in attempts.items():
        with pytest.raises(Exception, match=r"gone\.jpg|occur with different") as caught:
            attempt()
        assert type(caught.value).__name__ == kind
        assert "str_(" not in str(caught.value)
