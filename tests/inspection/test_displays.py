"""Pictures of classifiers and results, and the report in a notebook: looked at from outside."""

import copy
import re
import sys
from xml.etree import ElementTree

import joblib
import numpy as np
import pytest
import torch
from matplotlib import colors
from matplotlib.figure import Figure
from sklearn import config_context
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_html_repr

import skclipsvd
from skclipsvd import CLIPEncoder, CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.clip import load_backbone
from skclipsvd.experiments import plot_shots
from skclipsvd.inspection import (
    EmbeddingDisplay,
    FewShotCurveDisplay,
    FitCurveDisplay,
    HeadChangeDisplay,
    HeatMapDisplay,
    PredictionSheetDisplay,
    SpectrumDisplay,
    explain_prediction,
    head_changes,
    load_concepts,
)

FAST = dict(model_name="tiny", max_steps=6, lr=0.01, augment=False, random_state=0, device="cpu")
ODD_NAMES = ["<b>bold</b> & 'bad'", "_hidden $a$ and $b$", "a very long name of a class " * 4]


@pytest.fixture(autouse=True)
def _figures():
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def clf(digits):
    paths, labels = digits
    validation = dict(X_val=paths[60:80], y_val=labels[60:80])
    return CLIPSVDClassifier(**FAST).fit(paths[:60], labels[:60], **validation)


def records(table):
    return table if isinstance(table, list) else table.to_dict("records")


def result(method="svd", shots=1, seed=1, accuracy=0.5, data="dtd", **more):
    row = dict(protocol="few-shot", data=data, test=data, method=method, model="m", pretrained="p")
    row.update(weights="w", shots=shots, seed=seed, setting="default", overrides="", **more)
    return {**row, "accuracy": accuracy}


# --- spectra and heads


def test_spectrum_shows_frozen_and_tuned_values(clf):
    display = SpectrumDisplay.from_estimator(clf, tower="image", block=2, matrix="v")
    values, change = display.ax_
    weight = load_backbone("tiny", None, torch.device("cpu")).model.visual.transformer
    weight = weight.resblocks[2].attn.in_proj_weight[256:].numpy()
    frozen = np.linalg.svd(weight, compute_uv=False)
    before, after = values.lines
    np.testing.assert_allclose(before.get_ydata(), frozen, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after.get_ydata(), clf.singular_values_["image.2.v"])
    assert [t.get_text() for t in values.get_legend().get_texts()] == ["before", "after"]
    bars = np.array(change.collections[0].get_segments())
    expected = 100 * (after.get_ydata() / frozen - 1)
    np.testing.assert_allclose(bars[:100, 1, 1], expected[:100], rtol=1e-2, atol=0.01)
    assert values.get_title(loc="left") == "image.2.v"


def test_spectrum_counts_blocks_from_the_end_and_names_what_there_is(clf):
    assert SpectrumDisplay.from_estimator(clf, tower="text").name == "text.2.v"
    for wrong, message in (
        (dict(matrix="conv"), "there are q, k, v, o, fc, proj"),
        (dict(tower="sound"), "there are image, text"),
        (dict(block=6), "0, 1, 2, 3, 4, 5"),
        (dict(block=-7), "0, 1, 2, 3, 4, 5"),
    ):
        with pytest.raises(ValueError, match=message):
            SpectrumDisplay.from_estimator(clf, **wrong)


def test_spectrum_of_a_value_that_was_zero():
    display = SpectrumDisplay([1, 0], [2, 1], [1, np.inf], name="x").plot()
    assert len(display.ax_[1].collections[0].get_segments()) == 1


