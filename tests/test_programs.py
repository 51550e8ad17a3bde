"""Benchmarks and tools still start: each is imported as it is run, and says how it is used."""

import json
import runpy
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT / "benchmarks", ROOT / "tools"]
FILES = [path for folder in FOLDERS for path in sorted(folder.glob("*.py"))]


def is_program(path):
    return '__name__ == "__main__"' in path.read_text(encoding="utf-8")


def run(path, arguments, monkeypatch):
    """Run a file as its users do: a benchmark as a module, a tool as a script."""
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    name = "__main__" if is_program(path) else path.stem
    if path.parent.name == "benchmarks":
        monkeypatch.syspath_prepend(ROOT)
        for loaded in [m for m in sys.modules if m.startswith("benchmarks.")]:
            monkeypatch.delitem(sys.modules, loaded)  # as in a process of its own
        return runpy.run_module(f"benchmarks.{path.stem}", run_name=name)
    monkeypatch.syspath_prepend(path.parent)
    return runpy.run_path(str(path), run_name=name)


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_file_is_imported_and_a_program_says_how_it_is_used(path, monkeypatch, capsys):
    if not is_program(path):
        assert run(path, [], monkeypatch)["__doc__"]
        return
    with pytest.raises(SystemExit) as end:
        run(path, ["--help"], monkeypatch)
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage:")
    assert path.stem in shown.splitlines()[0]


def test_there_are_programs_of_both_kinds():
    programs = {path.stem for path in FILES if is_program(path)}
    assert programs >= {"step", "memory", "search", "check_site", "check_wheel", "list_targets"}


