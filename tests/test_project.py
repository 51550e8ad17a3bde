"""What the project's own files say in two places is the same."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_everybody_lints_with_the_same_ruff():
    (pinned,) = set(re.findall(r"ruff==([\d.]+)", text_of("pyproject.toml")))
    hook = re.search(r"ruff-pre-commit\n\s+rev: v([\d.]+)\n", text_of(".pre-commit-config.yaml"))
    assert hook[1] == pinned
    for name in ("CONTRIBUTING.md", ".ci/run"):
        assert set(re.findall(r"ruff[=@ v]+(\d[\d.]*\d)", text_of(name))) <= {pinned}
    assert "ruff==" in text_of(".ci/run")  # which reads it from pyproject.toml


def test_the_page_on_installing_names_every_extra():
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    rows = re.findall(r"^\| `skclipsvd\[([\w-]+)\]` \|", text_of("docs/install.md"), re.MULTILINE)
    assert sorted(rows) == sorted(extras)


def test_the_page_on_citing_says_what_the_file_for_programs_says():
    page, file = " ".join(text_of("docs/cite.md").split()), text_of("CITATION.cff")
    titles = re.findall(r"^    title: (.+)$", file, re.MULTILINE)
    names = re.findall(r"family-names: (.+)\n +given-names: (.+)$", file, re.MULTILINE)
    assert len(titles) == 2
    assert len(names) == 5
    for text in (
        *(f"{{{title}}}" for title in titles),
        *(", ".join(name) for name in names),
        *re.findall(r"value: (arXiv:[\d.]+)$", file, re.MULTILINE),
        *(f"{{{v}}}" for v in re.findall(r"^version: (.+)$", file, re.MULTILINE)),
        *re.findall(r"^repository-code: (.+)$", file, re.MULTILINE),
        *(" ".join(t.split()) for t in re.findall(r"title: >-\n +(.+)$", file, re.MULTILINE)),
    ):
        assert text in page
