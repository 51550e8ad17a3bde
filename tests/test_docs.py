"""Every Python snippet of the README and the documentation runs as it is printed.

The snippets of a page run in order in one namespace, in an empty working directory with a folder
``photos`` of real photographs: ``photos/temple/0.jpg`` to ``9.jpg`` and ``photos/flower/...``.
``<!-- skip: reason -->`` on the line before a snippet leaves it out, where it truly cannot run:
because it downloads weights, for instance. ``<!-- requires: scikit-learn>=1.9 -->`` leaves it out
where what is installed is older, or it is not installed. ``<!-- raises -->`` says that it ends in
the error that the ``text`` block after it quotes; ``...`` there stands for anything.
"""

import importlib.util
import json
import re
import shutil
import sys
import textwrap
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from packaging.requirements import Requirement

from skclipsvd import exceptions
from skclipsvd.training import checkpoint, memory_estimate

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(
    r"""
    (?:^[ \t]*<!--[ ](?:(?P<condition>skip|requires):[ ](?P<detail>\S[^\n]*?)|(?P<raises>raises))
       [ ]-->[ \t]*\n)?
    ^(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})(?P<language>[^\n`]*)\n
    (?P<code>.*?)
    ^[ \t]*(?P=mark)[ \t]*$
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


class Snippet(NamedTuple):
    line: int
    language: str
    code: str
    condition: str | None
    detail: str | None
    raises: bool

    def can_run(self):
        if self.condition == "requires":
            needed = Requirement(self.detail)
            try:
                return needed.specifier.contains(version(needed.name))
            except PackageNotFoundError:
                return False
        return self.condition is None


def snippets(page):
    """All fenced blocks of a page, whatever their language."""
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(
            line=text.count("\n", 0, found.start("code")),
            language=found["language"].strip(),
            code=textwrap.dedent(found["code"]),
            condition=found["condition"],
            detail=found["detail"],
            raises=found["raises"] is not None,
        )
        for found in _FENCE.finditer(text)
    ]


def python_snippets(page):
    return [snippet for snippet in snippets(page) if snippet.language == "python"]


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def workplace(tmp_path, monkeypatch, photographs):
    """An empty working directory with a few real images."""
    for path, label in zip(*photographs, strict=True):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / Path(path).name.rpartition(" ")[2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    yield tmp_path
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def pairs_to_run(page):
    """Each Python snippet that can run, with the block that follows it."""
    blocks = snippets(page)
    return [
        (block, following)
        for block, following in zip(blocks, [*blocks[1:], None], strict=True)
        if block.language == "python" and block.can_run()
    ]


# What a page has fitted when it ends, and the form of digits or labels that each takes. Two epochs
# of a few images leave the tiny model about as good as it was: 94 % of digits; 14 % without words.
ACCURATE = {
    "data.md": {"clf": "text", "numbered": "numbers"},
    "faq.md": {
        "clf": "text",
        "numbered": "numbers",
    },
    "saving.md": {"clf": "text", "same": "text"},
    "scikit_learn.md": {
        "clf": "text",
        "search": "text",
        "stopped": "text",
        "calibrated": "text",
        "voting": "text",
        "bagging": "column",
        "balanced": "zero or other",
        "tuned": "zero or other",
        "self_training": "numbers",
        "row_training": "rows of the page",
    },
}
LEAST = 0.85


def accuracy(fitted, form, namespace, digits):
    """Score on digits that no page has trained on."""
    X, y = digits[0][1000:1150], digits[1][1000:1150]
    if form == "numbers":
        y = np.searchsorted(np.unique(digits[1]), y)
    elif form == "zero or other":
        y = np.where(y == "zero", "zero", "other")
    elif form == "column":
        X = X[:, None]
    elif form == "rows of the page":
        X, y = namespace["rows"], namespace["number"]
    return fitted.score(X, y)


@pytest.mark.parametrize("page", [p for p in PAGES if python_snippets(p)], ids=name_of)
def test_snippets_run(page, workplace, digits):
    if "from datasets import" in page.read_text(encoding="utf-8"):
        pytest.importorskip("datasets.features")
    namespace = {"__name__": "snippets"}
    with warnings.catch_warnings():
        if page.name == "README.md":  # not even the one that the tests' own short fits may give
            warnings.simplefilter("error", exceptions.SkclipsvdWarning)
        run_snippets(page, namespace)
    fitted = ACCURATE.get(page.name, {})
    scores = {
        name: accuracy(namespace[name], form, namespace, digits) for name, form in fitted.items()
    }
    assert all(score > LEAST for score in scores.values()), scores


def run_snippets(page, namespace):
    to_run = pairs_to_run(page)
    assert to_run, f"every snippet of {page.name} is skipped"
    for snippet, following in to_run:
        # as many empty lines as precede the snippet: tracebacks then name the page's own line
        code = compile("\n" * snippet.line + snippet.code, str(page), "exec")
        if not snippet.raises:
            exec(code, namespace)
            continue
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the page says which
            exec(code, namespace)
        assert following.language == "text", f"line {snippet.line}: the message is not quoted"
        said = f"{type(caught.value).__name__}: {caught.value}"
        assert is_quoted(said, following.code), f"line {snippet.line} of {page.name}: {said}"


def is_quoted(said, quoted):
    parts = " ".join(quoted.split()).split("...")
    pattern = ".*".join(re.escape(part) for part in parts)
    return re.fullmatch(pattern, " ".join(said.split())) is not None


def test_the_advice_where_memory_runs_out_is_quoted():
    faq = " ".join((ROOT / "docs" / "faq.md").read_text(encoding="utf-8").split())
    assert " ".join(memory_estimate.ADVICE.split()) in faq


def test_the_way_to_go_on_after_an_interrupt_is_quoted():
    faq = " ".join((ROOT / "docs" / "faq.md").read_text(encoding="utf-8").split())
    assert f"KeyboardInterrupt: {checkpoint.INTERRUPTED.format('...')}" in faq


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_snippet_hides_from_the_test(page):
    languages = {snippet.language for snippet in snippets(page)}
    assert {name for name in languages if re.match(r"(?i)\W*(i?py|code)", name)} <= {"python"}
    marks = re.findall(r"<!-- (?:skip:|requires:|raises)", page.read_text(encoding="utf-8"))
    marked = [s for s in python_snippets(page) if s.condition is not None or s.raises]
    assert len(marks) == len(marked)


def load(path):
    """Import a file that belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_on_speed_has_the_numbers_of_the_benchmark():
    file = ROOT / "benchmarks" / "results" / "startup.json"
    rows = [
        row for row in json.loads(file.read_text(encoding="utf-8"))["rows"] if "import, s" in row
    ]
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    table = page.partition("## What a whole process costs")[2].partition("Nearly all")[0]
    lines = [re.split(r" *\| *", line)[2:5] for line in table.splitlines() if line.startswith("| ")]
    columns = (
        "import, s",
        "weights, s",
        "set-up, s",
        "first step to answer, s",
        "whole process, s",
    )
    for cells, column in zip(lines[1:], columns, strict=True):
        for cell, process in zip(cells, ("tiny", "first", "later"), strict=True):
            found = [f"{row[column]:.1f}" for row in rows if row["process"] == process]
            low, high = min(found, key=float), max(found, key=float)
            assert cell == (low if low == high else f"{low} to {high}"), (column, process)


def cells_of(page, begin, end):
    """Return the cells of the one table of a part of a page, without header and first column."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    lines = [re.split(r" *\| *", line)[2:-1] for line in text.splitlines() if line.startswith("|")]
    return lines[2:]


def rows_of(name):
    file = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))["rows"]


def test_the_page_on_speed_has_the_phases_of_a_prediction():
    cells = cells_of("speed.md", "## Where a prediction's time goes", "For small files")
    rows = rows_of("predict-phases")
    assert len(cells) == len(rows) == 8
    for line, row in zip(cells, rows, strict=True):
        copied = row["stack, %"] + row["normalise, %"] + row["all else, %"]
        decode, resize, tower = (
            row[f"{name}, %"] for name in ("open and decode", "resize and crop", "tower")
        )
        shares = [f"{share:.1f}" for share in (decode, resize, copied, tower)]
        ahead = f"{row['in turn / one batch ahead']:.2f}"
        assert line == [row["files"], f"{row['ms per image']:.1f}", *shares, ahead]


def test_the_page_on_saving_has_the_accuracy_of_eight_bits():
    cells = cells_of("saving.md", "how many labels in a hundred stayed the same", "For ViT-B/16")
    rows = [row for row in rows_of("quantized") if row.get("backbone") in ("tiny", "lite0-64")]
    for line, name in zip(cells, dict.fromkeys(row["set"] for row in rows), strict=True):
        exact, *others = (row for row in rows if row["set"] == name)
        said = [f"{row['accuracy, %']} ({row['labels as before, %']})" for row in others]
        assert [cell for cell in line if cell != "-"] == [str(exact["accuracy, %"]), *said]


def test_the_page_on_many_machines_has_the_numbers_of_the_benchmark():
    cells = cells_of("many_machines.md", "## What it costs", "The search takes")
    one, two = rows_of("many_machines")
    names = ("workers start, s", "search, s", "prediction, s", "all of it, s")
    expected = [[f"{row[name]:.1f}" for row in (one, two)] for name in names]
    expected[0][0] = "-"
    expected.append([str(row["images decoded by the search"]) for row in (one, two)])
    expected.append([f"{row['peak memory, MB']:,.0f}" for row in (one, two)])
    assert cells == expected


def test_every_number_of_a_benchmark_page_is_in_its_file(tmp_path, monkeypatch):
    pages = load(ROOT / "docs" / "_ext" / "benchmark_pages.py")
    results = tmp_path / "results"
    results.mkdir()
    rows = [
        {"data": "a", "method": m, "shots": k, "accuracy, %": v, "by seed": [v]}
        for m, k, v in (("svd", 1, 11.25), ("svd", 2, 22.5), ("lora", 2, 33.75))
    ]
    seeds = [{"shots": 1, "seed": s, "seconds": t} for s, t in ((1, 2.0), (2, 4.0))]
    report = {
        "command": "python -m benchmarks.digits",
        "date": "2026-01-02",
        "settings": {"lr": 0.5},
    }
    for name, content in (("scores", rows), ("times", [*seeds, {"bytes": 1234567}])):
        text = json.dumps({**report, "rows": content})
        (results / f"{name}.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(pages, "RESULTS", results)
    monkeypatch.setattr(pages, "PAGES", tmp_path / "pages")
    pages.write_pages(app=None)

    scores = (tmp_path / "pages" / "scores.md").read_text(encoding="utf-8")
    assert "| svd | 11.25 | 22.5 |" in scores
    assert "| lora |  | 33.75 |" in scores
    assert "lr 0.5" in scores
    times = (tmp_path / "pages" / "times.md").read_text(encoding="utf-8")
    assert "| 1 | 3.0\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}1.0 |" in times
    assert "| 1 | 2 | 4 |" in times
    assert "1,234,567" in times
    index = (tmp_path / "pages" / "index.md").read_text(encoding="utf-8")
    assert "[times](times.md)" in index
    assert "2026\N{NON-BREAKING HYPHEN}01\N{NON-BREAKING HYPHEN}02" in index


def test_every_benchmark_page_says_what_it_is(tmp_path, monkeypatch):
    pages = load(ROOT / "docs" / "_ext" / "benchmark_pages.py")
    monkeypatch.setattr(pages, "PAGES", tmp_path)
    pages.write_pages(app=None)
    written = {page: page.read_text(encoding="utf-8") for page in tmp_path.glob("*.md")}
    del written[tmp_path / "index.md"]
    said = {re.search(r'description: (".+")\n', text)[1] for text in written.values()}
    assert len(said) == len(written) >= 14
    for text in written.values():
        (description,) = re.findall(r'description: (".+")\n', text)
        title, first = re.search(r"^# (.+)\n\n(.+)\n", text, re.MULTILINE).groups()
        assert first == json.loads(description)
        assert title


def test_the_built_site_is_checked(tmp_path):
    check_site = load(ROOT / "tools" / "check_site.py")
    page = tmp_path / "index.html"
    page.write_text(
        '<h1 id="top-of-it"></h1><a href="#top-of-it">up</a><a href="https://x.org">x</a>'
    )
    assert check_site.problems(tmp_path) == []
    page.write_text(
        '<a href="gone.html">a</a><a href="#nowhere">b</a><img src="no.png">'
        '<script src="https://cdn.example/x.js"></script>'
    )
    (tmp_path / "site.css").write_text("@import url(https://fonts.example/a.css);")
    found = "\n".join(check_site.problems(tmp_path))
    for wrong in ("gone.html", "#nowhere", "no.png", "cdn.example", "fonts.example"):
        assert wrong in found


def test_pages_are_found():
    assert {ROOT / "docs" / name for name in ("scikit_learn.md", "faq.md")} < set(PAGES)


def test_every_warning_is_exported_and_documented():
    def below(kind):
        for one in kind.__subclasses__():
            yield one
            yield from below(one)

    kinds = {exceptions.SkclipsvdWarning, *below(exceptions.SkclipsvdWarning)}
    assert {kind.__name__ for kind in kinds} == set(exceptions.__all__)
    assert all(kind.__module__ == "skclipsvd.exceptions" and kind.__doc__ for kind in kinds)
    page = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    listed = re.search(r"currentmodule:: skclipsvd\.exceptions\n(.*?)\n\n\w", page, re.DOTALL)[1]
    assert set(re.findall(r"^   (\w+)$", listed, re.MULTILINE)) == set(exceptions.__all__)


def test_no_other_kind_of_warning_is_given():
    given = [
        f"{path.name}: {found}"
        for path in sorted((ROOT / "skclipsvd").rglob("*.py"))
        for found in re.findall(r"\bwarn\((?:[^()]|\([^()]*\))*", path.read_text(encoding="utf-8"))
        if path.name != "exceptions.py" and not re.search("|".join(exceptions.__all__), found)
    ]
    assert not given