@pytest.mark.parametrize(
    ("changes", "limits", "ticks"),
    [
        ([0.0, 0.004], (-5, 5), [-5, 0, 5]),
        ([0.07, -0.02], (-5, 10), [-5, 0, 10]),
        ([0.3, -6.0], (-1000, 100), [-1000, -100, -10, 0, 10, 100]),
        ([2e4, -0.01], (-5, 1e7), [-5, 0, 10, 1e3, 1e5, 1e7]),
    ],
)
def test_spectrum_labels_its_axis_of_changes_to_the_end(changes, limits, ticks):
    display = SpectrumDisplay([2, 1], [2, 1], changes, name="x").plot()
    change = display.ax_[1]
    display.figure_.canvas.draw()
    assert change.get_ylim() == pytest.approx(limits)
    assert change.get_yticks().tolist() == pytest.approx(ticks)
    assert all(label.get_text() for label in change.get_yticklabels())
    assert "log beyond" in change.get_ylabel()


@pytest.mark.parametrize("column", ["change", "value_output", "query_key"])
def test_head_map_has_every_head(clf, column):
    display = HeadChangeDisplay.from_estimator(clf, column=column)
    rows = records(head_changes(clf))
    assert [ax.get_title() for ax in display.ax_] == ["image tower", "text tower"]
    images = dict(zip(("image", "text"), (ax.images[0] for ax in display.ax_), strict=True))
    assert [i.get_array().shape for i in images.values()] == [(6, 4), (3, 4)]
    for row in rows:
        drawn = images[row["tower"]].get_array()[row["block"], row["head"]]
        assert drawn == pytest.approx(row[column])
    largest = max(row[column] for row in rows)
    for image in images.values():
        assert image.get_clim() == (0, pytest.approx(largest))
    assert len(display.figure_.axes) == 3  # the towers, and one bar of colours
    assert display.figure_.get_suptitle() == "Change of each attention head"


def test_head_map_of_one_block_and_of_missing_numbers():
    maps = {"text": [[0.5, np.nan, np.inf]]}
    display = HeadChangeDisplay(maps, label="x").plot()
    assert display.ax_[0].images[0].get_clim() == (0, 0.5)
    assert display.ax_[0].get_yticks().tolist() == [0]
    display.figure_.canvas.draw()
    with pytest.raises(ValueError, match="column='rank'"):
        HeadChangeDisplay.from_estimator(None, column="rank")


# --- the fit


def test_fit_curve_shows_raw_and_smooth(clf):
    display = FitCurveDisplay.from_estimator(clf, window=3)
    raw, smooth = display.ax_[0].lines
    np.testing.assert_array_equal(raw.get_ydata(), clf.loss_curve_)
    assert raw.get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
    losses = clf.loss_curve_.astype(float)
    expected = [losses[max(0, i - 1) : i + 2].mean() for i in range(6)]
    np.testing.assert_allclose(smooth.get_ydata(), expected, rtol=1e-6)
    (scores,) = display.ax_[1].lines
    np.testing.assert_allclose(scores.get_ydata(), 100 * clf.validation_scores_)
    assert len(FitCurveDisplay([1.0, 0.5]).plot().ax_) == 1
    assert len(FitCurveDisplay([1.0, 0.5]).plot(window=9).ax_[0].lines[1].get_ydata()) == 2
    with pytest.raises(ValueError, match="window=0"):
        display.plot(window=0)


def test_fit_curve_marks_the_epoch_that_was_kept(digits):
    paths, labels = digits[0][:60], digits[1][:60]
    clf = CLIPSVDClassifier("tiny", epochs=3, augment=False, early_stopping=True, random_state=0)
    clf.set_params(n_iter_no_change=1, validation_fraction=0.3, lr=0.5).fit(paths, labels)
    display = FitCurveDisplay.from_estimator(clf)
    _, kept = display.ax_[1].lines
    assert kept.get_xdata() == [clf.best_epoch_]
    np.testing.assert_allclose(kept.get_ydata(), 100 * clf.validation_scores_[clf.best_epoch_])
    (text,) = display.ax_[1].get_legend().get_texts()
    assert text.get_text() == f"kept: epoch {clf.best_epoch_}"
    clf.set_params(early_stopping=False)  # then the last epoch is kept, whichever was best
    assert len(FitCurveDisplay.from_estimator(clf).ax_[1].lines) == 1


