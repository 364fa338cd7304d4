"""`szilard measure` and its file, and the text of a comparison: every figure with what it is."""

import json

import pytest
from typer.testing import CliRunner

from szilard.cost_model.measurement import read_measurements
from szilard.cost_model.plan import Budget, Phase, Plan, Workload
from szilard.rewriter import measure as measure_module
from szilard.rewriter.command_line import app
from szilard.rewriter.command_line_measure import compare_text

from .product_models import FEATURES, counter, products, written_models


@pytest.fixture
def models(tmp_path, monkeypatch):
    return written_models(tmp_path, monkeypatch)


def szilard(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_measure_prints_one_document_and_writes_rows_where_it_is_told(models):
    rows = models.folder / "rows.csv"
    shapes = ("--shape", "5x33", "--shape", "3x33", "--rounds", "3")
    found = szilard("measure", models.write("m.onnx", products()), *shapes, "--csv", str(rows), "--family", "toy", "--json")
    assert found.exit_code == 0, found.output
    runs = json.loads(found.stdout)["runs"]
    assert [run["config"] for run in runs] == ["m onnxruntime 5x33", "m onnxruntime 3x33"]
    assert [row["kind"] for row in runs[0]["ops"]] == ["matmul", "tanh"]
    written = read_measurements(rows)
    assert [row.config for row in written if row.scope == "model"] == ["m onnxruntime 5x33", "m onnxruntime 3x33"]
    assert {row.family for row in written} == {"toy"}
    assert {row.joules for row in written} == {None}


def test_a_place_for_rows_that_takes_none_is_refused_before_anything_is_timed(models):
    model = models.write("m.onnx", products())
    for place in (models.folder, models.folder / "m.onnx" / "rows.csv"):
        found = szilard("measure", model, "--csv", str(place))
        assert (found.exit_code, found.stdout) == (2, "")
        assert found.stderr.startswith(f"szilard: {place} cannot be written: ")
        assert found.stderr.endswith("name another file with --csv.\n")
        assert found.stderr.count("\n") == 1


def test_rows_without_a_name_for_their_family_have_the_models(models):
    rows = models.folder / "rows.csv"
    model = models.write("m.onnx", products())
    assert szilard("measure", model, "--rounds", "3", "--csv", str(rows), "--family", " ").exit_code == 0
    assert {row.family for row in read_measurements(rows)} == {"m"}


def test_a_folder_keeps_its_rows_and_a_file_only_when_asked(models):
    folder = models.folder / "out"
    folder.mkdir()
    models.write("out/model.onnx", products())
    plan = Plan("h200", Workload((Phase("5x33", {"x": (5, FEATURES)}),)), Budget(), ())
    (folder / "plan.json").write_text(json.dumps(plan.to_json()))
    (folder / "report.json").write_text(json.dumps({"target": "h200", "joules": {}, "model": {"source": "a/original.onnx"}}))
    original = models.write("original.onnx", products(2))
    found = szilard("measure", str(folder), "--against", original, "--rounds", "3")
    assert found.exit_code == 0, found.output
    assert "out onnxruntime 5x33, per call, predicted for cpu" in found.stdout
    assert "5x33: the second takes" in found.stdout
    rows = [row for row in read_measurements(folder / "measurements.csv") if row.scope == "model"]
    assert [(row.config, row.rewritten_from, row.family) for row in rows] == [
        ("original onnxruntime 5x33", "", "original"),
        ("out onnxruntime 5x33", "original onnxruntime 5x33", "original"),
    ]
    before = sorted(models.folder.rglob("*.csv"))
    assert szilard("measure", original, "--rounds", "3").exit_code == 0
    assert sorted(models.folder.rglob("*.csv")) == before


def test_joules_of_an_earlier_run_are_replayed_and_its_file_stays(models, monkeypatch):
    model, rows = models.write("m.onnx", products()), models.folder / "rows.csv"
    monkeypatch.setattr(measure_module, "open_meter", lambda kind: counter(0.25))
    assert szilard("measure", model, "--shape", "5x33", "--rounds", "3", "--csv", str(rows)).exit_code == 0
    before = rows.read_bytes()
    found = szilard("measure", model, "--shape", "5x33", "--rounds", "3", "--replay", str(rows))
    assert found.exit_code == 0, found.output
    (joules,) = [line for line in found.stdout.splitlines() if line.startswith("joules ")]
    assert " replayed " in joules
    assert "measured" not in joules
    assert f"recorded: Joules are those recorded in {rows}, of A card." in " ".join(found.stdout.split())
    both = szilard("measure", model, "--replay", str(rows), "--csv", str(rows))
    assert (both.exit_code, both.stdout) == (2, "")
    assert "give one of them" in both.stderr
    missing = szilard("measure", model, "--replay", str(models.folder / "absent.csv"))
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert (
        missing.stderr
        == f"szilard: The measurements {models.folder / 'absent.csv'} cannot be read: No such file or directory.\n"
    )
    assert rows.read_bytes() == before


@pytest.mark.parametrize("label", ["measured", "modelled"])
def test_a_comparison_starts_with_the_ratio_and_says_how_each_figure_was_had(label):
    ratio = {"a": 0.2, "b": 0.1, "ratio": 0.5, "low": 0.48, "high": 0.52}
    result = {"seconds": ratio, "joules": {**ratio, "label": label}, "error": {"relative_squared": 0.01, "cosine": 0.995}}
    assert compare_text(result, "first.onnx", "second.onnx").splitlines() == [
        "B takes 0.500 of the time of A (interval 0.480 to 0.520, measured)",
        "A  200 ms measured  first.onnx",
        "B  100 ms measured  second.onnx",
        f"joules: A 200 mJ, B 100 mJ, ratio 0.500 (interval 0.480 to 0.520, {label})",
        "error of B against A: 0.01 relative squared, mean cosine 0.995 (measured)",
    ]


def test_what_is_unavailable_says_why():
    ratio = {"a": 0.2, "b": 0.1, "ratio": 0.5, "low": 0.48, "high": 0.52}
    text = compare_text(
        {"seconds": ratio, "joules": {"unavailable": "No counter."}, "error": {"unavailable": "Other shapes."}}, "a", "b"
    )
    assert "joules unavailable: No counter." in text
    assert "error: Other shapes." in text
