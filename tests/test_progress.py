"""What users are told while they wait."""

import logging
import os
import re
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skclipsvd import (
    CLIPEncoder,
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    clear_caches,
    prediction_table,
)
from skclipsvd.progress import Bar, note, phase, seconds, shown

if sys.platform != "win32":
    import fcntl
    import termios

SETTINGS = dict(max_steps=6, lr=0.01, augment=False, batch_size=8, random_state=0)
# In the order in which a first fit says them.
LINES = [
    r"CLIPSVDClassifier.fit \.\.\.",
    r"device cpu, precision float32",
    r"20 images of 2 classes, and 4 to validate on",
    r"loading model local-dir:.* \.\.\.",
    r"weights: in /",
    r"loading model .*: done in [\d.]+ s",
    r"decoding 20 images of X \.\.\.",
    r"decoding 20 images of X: done in",
    r"decoding 4 images of X_val \.\.\.",
    r"decompositions of 36 matrices \(0 on disk, 36 to compute\) \.\.\.",
    r"decompositions of 36 matrices .*: done in",
    r"preparing the first step \.\.\.",
    r"preparing the first step: done in .*: a step needs about \d+ MiB",
    r"training, 6 steps of 8 images, lr 0.01 \.\.\.",
    r"the other 2 steps will take about [\d.]+ s",
    r"training, 6 steps .*: done in .*: loss [\d.]+, validation accuracy [\d.]+",
    r"merging the weights \.\.\.",
    r"merging the weights: done in",
    r"encoding the class texts \.\.\.",
    r"encoding the class texts: done in",
    r"checking that its answers are finite \.\.\.",
    r"checking that its answers are finite: done in",
    r"CLIPSVDClassifier.fit: done in",
]


@pytest.fixture
def data(photographs):
    paths, labels = photographs
    return (paths, labels), dict(X_val=paths[:4], y_val=labels[:4])


def lines(text):
    """What stands on lines of its own, bars left out."""
    parts = re.split(r"[\r\n]", text)
    return [part.removeprefix("[skclipsvd] ") for part in parts if part.startswith("[skclipsvd]")]


def assert_in_order(patterns, said):
    rest = iter(said)
    for pattern in patterns:
        assert any(re.fullmatch(pattern + ".*", line) for line in rest), (pattern, said)