def test_fit_curve_has_a_range_that_misleads_nobody():
    losses = [2.0, *[1.0] * 98, 1e6]
    display = FitCurveDisplay(losses, [0.80, 0.81, 0.805]).plot()
    loss, scores = (ax.get_ylim() for ax in display.ax_)
    assert loss[0] == 0
    assert 2 < loss[1] < 10  # one step out of order does not flatten the others
    losses = [2.5, 1.0, *[0.001] * 98]
    assert FitCurveDisplay(losses).plot().ax_[0].get_ylim()[1] > 2.5  # where it began is seen
    assert scores[1] - scores[0] >= 10
    assert scores[0] < 80 < 81 < scores[1]
    assert FitCurveDisplay([0.5, 2.0]).plot().ax_[0].get_ylim()[1] == pytest.approx(2.1)
    for flat in ([0.0, 0.0], [1.0, 1.0]):
        low, high = FitCurveDisplay([1.0], flat).plot().ax_[1].get_ylim()
        assert low < 100 * flat[0] < high
        assert -5 < low < high < 105


def test_fit_curve_needs_a_fit():
    zero_shot = CLIPZeroShotClassifier("tiny").fit(None, ["a", "b"])
    for estimator in (CLIPSVDClassifier("tiny"), zero_shot):
        with pytest.raises(NotFittedError):
            FitCurveDisplay.from_estimator(estimator)


# --- results


def test_few_shot_curves_have_means_bars_and_a_zero_shot_line():
    rows = [result(shots=n, seed=s, accuracy=n / 20 + s / 100) for n in (1, 2, 16) for s in (1, 3)]
    rows += [result("zero-shot", 0, s, 0.4) for s in (1, 3)]
    display = FewShotCurveDisplay.from_results(rows, labels={"svd": "CLIP-SVD"})
    svd, zero = display.ax_.lines
    np.testing.assert_allclose(svd.get_ydata(), [7, 12, 82])
    np.testing.assert_allclose(svd.get_xdata(), [1, 2, 16], rtol=0.1)
    np.testing.assert_allclose(zero.get_ydata(), [40, 40])
    spread = np.array(display.ax_.collections[0].get_segments())[:, :, 1]
    np.testing.assert_allclose(spread[:, 1] - spread[:, 0], 2 * np.sqrt(2), rtol=1e-6)
    assert [t.get_text() for t in display.ax_.get_legend().get_texts()] == ["CLIP-SVD", "zero-shot"]
    assert display.ax_.get_xscale() == "log"
    assert [t.get_text() for t in display.ax_.get_xticklabels()] == ["1", "2", "16"]


def test_few_shot_curve_of_one_seed_has_no_bars():
    display = FewShotCurveDisplay.from_results([result(shots=n) for n in (1, 2)])
    assert not display.ax_.collections
    assert display.ax_.lines[0].get_xdata().tolist() == [1, 2]
    only = FewShotCurveDisplay.from_results([result("zero-shot", 0)])
    assert len(only.ax_.lines) == 1


def test_few_shot_results_that_cannot_be_told_apart():
    with pytest.raises(ValueError, match="are of dtd, ucf101"):
        FewShotCurveDisplay.from_results([result(), result(data="ucf101")])
    with pytest.raises(ValueError, match=r"data='food': .* dtd"):
        FewShotCurveDisplay.from_results([result()], data="food")
    with pytest.raises(ValueError, match="nothing"):
        FewShotCurveDisplay.from_results([])
    with pytest.raises(ValueError, match="several results of method 'svd', 1 shots, seed 1"):
        FewShotCurveDisplay.from_results([result(), result(accuracy=0.6)])
    assert FewShotCurveDisplay.from_results([result(), result(data="x")], data="x").title == "x"


