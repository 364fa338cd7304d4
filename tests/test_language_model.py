"""A causal language model as a prefill and a decode step: what transformers generates comes out of both, on torch and in onnxruntime.
Covers programs.py, rewritten.py, report_programs.py and cache_names.py too."""

import importlib.util
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

import szilard
from szilard.cost_model.errors import InputError
from szilard.models.greedy import greedy
from szilard.models.language_model import cache_layers
from szilard.models.wrappers import Text
from szilard.rewriter import language_model as two_programs
from szilard.rewriter import report_programs
from szilard.rewriter.explain import explain
from szilard.rewriter.programs import check_plan, programs_of
from szilard.rewriter.runtime_torch import torch_runner

from . import tiny_language_models as tiny
from .tiny_models import set_clock

EXACT_PAYS = {"leave": 1e-3} | dict.fromkeys(("merged", "fused_attention", "skip_layer_norm", "sum_layer_norm"), 4e-4)
WEIGHTS_PAY = {"leave": 1e-3, "int8_weight": 4e-4, "int4_weight": 3e-4}
STEPS = 64
PROMPTS = (tiny.texts(1, 13), tiny.texts(2, 21, padding=6))


def session(path: Path):
    opened = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in opened.get_outputs()]
    return lambda feeds: dict(zip(names, opened.run(names, feeds), strict=True))


