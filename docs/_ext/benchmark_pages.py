"""One page for each committed benchmark, written from its JSON when the documentation is built.

Every number of these pages is one of ``benchmarks/results/*.json``, or a mean or standard deviation
of them; nothing is typed by hand.
"""

import ast
import json
import re
import statistics
from pathlib import Path

_ROOT = Path(__file__).parents[2]
RESULTS = _ROOT / "benchmarks" / "results"
PAGES = _ROOT / "docs" / "benchmarks"

_PM = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"

# What a program measures under an option; without one, its docstring's first line says it.
_OF_OPTIONS = {
    "digits-defaults": "Handwritten digits, by fits with the default learning rate and length.",
    "fit-40": "A default fit of ViT-B/16 on four images of each of ten classes, by phase.",
    "fit-small": "Whole default fits and predictions of small backbones, by phase.",
    "methods-novel": "Trained on half of the digits, tested on it and on the other half.",
    "methods-photographs": "The methods side by side on eight sets of photographs.",
    "predict-phases": "Where the time of a prediction goes, and what decoding ahead gains.",
    "quantized-vit": "Labels of ViT-B/16 on satellite photographs, in 32 and in 8 bits.",
    "soak-files": "Load: one prediction of 20,000 files, its answers and its memory.",
    "step-profile": "Where the time of one training step of ViT-B/16 goes, by kind of operation.",
    "step-rates": "How fast this machine multiplies matrices of the shapes that a step needs.",
    "versions-convolutional": "Convolutional image towers: this version against the first one.",
}

# In a table of scores by shots, the rows say all but this.
_SHOWN_OTHERWISE = ("data", "shots", "seed", "standard deviation", "by seed", "seconds")

_INDEX = """# Benchmarks

Each page is made from a file in the repository, `benchmarks/results/NAME.json`, which the command
on the page writes. Run the command from the root of the repository: `python -m benchmarks.NAME`.
Read [the limits](../limits.md) before you compare these figures with those of a paper.

{table}

```{{toctree}}
:hidden:

{toctree}
```
"""

_PAGE = """---
myst:
  html_meta:
    description: {description}
---

# {title}

{about}

{facts}

{tables}
"""


def write_pages(app):
    """Write the pages and their index; pages of files that are gone are removed."""
    reports = {path.stem: _read(path) for path in sorted(RESULTS.glob("*.json"), key=_stem)}
    PAGES.mkdir(exist_ok=True)
    for path in PAGES.glob("*.md"):
        if path.stem not in (*reports, "index"):
            path.unlink()
    for name, report in reports.items():
        _write(PAGES / f"{name}.md", _page(name, report))
    lines = [
        [f"[{name}]({name}.md)", _description(name, report), _unbroken(report["date"])]
        for name, report in reports.items()
    ]
    table = _markdown(["benchmark", "what it measures", "date"], lines)
    _write(PAGES / "index.md", _INDEX.format(table=table, toctree="\n".join(reports)))


def _stem(path):
    return path.stem


def _read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path, text):
    """Leave a file alone that is right already: its time decides what is built again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _docstring(report):
    module = re.search(r"benchmarks\.(\w+)", report["command"])
    source = _ROOT / "benchmarks" / f"{module[1] if module else ''}.py"
    if not source.exists():
        return ""
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""


def _description(name, report):
    """Say in one sentence what the numbers of a file are."""
    first_line = _docstring(report).replace("``", "`").partition("\n\n")[0]
    return _OF_OPTIONS.get(name, first_line)


def _page(name, report):
    machine = {k: v for k, v in report.get("machine", {}).items() if v is not None}
    facts = {
        "command": f"`{report['command']}`",
        "date": report["date"],
        "machine": _flat(machine),
        "settings": _flat(report.get("settings", {})),
        "all numbers": f"`benchmarks/results/{name}.json`",
    }
    description = _description(name, report)
    whole = _docstring(report).replace("``", "`")
    first, _, rest = whole.partition("\n\n")
    return _PAGE.format(
        title=name.replace("-", ", ").replace("_", " ").capitalize(),
        description=json.dumps(description),  # JSON's texts are YAML's
        about=f"{description}\n\n{rest if first == description else whole}",
        facts="\n".join(f"- **{key}**: {value}" for key, value in facts.items()),
        tables="\n\n".join(_tables(report["rows"])),
    )


def _unbroken(date):
    return date.replace("-", "\N{NON-BREAKING HYPHEN}")


def _flat(settings):
    return ", ".join(f"{key} {_value(value)}" for key, value in settings.items())


def _tables(rows):
    """Put rows with the same columns into one table, in the order in which they come."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    for columns, group in groups.items():
        if "seed" in columns and len({row["seed"] for row in group}) > 1:
            yield "Mean and standard deviation over the seeds:"
            yield from _by_shots(_over_seeds(group))
            yield "Each seed:"
        yield from _by_shots(group)


def _over_seeds(rows):
    """Replace rows that differ in the seed and in measured numbers by mean ± deviation."""
    measured = [k for k in rows[0] if any(isinstance(row[k], float) for row in rows)]
    groups = {}
    for row in rows:
        key = tuple((k, _value(v)) for k, v in row.items() if k != "seed" and k not in measured)
        groups.setdefault(key, []).append(row)
    return [
        {**dict(key), **{k: _mean_and_deviation([row[k] for row in group]) for k in measured}}
        for key, group in groups.items()
    ]


def _mean_and_deviation(values):
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    digits = 3 if abs(mean) < 1 else 1
    return f"{mean:.{digits}f}{_PM}{deviation:.{digits}f}"


def _by_shots(rows):
    """Give each number of shots a column where rows have a method, shots and one score."""
    score = next((name for name in ("accuracy, %", "score") if name in rows[0]), None)
    if score is None or not {"method", "shots"} <= rows[0].keys():
        yield _plain_table(rows)
        return
    for data in dict.fromkeys(row.get("data") for row in rows):
        part = [row for row in rows if row.get("data") == data]
        shots = sorted({row["shots"] for row in part})
        lines = {}
        for row in part:
            others = [
                _value(v) for k, v in row.items() if v and k not in (*_SHOWN_OTHERWISE, score)
            ]
            lines.setdefault(", ".join(others), {})[row["shots"]] = _score(row, score)
        header = [f"{data}: {score}" if data else score, *(f"{k} shots" for k in shots)]
        yield _markdown(header, [[m, *(c.get(k, "") for k in shots)] for m, c in lines.items()])


def _score(row, score):
    deviation, seconds = row.get("standard deviation"), row.get("seconds")
    shown = _value(row[score]) if deviation is None else f"{row[score]:.2f}{_PM}{deviation:.2f}"
    return shown if seconds is None else f"{shown}; {_value(seconds)} s"


def _plain_table(rows):
    return _markdown(list(rows[0]), [[_value(value) for value in row.values()] for row in rows])


def _markdown(header, lines):
    lines = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def _value(value):
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_value(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(v) for v in value)
    return str(value)


def setup(app):
    """Write the pages before Sphinx looks for pages."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