def test_panels_share_looks_and_the_mean_has_a_spread_over_seeds():
    rows = [
        result(method, n, seed, n / 40 + seed / 100 * scale, data)
        for data, scale in (("a", 1), ("b", 3))
        for method in ("lora", "svd")
        for n in (1, 2)
        for seed in (1, 2)
        if (method, data) != ("lora", "a")
    ]
    rows += [result("zero-shot", 0, 1, 0.3, data) for data in "ab"]
    figure = plot_shots(rows)
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "mean of 2 data sets"]
    found = [{line.get_label(): line for line in ax.lines} for ax in figure.axes]
    assert [len(lines) for lines in found] == [2, 3, 2]  # one method is not everywhere
    assert len({colors.to_hex(lines["CLIP-SVD"].get_color()) for lines in found}) == 1
    np.testing.assert_allclose(found[2]["CLIP-SVD"].get_ydata(), [2.5 + 3, 5 + 3])
    ends = np.array(figure.axes[2].collections[0].get_segments())[:, :, 1]
    np.testing.assert_allclose(np.diff(ends)[:, 0], 2 * np.std([2, 4], ddof=1))


# --- images


def test_embedding_map_is_pca_and_marks_the_texts(clf, digits):
    paths, labels = digits[0][100:160], digits[1][100:160]
    ax = EmbeddingDisplay.from_estimator(clf, paths, labels).ax_
    points = np.concatenate([c.get_offsets() for c in ax.collections[:10]])
    order = np.argsort(labels, kind="stable")
    embeddings = clf.transform(paths)
    pca = PCA(2, svd_solver="full").fit(embeddings)
    np.testing.assert_allclose(points, pca.transform(embeddings)[order], atol=1e-5)
    stars = np.concatenate([c.get_offsets() for c in ax.collections[10:20]])
    texts = pca.transform(clf.text_features_)
    texts -= texts.mean(axis=0)
    ratio = stars / texts
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)  # stretched, in the same directions
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names == [*clf.classes_, "text of a class"]
    assert f"({pca.explained_variance_ratio_[0]:.0%} of" in ax.get_xlabel()


def test_embedding_map_marks_only_texts_of_classes_that_are_there(clf, digits):
    paths, labels = digits
    chosen = np.flatnonzero(np.isin(labels, ["one", "two"]))[:10]
    display = EmbeddingDisplay.from_estimator(clf, paths[chosen], labels[chosen])
    assert display.text_classes.tolist() == ["one", "two"]


