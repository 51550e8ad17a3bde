"""The picture of a confusion matrix."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from skclipsvd.inspection import ConfusionDisplay

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_what_is_drawn():
    y, predicted = ["cat", "cat", "dog", "eel"], ["cat", "dog", "dog", "dog"]
    display = ConfusionDisplay.from_predictions(y, predicted)
    np.testing.assert_array_equal(display.confusion_matrix, confusion_matrix(y, predicted))
    image = display.ax_.images[0].get_array()
    np.testing.assert_array_equal(image, [[0.5, 0.5, 0], [0, 1, 0], [0, 1, 0]])
    written = {(int(t.get_position()[1]), int(t.get_position()[0])): t for t in display.ax_.texts}
    assert {place: t.get_text() for place, t in written.items()} == {
        (0, 0): "1", (0, 1): "1", (1, 1): "1", (2, 1): "1"
    }  # fmt: skip
    assert written[1, 1].get_color() == "white"
    assert [t.get_text() for t in display.ax_.get_yticklabels()] == ["cat", "dog", "eel"]


@pytest.mark.parametrize("n", [2, 12, 60])
def test_no_name_covers_another(n):
    names = [f"a rather long name of class {i}" for i in range(n)]
    display = ConfusionDisplay(np.eye(n, dtype=int), names).plot()
    display.figure_.canvas.draw()
    for labels, side in ((display.ax_.get_xticklabels(), 0), (display.ax_.get_yticklabels(), 1)):
        boxes = [label.get_window_extent() for label in labels]
        edges = sorted((box.min[side], box.max[side]) for box in boxes)
        assert all(a[1] <= b[0] + 1 for a, b in itertools.pairwise(edges))
        figure = display.figure_.bbox
        assert all(figure.contains(*box.min) and figure.contains(*box.max) for box in boxes)


def test_labels_that_never_occur_and_chosen_axes():
    _, ax = plt.subplots()
    display = ConfusionDisplay.from_predictions([1, 1], [1, 2], labels=[2, 1, 7], ax=ax)
    assert display.ax_ is ax
    assert display.confusion_matrix.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_errors():
    with pytest.raises(ValueError, match=r"shape \(n_classes, n_classes\); got \(2, 3\)"):
        ConfusionDisplay(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="1 names for 2 classes"):
        ConfusionDisplay(np.eye(2), ["a"])