def emitted(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return torch_runner(module.load(), module.INPUTS, module.OUTPUTS)


def rewritten(kind, **options):
    return szilard.rewrite(f"hf:{tiny.folder(kind)}", task="causal-lm", **options)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_exact_rewrites_generate_what_the_model_does(kind, monkeypatch, tmp_path):
    set_clock(monkeypatch, EXACT_PAYS, default=9e-3)
    result = rewritten(kind, exact=True, out=tmp_path / "out")
    assert all(each.changed for each in result.optimised if each.backend.runtime == "onnxruntime")
    out = tmp_path / "out"
    modules = [
        torch_runner(result.modules[name], each.program.inputs, each.program.outputs)
        for name, each in zip(("prefill", "decode"), result.optimised[::2], strict=True)
    ]
    pairs = {
        "modules": modules,
        "model.py": [emitted(out / name) for name in ("model.py", "model_with_past.py")],
        "model.onnx": [session(out / name) for name in ("model.onnx", "model_with_past.onnx")],
    }
    for given in PROMPTS:
        wanted = tiny.generated(kind, given, STEPS)
        assert len(np.unique(wanted)) > 8
        for name, pair in pairs.items():
            assert np.array_equal(greedy(*pair, **given, steps=STEPS), wanted), name


TRACED = cache(lambda: traced("hf:tiny", tiny.one_layer(), tiny.texts(2, 9, words=31), None))
traced = two_programs._traced


@pytest.fixture
def tiny_model(monkeypatch):
    """`hf:tiny` is one layer by hand, on torch alone; int8 weights pay everywhere, int4 weights more."""

    def opened(folder, task, length=0):
        calibration = [tiny.texts(2, length, words=31) for length in (17, 20, 11, 24)]
        recipe = SimpleNamespace(
            sample=tiny.texts(2, 9, words=31),
            calibration=calibration,
            metric=None,
            metric_name="",
            notes=("a note",),
            inputs=("input_ids", "attention_mask"),
            output="logits",
        )
        return recipe, Text(tiny.one_layer(), "logits")

    def not_exported(program):
        raise InputError("There is no exporter here.")

    set_clock(monkeypatch, WEIGHTS_PAY, default=9e-3)
    monkeypatch.setattr(two_programs, "open_folder", opened)
    monkeypatch.setattr(two_programs, "_traced", lambda *_: TRACED())
    monkeypatch.setattr("szilard.rewriter.rewrite.export_onnx", not_exported)
    return lambda **options: szilard.rewrite("hf:tiny", task="causal-lm", **options)


def actions(result, program):
    return {choice.site: choice.action for choice in result.plan.choices if choice.program == program}


def test_both_programs_compute_what_the_model_does(tiny_model):
    prefill, decode = programs_of("hf:tiny", None, "causal-lm", None, None).parts
    assert [part.workload.phases[0].weight for part in (prefill, decode)] == pytest.approx([1 / 32, 31 / 32])
    given = tiny.texts(2, 12, padding=4, words=31)
    with torch.no_grad():
        counted = torch.from_numpy(given["attention_mask"]).cumsum(-1) - 1
        tensors = {name: torch.from_numpy(array) for name, array in given.items()}
        wanted = tiny.one_layer()(**tensors, position_ids=counted.clamp(min=0)).logits.numpy()
    runs = [
        torch_runner(part.loaded.program.graph, part.loaded.program.inputs, part.loaded.program.outputs)
        for part in (prefill, decode)
    ]
    assert decode.loaded.program.inputs[2:] == ("past_key_values.0.key", "past_key_values.0.value")
    assert decode.loaded.program.outputs == prefill.loaded.program.outputs == ("logits", "present.0.key", "present.0.value")
    seen = runs[0]({name: array[:, :6] for name, array in given.items()})
    assert np.allclose(seen["logits"], wanted[:, :6], atol=1e-5)
    for start, end in ((6, 7), (7, 12)):
        past = {name.replace("present", "past_key_values"): array for name, array in seen.items() if name != "logits"}
        feeds = {"input_ids": given["input_ids"][:, start:end], "attention_mask": given["attention_mask"][:, :end]}
        seen = runs[1]({**feeds, **past})
        assert np.allclose(seen["logits"], wanted[:, start:end], atol=1e-5)
        assert seen["present.0.key"].shape == (2, 2, end, 8)


def test_without_a_shape_one_prefill_and_the_steps_that_fit_behind_it_are_planned(tiny_model):
    result = tiny_model()
    first, step = result.plan.workload.phases
    assert (first.name, step.name, step.context) == ("2x9", "2x1@24", 24)
    assert step.weight == pytest.approx(31 * first.weight)
    assert any("31 decode steps" in note for note in result.report["model"]["notes"])
    assert result.report["workload"][1]["shapes"]["input_ids"] == [2, 1]


def test_joules_and_errors_of_the_programs_are_those_of_the_whole(tiny_model, tmp_path):
    result = tiny_model(out=tmp_path / "out", workload=["1x16:3", "1x1@16", "1x2@30:1"])
    report, programs = result.report, result.report["programs"]
    assert {name: part["share"] for name, part in programs.items()} == pytest.approx({"prefill": 0.6, "decode": 0.4})
    for total in ("joules", "seconds"):
        for side in ("before", "after"):
            assert report[total][side] == pytest.approx(sum(part[total][side] for part in programs.values()))
    assert result.after < result.before
    errors = [part["error"]["measured"] for part in programs.values()]
    assert min(errors) > 0
    assert report["error"]["measured"] == max(errors) <= 0.02
    assert {choice["program"] for choice in report["choices"]} == {"prefill", "decode"}
    out = tmp_path / "out"
    assert {path.name for path in out.glob("*.py")} == {"model.py", "model_with_past.py"}
    assert {part["file"] for part in programs.values()} == {"model.py", "model_with_past.py"}
    page = (out / "report.html").read_text()
    assert "What was changed on torch (decode)" in page
    assert "of which decode" in page
    found = explain(out)
    assert {choice["program"] for choice in found["choices"]} == {"prefill", "decode"}
    assert json.loads((out / "plan.json").read_text())["workload"]["phases"][1]["context"] == 16
    given = tiny.texts(1, 9, words=31)
    pairs = [[emitted(out / name) for name in ("model.py", "model_with_past.py")]]
    pairs += [[torch_runner(result.modules[each], part["inputs"], part["outputs"]) for each, part in programs.items()]]
    generated = [greedy(*pair, **given, steps=12) for pair in pairs]
    assert np.array_equal(*generated)


def test_a_program_keeps_its_own_choices_when_a_plan_is_replayed(tiny_model):
    first = tiny_model()
    assert set(actions(first, "decode").values()) > {"leave"} or "int4_weight" in actions(first, "decode").values()
    edited = json.loads(json.dumps(first.plan.to_json(), default=float))
    for choice in edited["choices"]:
        if choice["program"] == "decode":
            choice["action"] = "leave"
    again = tiny_model(plan=edited)
    assert actions(again, "prefill") == actions(first, "prefill")
    assert set(actions(again, "decode").values()) == {"leave"}
    assert again.plan.workload == first.plan.workload


def test_a_plan_of_other_programs_is_refused(tiny_model):
    two = tiny_model(workload="1x1@8").plan
    one = replace(two, choices=tuple(replace(choice, program="") for choice in two.choices))
    parts = programs_of("hf:tiny", None, "causal-lm", None, None).parts
    check_plan(two, parts)
    with pytest.raises(InputError, match="for the program decode, and this workload makes one program"):
        check_plan(two, [replace(parts[0], name="")])
    with pytest.raises(InputError, match="for one program, and this workload makes the programs prefill and decode"):
        tiny_model(plan=one, workload=["1x8", "1x1@8"])


def test_where_only_decode_steps_are_asked_the_prefill_is_written_as_it_is(tiny_model, tmp_path):
    result = tiny_model(workload="1x1@20", out=tmp_path / "out")
    assert {choice.program for choice in result.plan.choices} == {"decode"}
    assert result.report["programs"]["prefill"]["share"] == 0
    assert result.report["joules"]["after"] == result.report["programs"]["decode"]["joules"]["after"]
    assert any("written as it is" in note for note in result.report["model"]["notes"])
    run = emitted(tmp_path / "out" / "model.py")
    given = tiny.texts(1, 9, words=31)
    with torch.no_grad():
        wanted = tiny.one_layer()(**{name: torch.from_numpy(array) for name, array in given.items()}).logits
    assert np.allclose(run(given)["logits"], wanted, atol=1e-5)


def test_joules_are_limited_for_one_program_at_a_time(tiny_model):
    with pytest.raises(InputError, match="limits one program, and this workload makes prefill and decode"):
        tiny_model(workload=["1x8", "1x1@8"], budget=szilard.Budget(joules=1.0))
    found = tiny_model(workload="1x1@8", budget=szilard.Budget(joules=1e9))
    assert set(actions(found, "decode").values()) == {"leave"}


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ("1x1@40", "has 41 positions, and hf:tiny takes 40; give a context of at most 39"),
        ("1x3@38", "a context of at most 37"),
        ("1x41@2", "give at most 40 tokens"),
    ],
)
def test_a_context_beyond_the_positions_is_refused(tiny_model, shape, sentence):
    with pytest.raises(InputError, match=sentence):
        tiny_model(workload=["1x8", shape])


