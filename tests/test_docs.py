"""Every Python snippet of the README and the documentation runs as it is printed.

The snippets of a page run in order in one namespace, in an empty working directory with a folder
``photos`` of real photographs: ``photos/temple/0.jpg`` to ``9.jpg`` and ``photos/flower/...``.
``<!-- skip: reason -->`` on the line before a snippet leaves it out, where it truly cannot run:
because it downloads weights, for instance. ``<!-- requires: scikit-learn>=1.9 -->`` leaves it out
where what is installed is older.
"""

import re
import shutil
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("README.md")), *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r"""
    (?:^[ \t]*<!--[ ](?P<condition>skip|requires):[ ](?P<detail>\S[^\n]*?)[ ]-->[ \t]*\n)?
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

    def can_run(self):
        if self.condition == "requires":
            needed = Requirement(self.detail)
            return needed.specifier.contains(version(needed.name))
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


@pytest.mark.parametrize("page", [p for p in PAGES if python_snippets(p)], ids=name_of)
def test_snippets_run(page, workplace):
    namespace = {"__name__": "snippets"}
    to_run = [snippet for snippet in python_snippets(page) if snippet.can_run()]
    assert to_run, f"every snippet of {page.name} is skipped"
    for snippet in to_run:
        # as many empty lines as precede the snippet: tracebacks then name the page's own line
        code = compile("\n" * snippet.line + snippet.code, str(page), "exec")
        exec(code, namespace)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_snippet_hides_from_the_test(page):
    languages = {snippet.language for snippet in snippets(page)}
    assert {name for name in languages if re.match(r"(?i)\W*(i?py|code)", name)} <= {"python"}
    marks = re.findall(r"<!-- (?:skip|requires):", page.read_text(encoding="utf-8"))
    assert len(marks) == sum(snippet.condition is not None for snippet in python_snippets(page))


def test_pages_are_found():
    assert ROOT / "docs" / "scikit_learn.md" in PAGES