def test_embedding_map_of_an_encoder_and_of_tsne(clf, digits):
    paths, labels = digits[0][:12], digits[1][:12]
    display = EmbeddingDisplay.from_estimator(CLIPEncoder("tiny").fit(paths), paths, labels)
    assert display.text_positions is None
    maps = [
        EmbeddingDisplay.from_estimator(clf, paths, labels, method="tsne", random_state=0)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(maps[0].positions, maps[1].positions)
    assert maps[0].text_positions is None
    with pytest.raises(ValueError, match="method='umap'"):
        EmbeddingDisplay.from_estimator(clf, paths, labels, method="umap")
    with pytest.raises(ValueError, match="inconsistent"):
        EmbeddingDisplay.from_estimator(clf, paths, labels[:5])
    with pytest.raises(ValueError, match="three or more"):
        EmbeddingDisplay.from_estimator(clf, paths[:2], labels[:2])


@pytest.mark.parametrize("n", [2, 50, 60])
def test_embedding_map_tells_classes_apart(n):
    y = np.repeat([f"class number {i}" for i in range(n)], 2)
    display = EmbeddingDisplay(np.random.RandomState(0).rand(2 * n, 2), y).plot()
    looks = {
        (colors.to_hex(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes())
        for c in display.ax_.collections
    }
    legend = display.ax_.get_legend()
    if n <= 56:
        assert len(looks) == len(legend.get_texts()) == n
    else:  # too many looks; they are named where they are
        assert legend is None
        assert len(display.ax_.texts) == n


def test_sheet_shows_right_and_wrong(clf, digits):
    paths, true = digits[0][100:106], digits[1][100:106].astype("U9")
    predicted, sure = clf.predict(paths), clf.predict_proba(paths).max(axis=1)
    true[:] = predicted
    true[2] = "a dog"
    display = PredictionSheetDisplay.from_estimator(clf, paths, true, n_columns=4)
    texts = [t.get_text().replace("\xa0", " ") for t in display.ax_.texts]
    marks = "✓✓✗✓✓✓"
    expected = [f"{m} {100 * s:.0f} % {p}" for m, s, p in zip(marks, sure, predicted, strict=True)]
    expected[2] += "\ntrue: a dog"
    assert texts == expected
    assert len(display.ax_.images) == 6
    widths = [frame.get_linewidth() for frame in display.ax_.patches]
    assert [w > 2 for w in widths] == [m == "✗" for m in marks]


@pytest.mark.parametrize("turned", [False, True])
def test_sheet_shows_the_square_that_the_model_sees(clf, turned):
    pixels = np.zeros((120, 360, 3), dtype=np.uint8)
    pixels[:, :120, 0] = pixels[:, 120:240, 1] = pixels[:, 240:, 2] = 255  # red, green, blue
    pixels[:20, 120:240, 0] = 255  # yellow above the green
    picture = pixels.transpose(1, 0, 2) if turned else pixels
    display = PredictionSheetDisplay.from_estimator(clf, [picture])
    shown = np.asarray(display.ax_.images[0].get_array())
    shown = shown.transpose(1, 0, 2) if turned else shown
    assert shown.shape == (224, 224, 3)
    assert (shown[:30, 3:-3] == (255, 255, 0)).all()
    assert (shown[45:, 3:-3] == (0, 255, 0)).all()
    assert "true" not in display.ax_.texts[0].get_text()
    assert display.ax_.texts[0].get_text()[0] not in "✓✗"


def test_sheet_begins_with_confident_errors(clf, digits):
    paths, labels = digits[0][80:120], digits[1][80:120].astype("U9")
    predicted, sure = clf.predict(paths), clf.predict_proba(paths).max(axis=1)
    labels[:] = predicted
    labels[[3, 11, 30]] = "no digit"
    wrong = sorted([3, 11, 30], key=lambda i: -sure[i])
    right = sorted(set(range(40)) - {3, 11, 30}, key=lambda i: sure[i])
    display = PredictionSheetDisplay.from_estimator(clf, paths, labels, order="errors", n_images=9)
    np.testing.assert_allclose(display.probabilities, sure[(wrong + right)[:9]], atol=1e-6)
    assert (display.true == "no digit").tolist() == [True] * 3 + [False] * 6
    with pytest.raises(ValueError, match="order='errors', which needs y"):
        PredictionSheetDisplay.from_estimator(clf, paths, order="errors")
    with pytest.raises(ValueError, match="order='worst'"):
        PredictionSheetDisplay.from_estimator(clf, paths, labels, order="worst")


def test_sheet_of_a_pipeline(digits):
    paths, labels = digits[0][:40], digits[1][:40]
    pipeline = make_pipeline(CLIPEncoder("tiny"), KNeighborsClassifier(3))
    display = PredictionSheetDisplay.from_estimator(pipeline.fit(paths, labels), paths, labels)
    assert len(display.ax_.images) == 24
    assert display.predicted.tolist() == pipeline.predict(paths[:24]).tolist()


def test_heat_map_lies_over_what_the_model_sees(clf, photographs):
    path = photographs[0][0]
    explanation = explain_prediction(clf, path)
    for label in (None, clf.classes_[3]):
        display = HeatMapDisplay.from_estimator(clf, path, label=label)
        row = 3 if label else explanation.scores_after.argmax()
        picture, overlay = display.ax_[0].images[0], display.ax_[1].images[1]
        np.testing.assert_allclose(overlay.get_array(), explanation.heat_map[row], rtol=1e-4)
        largest = np.abs(explanation.heat_map[row]).max()
        np.testing.assert_allclose(overlay.get_clim(), (-largest, largest), rtol=1e-4)
        assert picture.get_array().shape == (32, 32, 3)
        assert picture.get_extent() == overlay.get_extent()
        title = display.ax_[1].get_title()
        assert title == f"score {explanation.scores_after[row]:.1f}: {clf.classes_[row]}"
    with pytest.raises(ValueError, match="label='dog'"):
        HeatMapDisplay.from_estimator(clf, path, label="dog")


# --- what all of them share


@pytest.fixture(scope="module")
def makers(clf, digits):
    """What builds each display from the fitted classifier, or from results."""
    paths, labels = digits[0][:8], digits[1][:8]
    rows = [
        result(method, n, seed, n / 20 + seed / 50)
        for method in ("svd", "lora")
        for n in (1, 4)
        for seed in (1, 2)
    ]
    return {
        SpectrumDisplay: lambda **ax: SpectrumDisplay.from_estimator(clf, **ax),
        HeadChangeDisplay: lambda **ax: HeadChangeDisplay.from_estimator(clf, **ax),
        FitCurveDisplay: lambda **ax: FitCurveDisplay.from_estimator(clf, window=2, **ax),
        FewShotCurveDisplay: lambda **ax: FewShotCurveDisplay.from_results(rows, **ax),
        EmbeddingDisplay: lambda **ax: EmbeddingDisplay.from_estimator(clf, paths, labels, **ax),
        PredictionSheetDisplay: lambda **ax: PredictionSheetDisplay.from_estimator(
            clf, paths, labels, n_columns=4, **ax
        ),
        HeatMapDisplay: lambda **ax: HeatMapDisplay.from_estimator(clf, paths[0], **ax),
    }


def test_every_display_keeps_to_its_figure_and_its_legend_off_the_data(makers):
    for make in makers.values():
        display = make()
        figure = display.figure_
        figure.canvas.draw()
        box, whole = figure.get_tightbbox(), figure.get_size_inches()
        assert min(box.x0, box.y0) > -0.05, type(display)
        assert box.x1 < whole[0] + 0.05, type(display)
        assert box.y1 < whole[1] + 0.05, type(display)
        for ax in figure.axes:
            if ax.get_legend() is not None:
                legend = ax.get_legend().get_window_extent()
                assert not legend.overlaps(ax.patch.get_window_extent()), type(display)


def test_every_display_draws_where_it_is_told_and_again(makers):
    import matplotlib.pyplot as plt

    for make in makers.values():
        figure, (ax, other) = plt.subplots(1, 2)
        display = make(ax=ax)
        assert display.figure_ is figure
        assert not other.has_data()
        assert any(panel.has_data() for panel in np.ravel(display.ax_))
        assert display.plot() is display
        assert display.figure_ is not figure
        plt.close("all")


def test_panels_need_a_place_that_can_be_divided():
    ax = Figure().add_axes((0, 0, 1, 1))
    with pytest.raises(ValueError, match="made without a grid"):
        HeatMapDisplay(np.zeros((4, 4, 3), np.uint8), [[1.0]]).plot(ax)


def test_without_matplotlib_every_display_says_how_to_install_it(clf, makers, monkeypatch):
    fit_curve = FitCurveDisplay.from_estimator(clf)
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    # What takes long is not done before it is known whether it can be drawn.
    monkeypatch.setattr(type(clf), "_load_backbone", None)
    for kind, make in makers.items():
        with pytest.raises(
            ImportError, match=rf"{kind.__name__} .*pip install 'skclipsvd\[plot\]'"
        ):
            make()
    with pytest.raises(ImportError, match=r"skclipsvd\[plot\]"):
        fit_curve.plot()


def test_odd_names_are_shown_as_they_are(clf):
    y = np.array(ODD_NAMES)
    embedding = EmbeddingDisplay(np.eye(3)[:, :2], y).plot()
    assert len(embedding.ax_.get_legend().get_texts()) == 3
    black = np.zeros((8, 8, 3), dtype=np.uint8)
    sheet = PredictionSheetDisplay([black] * 3, y, np.roll(y, 1), [0.5] * 3).plot()
    shown = [t.get_text() for t in sheet.ax_.texts]
    assert "_hidden $a$" in shown[1]
    assert max(len(line) for text in shown for line in text.splitlines()) < 30
    HeatMapDisplay(black, [[1.0]], title=ODD_NAMES[1]).plot()
    for figure in sheet.figure_, embedding.figure_:
        figure.canvas.draw()


# --- the report in a notebook


def report(estimator):
    """The part of the HTML that is ours, as an XML tree, and the whole."""
    html = estimator._repr_html_()
    found = re.search(r'<div class="skclipsvd-report">.*</div>', html, re.DOTALL)
    return (None if found is None else ElementTree.fromstring(found[0])), html


def text_of(tree):
    return " ".join(" ".join(tree.itertext()).split())


def test_report_says_what_was_fitted(clf):
    tree, html = report(clf)
    assert "sk-top-container" in html[: html.index("skclipsvd-report")]  # the diagram first
    text = text_of(tree).replace("\xa0", " ")
    assert "10: eight, five, four, nine, one, seven, six, three, two, zero" in text
    share = 100 * clf.n_parameters_tuned_ / clf.n_parameters_
    assert f"{clf.n_parameters_tuned_:,} of {clf.n_parameters_:,} parameters" in text
    assert f"({share:.2g} %)" in text
    rate = f"learning rate {clf.lr_:.3g} falling to zero"
    assert f"6 steps, {rate}; loss {clf.loss_curve_[0]:.4g} at first" in text
    assert f"accuracy {clf.validation_scores_[0]:.1%} before" in text.replace(" %", "%")
    bundle = clf._repr_mimebundle_()
    assert bundle["text/plain"] == repr(clf)
    assert '<div class="skclipsvd-report">' in bundle["text/html"]
    with config_context(display="text"):
        assert "text/html" not in clf._repr_mimebundle_()
        assert not hasattr(clf, "_repr_html_")


def points(tree):
    line = tree.find(".//{*}polyline").get("points")
    return np.array([p.split(",") for p in line.split()], dtype=float)


def test_report_draws_the_loss_curve(clf):
    tree, _ = report(clf)
    x, y = points(tree).T
    assert len(x) == len(clf.loss_curve_)
    axis = re.fullmatch(r"M(\d+) (\d+)V(\d+)H(\d+)", tree.find(".//{*}path").get("d"))
    left, top, zero, right = map(float, axis.groups())
    losses = (zero - y) / (zero - top) * clf.loss_curve_.max()
    np.testing.assert_allclose(losses, clf.loss_curve_, atol=clf.loss_curve_.max() / 5000)
    np.testing.assert_allclose(x, np.linspace(left, right, 6), atol=0.01)
    circle = tree.find(".//{*}circle")
    assert [float(circle.get(c)) for c in ("cx", "cy")] == [x[-1], y[-1]]


def test_report_thins_long_curves_but_keeps_ends_and_peaks(clf):
    other = copy.deepcopy(clf)
    other.loss_curve_ = np.random.RandomState(0).rand(5000)
    other.loss_curve_[1234] = 9.0
    tree, _ = report(other)
    drawn = points(tree)
    assert len(drawn) <= 400
    assert np.isclose(drawn[0, 0], 52)
    assert np.isclose(drawn[-1, 0], 412)
    last = (120 - drawn[-1, 1]) / 108 * 9
    assert last == pytest.approx(other.loss_curve_[-1], abs=0.01)
    assert drawn[:, 1].min() == 12  # the peak reaches the top
    assert (np.diff(drawn[:, 0]) > 0).all()


def test_report_names_the_most_changed_heads(clf):
    tree, _ = report(clf)
    table = [["".join(c.itertext()) for c in row] for row in tree.findall(".//table")[1][1:]]
    assert table[0][:3] == ["tower", "block", "head"]
    expected = [
        [r["tower"], str(r["block"]), str(r["head"])]
        + [f"{100 * r[n]:.1f}\xa0%" for n in ("value_output", "query_key")]
        for r in records(head_changes(clf))[:5]
    ]
    assert table[1:] == expected


def test_report_loads_nothing(clf, fresh_caches):
    tree, _ = report(clf)
    assert "not in this process's memory" in text_of(tree)
    assert skclipsvd.cache_info()["backbones"]["entries"] == 0
    load_backbone("tiny", None, torch.device("cpu"))
    assert "not in this process's memory" in text_of(report(clf)[0])  # nor decomposes
    assert skclipsvd.cache_info()["factors"]["entries"] == 0


def test_report_of_classifiers_that_tuned_nothing_or_no_attention(digits):
    paths, labels = digits[0][:20], digits[1][:20]
    untouched = CLIPSVDClassifier(**{**FAST, "max_steps": 0}).fit(paths, labels)
    tree, _ = report(untouched)
    assert "no step was taken" in text_of(tree)
    assert tree.find(".//{*}svg") is None
    zero_shot = CLIPZeroShotClassifier("tiny").fit(None, ["a", "b"])
    assert "nothing: zero-shot" in text_of(report(zero_shot)[0])
    mlp = CLIPSVDClassifier(**{**FAST, "max_steps": 1}, matrices=("mlp",))
    assert "No attention head was changed" in text_of(report(mlp.fit(paths, labels))[0])
    lora = CLIPLoRAClassifier(**{**FAST, "max_steps": 2}).fit(paths, labels)
    assert len(report(lora)[0].findall(".//table")) == 2


def test_report_only_where_fitted_and_alone(clf):
    unfitted = CLIPSVDClassifier("tiny")
    assert report(unfitted)[0] is None
    assert "sk-top-container" in report(unfitted)[1]
    whole = make_pipeline(clf)._repr_html_()
    assert "skclipsvd-report" not in whole
    assert "CLIPSVDClassifier" in whole


@pytest.mark.parametrize("n", [3, 40, 1500])
def test_report_escapes_and_folds_class_names(n):
    names = [f"{ODD_NAMES[i % 2]} <script>alert({i})</script>" for i in range(n)]
    classifier = CLIPZeroShotClassifier("tiny").fit(None, names[:3])
    classifier.classes_ = np.unique(names)
    tree, html = report(classifier)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(0)&lt;/script&gt;" in html
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; &#x27;bad&#x27;" in html
    assert (tree.find(".//details") is not None) == (n > 12)
    assert ("and 500 more" in text_of(tree)) == (n == 1500)


def test_report_never_raises(clf, tmp_path):
    for name in ("classes_", "n_parameters_", "loss_curve_", "text_features_"):
        broken = copy.deepcopy(clf)
        setattr(broken, name, None)
        assert "sk-top-container" in broken._repr_html_()
    moved = copy.deepcopy(clf)
    moved.model_name = f"local-dir:{tmp_path / 'gone'}"
    assert "most changed heads are not shown" in text_of(report(moved)[0])
    other = copy.deepcopy(clf)
    other.backbone_fingerprint_ = "0" * 64
    assert "cannot be told" in text_of(report(other)[0])


def test_report_survives_a_file(digits, tmp_path):
    paths, labels = digits[0][:20], digits[1][:20]
    classifier = CLIPSVDClassifier(**{**FAST, "max_steps": 1}).fit(paths, labels)
    joblib.dump(classifier, tmp_path / "clf.joblib")
    loaded = joblib.load(tmp_path / "clf.joblib")
    assert estimator_html_repr(loaded)
    classifier.save_adapter(tmp_path / "clf.safetensors")
    adapter = skclipsvd.load_adapter(tmp_path / "clf.safetensors")
    assert "sk-top-container" in adapter._repr_html_()


# --- the words for heads


@pytest.mark.parametrize("name", ["general", "biomedical"])
def test_concepts_are_short_distinct_phrases(name):
    lines = load_concepts(name)
    assert len(lines) > 300
    assert len({line.lower() for line in lines}) == len(lines)
    for line in lines:
        assert line == " ".join(line.split())
        assert 3 <= len(line) <= 45
        assert not re.match(r"(a|an|the) ", line)