def test_a_model_whose_cache_is_something_else_stays_one_program(tiny_model, monkeypatch):
    monkeypatch.setattr("szilard.models.language_model.cache_layers", lambda model: (0, "it keeps a state"))
    monkeypatch.setattr(two_programs, "_traced", traced)
    result = tiny_model(exact=True)
    assert {choice.program for choice in result.plan.choices} == {""}
    assert "programs" not in result.report
    assert result.report["model"]["outputs"] == ["logits"]
    assert any("one program without a cache" in note and "it keeps a state" in note for note in result.report["model"]["notes"])


@pytest.mark.parametrize(
    ("kind", "layers", "reason"),
    [
        ("llama", 2, ""),
        ("mistral", 0, "layer 0 of its cache is a DynamicSlidingWindowLayer"),
        ("mamba", 0, "gives no cache of keys and values"),
    ],
)
def test_a_cache_is_looked_at_before_it_is_trusted(kind, layers, reason):
    model_class, configuration, settings = tiny.KINDS[kind]
    model = getattr(transformers, model_class)(getattr(transformers, configuration)(**tiny.TOKENS, **settings)).eval()
    found, said = cache_layers(model)
    assert found == layers
    assert reason in said
    assert bool(reason) == bool(said)


def test_totals_of_programs_are_those_of_one_runtime():
    """A program that could not be exported runs in torch alone; what the other takes in onnxruntime is not added to that."""

    def part(joules):
        return {
            "joules": {"after": joules, "label": "modelled"},
            "seconds": {"after": joules / 9},
            "error": {"measured": joules / 99},
        }

    both = {"runtimes": {"torch": part(3.0), "onnxruntime": part(1.0)}, **part(1.0)}
    alone = {"runtimes": {"torch": part(5.0)}, **part(5.0)}
    both["joules"] = {**both["joules"], "unavailable": "no counter"}
    first, second = report_programs._on_one_runtime([both, alone])
    assert first["joules"] == {"after": 3.0, "label": "modelled", "unavailable": "no counter"}
    assert (first["seconds"]["after"], first["error"]["measured"]) == (3.0 / 9, 3.0 / 99)
    assert second == alone
    assert report_programs._on_one_runtime([both, both]) == [both, both]