@pytest.mark.usefixtures("fresh_caches")
def test_verbose_says_what_goes_on(small_model, data, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    CLIPSVDClassifier(small_model, verbose=1, **SETTINGS).fit(*data[0], **data[1])
    shown = capsys.readouterr()
    assert not shown.out
    assert_in_order(LINES, lines(shown.err))
    assert shown.err.count("[skclipsvd]") == len(lines(shown.err)), "a bar and a line in one"
    steps = [part for part in re.split(r"[\r\n]", shown.err) if part.startswith("training:")]
    assert "6/6" in steps[-1]
    assert re.search(r"loss=[\d.]+, val_acc=[\d.]+\]", steps[-1]), "not cut at the 80th column"
    assert "0/6 [00:00<?" in steps[0], "the estimate starts with the first step"


def test_an_estimate_says_that_a_fit_may_end_sooner(small_model, photographs, capsys):
    settings = dict(augment=False, random_state=0, verbose=1)
    CLIPSVDClassifier(small_model, **settings).fit(*photographs)
    CLIPSVDClassifier(small_model, epochs=6, **settings).fit(*photographs)
    estimates = [line for line in lines(capsys.readouterr().err) if "will take about" in line]
    assert estimates[0].endswith(" s, or less if the loss falls below 0.1 earlier")
    assert estimates[1].endswith(" s")


def test_a_fit_that_ended_sooner_says_after_how_many_steps(digits, capsys):
    clf = CLIPSVDClassifier("tiny", augment=False, random_state=0, verbose=1)
    clf.fit(digits[0][:40], digits[1][:40])
    assert clf.n_iter_ < clf.n_steps_
    (end,) = [line for line in lines(capsys.readouterr().err) if line.startswith("training, ")][1:]
    assert f": stopped after {clf.n_iter_} steps, loss " in end
    clf.set_params(max_steps=3).fit(digits[0][:40], digits[1][:40])
    assert "stopped" not in capsys.readouterr().err


def test_nothing_is_said_by_default(small_model, data, capsys):
    clf = CLIPSVDClassifier(small_model, **SETTINGS).fit(*data[0], **data[1])
    clf.predict(data[0][0])
    CLIPEncoder(small_model).fit_transform(data[0][0])
    assert capsys.readouterr() == ("", "")


def test_two_says_more(small_model, photographs, capsys, tmp_path):
    clf = CLIPSVDClassifier(small_model, verbose=1, checkpoint_dir=tmp_path, **SETTINGS)
    clf.fit(*photographs)
    first = lines(capsys.readouterr().err)
    clf.set_params(verbose=2).fit(*photographs)
    more = lines(capsys.readouterr().err)
    assert not [line for line in first if line.startswith(("step", "checkpoint written"))]
    assert len([line for line in more if re.match(r"step \d of 6: loss", line)]) == 2
    assert len([line for line in more if line.startswith("checkpoint written")]) == 1
    assert_in_order([r"checkpoint removed, the fit is complete"], first)


@pytest.mark.parametrize("kind", [CLIPSVDClassifier, CLIPLoRAClassifier, CLIPZeroShotClassifier])
def test_predictions_show_a_bar(kind, small_model, photographs, capsys):
    settings = {} if kind is CLIPZeroShotClassifier else SETTINGS
    clf = kind(small_model, **settings).fit(*photographs).set_params(verbose=1)
    capsys.readouterr()
    for method in ("predict", "predict_proba", "decision_function", "transform"):
        getattr(clf, method)(photographs[0])
        assert "20/20" in capsys.readouterr().err, method


@pytest.mark.usefixtures("fresh_caches")
def test_an_encoder_shows_a_bar(small_model, photographs, capsys):
    encoder = CLIPEncoder(small_model, verbose=1).fit(photographs[0])
    said = capsys.readouterr().err
    assert_in_order([r"loading model .* \.\.\.", r"measuring an embedding: done in"], lines(said))
    assert "1/1" not in said, "a black picture is none of the user's"
    encoder.transform(photographs[0])
    assert "20/20" in capsys.readouterr().err


def fitted_elsewhere(kind, model, data, folder):
    """As another process would read it: nothing of the fit is in memory."""
    settings = {} if kind is CLIPZeroShotClassifier else SETTINGS
    joblib.dump(kind(model, verbose=1, **settings).fit(*data), folder / "clf.joblib")
    clear_caches()
    return joblib.load(folder / "clf.joblib")


@pytest.mark.usefixtures("fresh_caches")
@pytest.mark.parametrize(
    "call", ["predict", "table", "report", "stream", "with_classes", "with_strength"]
)
def test_a_first_answer_says_what_it_waits_for(call, small_model, photographs, capsys, tmp_path):
    clf = fitted_elsewhere(CLIPSVDClassifier, small_model, photographs, tmp_path)
    capsys.readouterr()
    paths = photographs[0]
    {
        "predict": lambda: clf.predict(paths),
        "table": lambda: prediction_table(clf, paths),
        "report": lambda: prediction_table(clf, paths, on_error="report"),
        "stream": lambda: clf.predict(path for path in paths),
        "with_classes": lambda: clf.with_classes(["ring", "hook"]),
        "with_strength": lambda: clf.with_strength(0.5),
    }[call]()
    said = ["loading model .*", "decompositions of 36 matrices .*", "merging the weights"]
    said += ["encoding the class texts"] if call.startswith("with_") else []
    found = lines(capsys.readouterr().err)
    assert_in_order([rf"{what}{end}" for what in said for end in (r" \.\.\.", ": done in")], found)


@pytest.mark.usefixtures("fresh_caches")
def test_a_fit_without_training_says_what_it_does(small_model, photographs, capsys):
    CLIPZeroShotClassifier(small_model, verbose=1).fit(*photographs)
    patterns = [r"loading model .*: done in", r"encoding the class texts: done in"]
    assert_in_order(patterns, lines(capsys.readouterr().err))


def bars(text):
    """The last state of every bar that stays on the screen."""
    return [
        re.split(r"\r", line)[-1] for line in text.split("\n") if line.rpartition("\r")[-1].strip()
    ]


def test_what_is_answered_in_parts_shows_one_bar(small_model, photographs, capsys):
    clf = CLIPZeroShotClassifier(small_model).fit(*photographs).set_params(verbose=1)
    capsys.readouterr()
    many = [*photographs[0] * 13, "gone.jpg"]  # more than one part, the last one with an error
    prediction_table(clf, many, on_error="report")
    (bar,) = [b for b in bars(capsys.readouterr().err) if "embedding" in b]
    assert "261/261" in bar
    clf.set_params(batch_size=8).predict(path for path in photographs[0])
    (bar,) = [b for b in bars(capsys.readouterr().err) if "embedding" in b]
    assert "embedding: 20image" in bar
    encoder = CLIPEncoder(small_model, batch_size=8).fit(photographs[0]).set_params(verbose=1)
    encoder.transform(path for path in photographs[0])
    (bar,) = [b for b in bars(capsys.readouterr().err) if "embedding" in b]
    assert "embedding: 20image" in bar


@pytest.mark.parametrize("verbose", [0, 1])
def test_an_application_that_listens_gets_records_once(verbose, small_model, data, caplog, capsys):
    clf = CLIPSVDClassifier(small_model, verbose=verbose, **SETTINGS)
    with caplog.at_level(logging.INFO, logger="skclipsvd"):
        clf.fit(*data[0], **data[1])
    assert "[skclipsvd]" not in capsys.readouterr().err
    messages = [r.getMessage() for r in caplog.records if r.name == "skclipsvd"]
    assert_in_order(
        [
            line
            for line in LINES
            if not line.startswith(("loading", "weights", "decomp", "merging"))
        ],
        messages,
    )
    assert len([m for m in messages if m.startswith("CLIPSVDClassifier.fit: done")]) == 1


def test_a_handler_on_the_screen_is_enough(small_model, photographs, capsys):
    """As `logging.basicConfig(level="INFO")` sets it up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("own %(message)s"))
    logger = logging.getLogger("skclipsvd")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        CLIPSVDClassifier(small_model, verbose=1, **SETTINGS).fit(*photographs)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    said = capsys.readouterr().err
    assert said.count("device cpu") == said.count("own device cpu") == 1


def test_a_handler_that_wants_warnings_only_does_not_silence_verbose(
    small_model, photographs, capsys
):
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        CLIPSVDClassifier(small_model, verbose=1, **SETTINGS).fit(*photographs)
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr().err.count("device cpu") == 1


def test_what_runs_inside_a_bar_is_silent(small_model, photographs, capsys):
    """A callback of a fit predicts after every epoch."""
    clf = CLIPZeroShotClassifier(small_model, verbose=1).fit(*photographs)
    capsys.readouterr()
    with shown(1), Bar("outer", 3, "step", keep=True) as bar:
        clf.predict(photographs[0])
        bar.advance(3)
    err = capsys.readouterr().err
    assert "3/3" in err
    assert "20/20" not in err
    assert "[skclipsvd]" not in err
    clf.predict(photographs[0])
    assert "20/20" in capsys.readouterr().err


def test_what_fails_is_not_said_to_be_done(capsys):
    with shown(1), pytest.raises(KeyError), phase("one thing"):
        raise KeyError
    assert lines(capsys.readouterr().err) == ["one thing ..."]
    note("%s", "nobody listens")
    assert capsys.readouterr() == ("", "")


@given(st.floats(0, 1e6))
def test_durations_read_back(duration):
    text = seconds(duration)
    units = {"s": 1, "min": 60, "h": 3600}
    parts = re.findall(r"([\d.]+) (s|min|h)", text)
    value = sum(float(number) * units[unit] for number, unit in parts)
    assert abs(value - duration) <= max(0.05, 0.5, 30 * (duration >= 3600) * 2)
    assert parts == sorted(parts, key=lambda part: -units[part[1]])


def test_bars_survive_numbers_of_numpy(capsys):
    with shown(np.int64(1)), phase("things", 3, "thing") as bar:
        bar.advance(np.int64(3))
    assert len(lines(capsys.readouterr().err)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize(("lines", "columns"), [(24, 0), (0, 0), (0, 40), (24, 40)])
def test_a_bar_is_there_on_a_screen_without_a_width(lines, columns):
    """Containers and CI systems have terminals of no columns at all."""
    code = (
        "from skclipsvd.progress import phase, shown\n"
        "with shown(1), phase('things', 3, 'thing', keep=True) as bar: bar.advance(3)"
    )
    printed = on_a_terminal([sys.executable, "-c", code], lines, columns)
    last = [part for part in re.split(r"[\r\n]+", printed) if part.startswith("things:")][-1]
    assert "3/3" in last
    assert len(last) <= (columns or 80)


def on_a_terminal(command, n_lines, n_columns):
    """Run a command on a terminal of its own, and return what it prints there."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", n_lines, n_columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    with subprocess.Popen(command, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        printed = b""
        with suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(ours, 4096):
                printed += part
    os.close(ours)
    assert process.returncode == 0, printed
    return printed.decode()


def test_a_bar_that_an_interrupt_left_open_silences_nothing(capsys):
    """It may come between the lines that open a bar and those that see to its end."""
    with shown(1):
        Bar("left open", 3, "step", keep=False).__enter__()
        with shown(1):
            note("said")
    assert "[skclipsvd] said" in capsys.readouterr().err
    deadline = time.monotonic() + 10
    while any(t.name == "skclipsvd-clock" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
