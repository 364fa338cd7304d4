"""The command: exit codes, JSON and nothing else on stdout, sentences instead of tracebacks, and no heavy import before it is needed."""

import errno
import json
import subprocess
import sys
import types
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from szilard.cost_model.errors import BudgetError, InputError
from szilard.cost_model.plan import Budget, Choice, Option, Phase, Plan, Workload
from szilard.rewriter.command_line import app

SZILARD = [sys.executable, "-P", "-c", "from szilard.rewriter.command_line import main; main()"]
OPTIONS = (Option("leave", 2.0, 0.2, "measured"), Option("int8_static", 0.5, 0.1, "measured", 0.004, (1.2, 1.8)))
CHOICE = Choice("layer.0.query", "linear", "int8_static", OPTIONS, ("layer.0.query",), "onnxruntime", "It saves 1.5 J.")
PLAN = Plan("cpu", Workload((Phase("1x128", {"ids": (1, 128)}),)), Budget(), (CHOICE,))
REPORT = {
    "format": 1,
    "joules": {"before": 4.0, "after": 2.5, "label": "modelled"},
    "misses": [{"op": "s", "kind": "attention", "reason": "Short."}],
}


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def library(monkeypatch):
    """Stand-ins for the functions behind the commands; `calls` collects what they were given, `fault` is raised if set."""
    seen = SimpleNamespace(calls=[], fault=None)

    def stand_in(module: str, function: str, result):
        def called(*arguments, **options):
            print("noise on stdout")
            warnings.warn("a library's own trouble", stacklevel=1)
            seen.calls.append((arguments, options))
            if seen.fault is not None:
                raise seen.fault
            return result

        made = types.ModuleType(module)
        setattr(made, function, called)
        return made

    profile = {"value": 0.2, "low": 0.1, "high": 0.4, "label": "roofline", "table_share": 0.0}
    seconds = {
        "predicted": 0.2,
        "predicted_from": "roofline",
        "from_profile": profile,
        "measured": 0.1,
        "low": 0.09,
        "high": 0.11,
    }
    joules = {
        "predicted": 1.0, "from_profile": {"value": 1.0, "low": 0.5, "high": 2.0, "label": "modelled"}, "modelled": 0.7,
        "modelled_low": 0.4, "modelled_high": 1.2, "measured": None, "low": None, "high": None, "label": "modelled",
        "unavailable": "There is no counter.", "provenance": {"prior": 1.0},
        "static": {"predicted": 0.6, "as_run": 0.3, "watts": 3.0, "provenance": "prior"},
    }  # fmt: skip
    floors = {"landauer": 1e-13, "landauer_stored": 3e-12, "memory_bytes": 4e6, "core_bytes": 5e6}
    one = {
        "workload": "1x128", "model": "m", "config": "m onnxruntime 1x128", "runtime": "onnxruntime", "work": {},
        "seconds": seconds, "joules": joules, "floors": floors, "moved": {"memory": 6e6, "cache": 7e6},
        "ops": [], "classes": [], "summary": {"unavailable": "no profiler"},
    }  # fmt: skip
    measure = stand_in("measure", "measure", {"target": "cpu", "runs": [one], "differences": [], "notes": []})
    ratio = {"a": 0.2, "b": 0.1, "ratio": 0.5, "low": 0.48, "high": 0.52}
    error = {"relative_squared": 0.01, "cosine": 0.995}
    compared = {"seconds": ratio, "joules": {"unavailable": "There is no counter."}, "error": error}
    op = {"id": "matmul_1", "kind": "matmul", "joules": 1.5, "seconds": 0.1, "share": 0.75}
    odd = {**op, "id": "odd", "kind": "other:Odd", "joules": 0.5, "share": 0.25}
    estimate = {
        "format": 1, "model": "m.onnx", "target": "h200", "ops": [op, odd],
        "total": {"joules": 2.0, "seconds": 0.2, "flops": 1e9, "bytes": 1e6}, "at_least": True, "unpriced": ["odd"],
    }  # fmt: skip
    for name, module in (
        ("rewrite", stand_in("rewrite", "rewrite", SimpleNamespace(report=REPORT, plan=PLAN))),
        ("estimate", stand_in("estimate", "estimate", estimate)),
        ("measure", measure),
        ("compare", stand_in("compare", "compare", compared)),
    ):
        monkeypatch.setitem(sys.modules, f"szilard.rewriter.{name}", module)
    return seen


