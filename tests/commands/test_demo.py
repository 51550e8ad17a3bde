"""The parts of the demo; `.ci/run` runs the whole."""

import re

import numpy as np
import pytest
from PIL import Image

from skclipsvd import CLIPSVDClassifier
from skclipsvd.commands import demo

RIGHT, WRONG = (0x1A, 0x7F, 0x37), (0xCF, 0x22, 0x2E)


def colours_of(sheet):
    return {colour for _, colour in sheet.getcolors(2**20)}


def test_right_and_wrong_answers_have_their_colours(digits):
    paths, labels = digits[0][:40], digits[1][:40]
    sheet = demo.draw_sheet(paths, labels, labels, seed=0)
    assert RIGHT in colours_of(sheet)
    assert WRONG not in colours_of(sheet)
    sheet = demo.draw_sheet(paths, labels, np.roll(labels, 1), seed=0)
    assert WRONG in colours_of(sheet)


def test_a_sheet_shows_each_image_once(tmp_path):
    """Images of one colour each: every one is on the sheet, as large as the others."""
    colours = [(10 * i, 7, 200) for i in range(6)]
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, colour in zip(paths, colours, strict=True):
        Image.new("RGB", (4, 4), colour).save(path)
    letters = np.array(list("abcdef"))
    sheet = demo.draw_sheet(np.array(paths), letters, letters, seed=0, columns=3, rows=2)
    shown = {colour: n for n, colour in sheet.getcolors(2**20)}
    assert len({shown[colour] for colour in colours}) == 1


def test_the_report_says_what_is_tuned_and_what_a_file_takes(digits, capsys):
    clf = CLIPSVDClassifier("tiny", max_steps=0, augment=False).fit(digits[0][:20], digits[1][:20])
    demo.report(clf, seconds=12.4)
    tuned, saved = capsys.readouterr().out.splitlines()
    expected = f"tuned {clf.n_parameters_tuned_:,} of {clf.n_parameters_:,} parameters in 12 s"
    assert tuned == expected
    size = int(re.fullmatch(r"saved classifier: (\d+) KiB", saved)[1])
    assert 4 * clf.n_parameters_tuned_ / 1024 < size < 200  # its numbers, but no frozen weights


@pytest.mark.slow
def test_the_whole_demo(tmp_path, capsys):
    demo.run(str(tmp_path / "sheet.png"), seed=0)
    shown = capsys.readouterr().out
    before, after = (float(value) for value in re.findall(r"([\d.]+)%", shown))
    assert before < after
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert {RIGHT} <= colours_of(sheet.convert("RGB"))