def test_a_result_does_not_say_where_on_the_machine_a_file_lay(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    report = import_module("benchmarks._report")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    arguments = ["--before", "/a/old", "--model", "local-dir:/a/b/lite", "--out", "x/y", "1:2"]
    monkeypatch.setattr(sys, "argv", ["versions", *arguments])
    report.write("versions", {}, [])
    command = json.loads((tmp_path / "versions.json").read_text(encoding="utf-8"))["command"]
    said = "--before old --model local-dir:lite --out x/y 1:2"
    assert command == f"python -m benchmarks.versions {said}"


def test_no_result_says_where_on_the_machine_a_file_lay():
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    commands = [json.loads(file.read_text(encoding="utf-8"))["command"] for file in files]
    assert len(commands) > 20
    assert not [command for command in commands if " /" in command or ":/" in command]


def test_a_wheel_that_lacks_something_is_named(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("skclipsvd/py.typed", "")
    with pytest.raises(SystemExit, match=r"a\.whl lacks .*tiny\.safetensors"):
        run(ROOT / "tools" / "check_wheel.py", [tmp_path / "a.whl"], monkeypatch)


def test_a_site_that_is_not_there_is_no_clean_site(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(ROOT / "tools" / "check_site.py", [tmp_path / "nowhere"], monkeypatch)
    assert end.value.code == 2
    assert "no folder" in capsys.readouterr().err


SMALLEST = {
    "candidates": "--counted tiny --repeats 1",
    "decode": "--repeats 1",
    "predict": "--model tiny --images 6 --batch 2 --repeats 1",
    "quantized": "--models tiny --data digits --large-on= --repeats 1",
    "search": "--models tiny --epochs 1 2 --repeats 1",
    "step": "--model tiny --classes 2 --batch 2 --repeats 1 --seconds 0",
    "versions": f"--before {ROOT} --model tiny --classes 2 --batch 2 --images 4 --repeats 1 "
    "--work step predict",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_measures_and_writes_down(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    program, report = (import_module(f"benchmarks.{stem}") for stem in (name, "_report"))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *SMALLEST[name].split()])
    program.main()
    (written,) = tmp_path.glob("*.json")
    assert json.loads(written.read_text(encoding="utf-8"))["rows"]


def written_by(name, arguments, tmp_path, monkeypatch):
    """Run a benchmark whose own processes find it in the repository; return its rows."""
    monkeypatch.syspath_prepend(ROOT)
    program, report = (import_module(f"benchmarks.{stem}") for stem in (name, "_report"))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *arguments.split()])
    monkeypatch.chdir(ROOT)
    program.main()
    (written,) = tmp_path.glob("*.json")
    return json.loads(written.read_text(encoding="utf-8"))["rows"]


@pytest.mark.slow
def test_the_time_of_a_prediction_is_split_into_phases(tmp_path, monkeypatch):
    arguments = "--phases tiny --images 8 --batch 4 --repeats 1"
    small, large = written_by("predict", arguments, tmp_path, monkeypatch)
    for row in (small, large):
        shares = [value for name, value in row.items() if name.endswith(", %")]
        assert all(share >= 0 for share in shares)
        assert sum(shares) == pytest.approx(100, abs=0.5)
    assert large["open and decode, %"] > small["open and decode, %"]


@pytest.mark.slow
def test_a_compiled_tower_gives_the_same_features(tmp_path, monkeypatch):
    arguments = "--models tiny --batch 8 --repeats 1 --forms"
    (row,) = written_by("compiled", f"{arguments} torch.jit", tmp_path, monkeypatch)
    assert row["largest relative difference"] < 1e-5
    assert row["start-up, s"] > 0


@pytest.mark.slow
def test_two_workers_answer_as_one_process(tmp_path, monkeypatch):
    arguments = "--files 40 --epochs 1 2 --repeats 1"
    one, two = written_by("many_machines", arguments, tmp_path, monkeypatch)
    settings = json.loads((tmp_path / "many_machines.json").read_text())["settings"]
    assert settings["both give the same labels"]
    assert one["images decoded by the search"] == 200
    assert two["images decoded by the search"] == 600  # by each worker, and for the last fit
    assert two["peak memory, MB"] > 2 * one["peak memory, MB"]


@pytest.mark.slow
def test_whole_fits_are_compared_by_phase(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    fit, report = (import_module(f"benchmarks.{name}") for name in ("fit", "_report"))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    arguments = ["--models", "tiny", "--train", "10", "--predict", "4", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["fit", *arguments])
    monkeypatch.chdir(ROOT)  # where its own processes find it
    fit.main()
    rows = json.loads((tmp_path / "fit.json").read_text())["rows"]
    whole, phases = rows[:2], rows[2:]
    assert [row["process"] for row in whole] == ["first", "later"]
    assert all(row["steps"] == 40 and row["plain / ours"] > 0 for row in whole)
    assert [row["whose"] for row in phases] == ["ours", "plain"] * 2
    for row in phases:
        shares = [row[f"{phase}, %"] for phase in fit.PHASES]
        assert all(share >= 0 for share in shares)
        assert 20 < sum(shares) < 100.5


def test_backbones_measured_before_are_kept_or_asked_about(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    backbones = import_module("benchmarks.backbones")
    monkeypatch.setattr(backbones, "RESULTS", tmp_path)
    assert backbones.measured_before() == {}
    numbers = dict.fromkeys(backbones.MEASURED, 1.5)
    rows = [{"model": "a", **numbers}, {"model": "b"}, {"model": "c", "not run": "no tokeniser"}]
    report = {"machine": backbones.machine(), "rows": rows}
    (tmp_path / "backbones.json").write_text(json.dumps(report), encoding="utf-8")
    assert backbones.measured_before() == {"a": numbers}
    report["machine"]["torch"] = "1.0"
    (tmp_path / "backbones.json").write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"of another machine or other versions; --again"):
        backbones.measured_before()


def test_the_longest_silence_is_found_with_what_stood_there(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    silences = import_module("benchmarks.silence").silences
    pieces = [(2.0, "=== fit\n"), (2.5, "one ...\n"), (5.5, "\rbar: 1/2"), (6.0, "=== \n")]
    (row,) = silences(pieces)
    assert (row["part"], row["longest silence, s"], row["meanwhile"]) == ("fit", 3.0, "one ...")
    assert row["seconds"] == 4.0
    (row,) = silences([(7.0, "at last"), (8.0, "done\n")])
    assert (row["part"], row["longest silence, s"]) == ("all of it", 7.0)