def test_rewrite_hands_over_every_option(library, tmp_path):
    done = run(
        "rewrite", "m.onnx", "--out", str(tmp_path / "out"), "--target", "h200", "--calib", "c.npz", "--budget", "0.01",
        "--metric", "mine:recall", "--task", "causal-lm", "--shape", "ids=1x128:1", "--shape", "ids=8x128:3", "--plan", "p.json",
        "--onnx-style", "qdq",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    ((model,), options) = library.calls[0]
    assert model == "m.onnx"
    assert options["budget"] == Budget(0.01, None, "mine:recall")
    assert options["metric"] == "mine:recall"
    assert (options["task"], options["target"], options["calibration"]) == ("causal-lm", "h200", Path("c.npz"))
    assert [(p.name, p.weight) for p in options["workload"].phases] == [("1x128", 0.25), ("8x128", 0.75)]
    assert (options["exact"], options["force"], options["plan"]) == (False, False, Path("p.json"))
    assert options["onnx_style"] == "qdq"
    assert "Rewritten at 1 place on onnxruntime: 2.50 J" in done.stdout
    assert "noise" not in done.stdout


def test_rewrite_defaults(library, tmp_path):
    assert run("rewrite", "m", "--out", str(tmp_path / "out")).exit_code == 0
    options = library.calls[0][1]
    left_to_the_plan = ("budget", "target", "onnx_style")
    assert [options[name] for name in (*left_to_the_plan, "metric", "task", "workload", "plan", "calibration")] == [None] * 8
    assert run("rewrite", "m", "--out", str(tmp_path / "out"), "--exact").exit_code == 0
    assert library.calls[1][1]["exact"] is True
    assert run("rewrite", "m", "--out", str(tmp_path / "out"), "--joules", "1.5").exit_code == 0
    assert library.calls[2][1]["budget"].joules == 1.5


COMMANDS = {
    "rewrite": ("rewrite", "m", "--out", "OUT"),
    "estimate": ("estimate", "m", "--target", "h200"),
    "measure": ("measure", "m"),
    "compare": ("compare", "a", "b"),
    "devices": ("devices",),
    "devices show": ("devices", "show", "h200"),
    "explain": ("explain", "FOLDER"),
    "doctor": ("doctor",),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_one_document_and_nothing_else(library, tmp_path, name):
    (tmp_path / "plan.json").write_text(json.dumps(PLAN.to_json()))
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    places = {"OUT": str(tmp_path / "out"), "FOLDER": str(tmp_path)}
    arguments = [places.get(word, word) for word in COMMANDS[name]]
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)
    text = run(*arguments)
    assert text.exit_code == 0
    assert text.stdout.strip()
    assert "noise" not in text.stdout


def test_texts_label_what_they_show(library):
    assert "at least 2.00 J" in run("estimate", "m").stdout
    assert 'totals say "at least": odd' in run("estimate", "m").stdout
    assert "joules unavailable: There is no counter." in run("measure", "m").stdout
    assert "B takes 0.500 of the time of A (interval 0.480 to 0.520, measured)" in run("compare", "a", "b").stdout


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (InputError("The file m is missing."), 2, "szilard: The file m is missing.\n"),
        (BudgetError("No plan reaches 1 J."), 3, "No plan reaches 1 J."),
        (RuntimeError("boom"), 1, "RuntimeError: boom"),
        (KeyboardInterrupt(), 130, "nothing was half-written"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "no space left"),
    ],
)
@pytest.mark.parametrize("command", ["rewrite", "estimate", "measure", "compare"])
def test_a_fault_is_one_sentence_and_a_code(library, tmp_path, command, fault, code, words):
    library.fault = fault
    arguments = [str(tmp_path / "out") if word == "OUT" else word for word in COMMANDS[command]]
    done = run(*arguments, "--json")
    assert done.exit_code == code
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in run(*arguments, "--debug").stderr


@pytest.mark.parametrize("debug", [False, True])
def test_warnings_of_libraries_show_only_with_debug(library, debug):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert run("measure", "m", *(["--debug"] if debug else [])).exit_code == 0
    assert ["own trouble" in str(w.message) for w in caught] == ([True] if debug else [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rewrite",), "Missing"),
        (("rewrite", "m"), "--out"),
        (("rewrite", "m", "--out", "OUT", "--task", "dance"), "causal-lm"),
        (("rewrite", "m", "--out", "OUT", "--budget", "much"), "--budget"),
        (("rewrite", "m", "--out", "OUT", "--budget", "-1"), "--budget -1.0"),
        (("rewrite", "m", "--out", "OUT", "--budget", "nan"), "--budget nan"),
        (("rewrite", "m", "--out", "OUT", "--budget", "0.1", "--joules", "1"), "contradict"),
        (("rewrite", "m", "--out", "OUT", "--budget", "0.1", "--exact"), "contradict"),
        (("rewrite", "m", "--out", "OUT/below"), "does not exist"),
        (("rewrite", "m", "--out", "HERE"), "--force"),
        (("rewrite", "m", "--out", "OUT", "--shape", "1x"), "--shape '1x'"),
        (("estimate", "m", "--shape", "1x7", "--workload", "w.json"), "give one of them"),
        (("estimate", "m", "--workload", "OUT"), "cannot be read"),
        (("explain", "OUT"), "is not a folder that szilard wrote"),
        (("devices", "show", "toaster"), "toaster"),
        (("measure", "m", "--rounds", "1"), "--rounds"),
        (("sing",), "sing"),
        (("estimate", "m", "--loud"), "--loud"),
    ],
)
def test_bad_usage_exits_with_2(library, tmp_path, arguments, words):
    places = {"OUT": tmp_path / "out", "OUT/below": tmp_path / "out" / "below", "HERE": tmp_path}
    done = run(*(str(places.get(word, word)) for word in arguments))
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert library.calls == []


def test_the_console_command_leaves_with_the_code():
    for arguments, code in (
        (["--help"], 0),
        (["sing"], 2),
        (["explain", "/nowhere"], 2),
        (["devices", "show", "cpu", "--json"], 0),
    ):
        assert subprocess.run([*SZILARD, *arguments], capture_output=True).returncode == code


def test_help_and_version_need_no_heavy_library():
    code = """
import sys
from szilard.rewriter.command_line import app
for argument in ("--help", "--version"):
    try:
        app([argument])
    except SystemExit as leaving:
        assert leaving.code == 0
print(sorted({"torch", "onnx", "onnxruntime", "transformers", "scipy", "networkx", "jinja2"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rewrite" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stdout.splitlines()[-2].startswith("szilard ")


def test_a_pipe_that_closes_early_is_quiet():
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | true', "bash", *SZILARD, "devices", "show", "h200"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_stdout_is_a_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*SZILARD, "devices", "--json"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("szilard: There is no space left on the disk")
    assert done.stderr.count("\n") == 1
