"""What the project's own files say in two places is the same."""

import re
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
