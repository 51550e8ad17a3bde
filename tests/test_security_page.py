"""The pages on security and on faults name a test for each line; those tests are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
FAULTS = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE + FAULTS)


def test_every_promise_names_a_test():
    promises = PAGE.split("## What is promised")[1].split("\n## ")[0]
    for table in (promises, FAULTS):
        lines = [line for line in table.splitlines() if line.startswith("| ")]
        rows = [line for line in lines if not line.endswith("| test |")]
        assert len(rows) > 10
        assert all(re.search(r"`tests/[\w/]+\.py::\w+`", row) for row in rows)


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_the_named_tests_exist(file, name):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_policy_and_the_page_agree_on_whose_files_are_safe():
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for page in (policy, PAGE):
        whose = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", page, re.MULTILINE))
        row = next(value for name, value in whose.items() if name.startswith("joblib"))
        assert row.startswith("**only your own**")
        for start in ("adapter files", "folders"):
            row = next(value for name, value in whose.items() if name.startswith(start))
            assert row.startswith("anybody's")
