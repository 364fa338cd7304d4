"""A phase has one price, whoever asks: estimate, planner, serve-limits, measure; and laws only where the ops are those that run."""

from dataclasses import replace
from functools import cache

import onnx_ir as ir
import pytest

from szilard.cost_model.device import Coefficient, load_device, unit_of
from szilard.cost_model.errors import InputError
from szilard.cost_model.kernel_times import caches
from szilard.cost_model.kernel_work import net_work
from szilard.cost_model.plan import Budget
from szilard.cost_model.program import Program
from szilard.rewriter import decode_phase, onnx_as_run
from szilard.rewriter.as_run import AS_RUN, AsRun, as_run, became
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.estimate import estimate
from szilard.rewriter.load import load
from szilard.rewriter.measure import measure
from szilard.rewriter.optimise import Request, optimise
from szilard.rewriter.profile_file import write_profile
from szilard.rewriter.serve_limits import Asked, serve_limits
from szilard.rewriter.workload import workload_for

from .onnx_texts import model, normal
from .priced_nets import net_of
from .test_decode_phase import exported as exported_as
from .tiny_models import block_model

CPU = load_device("cpu")
WORKLOAD = ["2x9", "2x1@40"]


def exported() -> Program:
    return exported_as("sdpa_mask")


@cache
def block() -> Program:
    return load(block_model()).program


@cache
def knowing(program: Program, *workload: str, kind: str = "cpu"):
    """A profile with a law for every kernel that onnxruntime calls in these phases: far slower than the roofline."""
    backend = OnnxBackend(program.sample)
    run = onnx_as_run.as_onnxruntime_runs(program.graph)
    laws = {"run.call": 1e-3}
    for phase in workload_for(program, list(workload) or None).phases:
        net = AsRun(program, backend, CPU, run, None, "").prediction(phase).net
        for kernel, work in net_work(net, caches(CPU)).values():
            laws |= {f"{kernel}.{feature}": 1e-5 if feature == "call" else 1e-10 for feature in work}
    found = {
        (key := f"time.onnxruntime.{name}"): Coefficient(value, str(unit_of(key)), value / 2, value * 2, "measured", "A test.")
        for name, value in laws.items()
    }
    return replace(CPU, name="knowing", kind=kind, coefficients={**CPU.coefficients, **found})


@pytest.fixture
def profile(tmp_path):
    def write(device):
        write_profile(device, tmp_path / "knowing.json")
        return tmp_path / "knowing.json"

    return write


def refuse(*_):
    raise InputError("It does not load.")


def test_every_phase_is_priced_in_the_form_that_runs(profile):
    found = estimate(exported(), target=profile(knowing(exported(), *WORKLOAD)), workload=WORKLOAD)
    assert [phase["total"]["label"] for phase in found["phases"]] == ["table", "table"]
    assert found["notes"].count(AS_RUN) == 1
    for phase, both in zip(WORKLOAD, found["phases"], strict=True):
        alone = estimate(exported(), target=profile(knowing(exported(), *WORKLOAD)), workload=[phase])
        assert both["total"]["seconds"] == pytest.approx(alone["total"]["seconds"])
        assert alone["total"]["seconds"] > 1e-3
        # What scales the scores is part of a product once the optimiser is done.
        assert any("Fused" in op["target"] for op in alone["ops"])


def test_laws_are_not_used_on_ops_that_do_not_run(profile, monkeypatch):
    place = profile(knowing(exported(), *WORKLOAD))
    plain = estimate(exported(), target="cpu", workload=WORKLOAD)
    monkeypatch.setattr(onnx_as_run, "as_onnxruntime_runs", refuse)
    found = estimate(exported(), target=place, workload=WORKLOAD)
    assert [phase["total"]["label"] for phase in found["phases"]] == ["roofline", "roofline"]
    assert found["total"]["seconds"] == pytest.approx(plain["total"]["seconds"])
    said = [note for note in found["notes"] if "as the model is written" in note]
    assert len(said) == 2
    assert all("seconds of the roofline" in note and note.endswith("It does not load.") for note in said)
    assert AS_RUN not in found["notes"]


def test_a_decode_phase_that_the_form_that_runs_hides_is_priced_as_written(monkeypatch):
    program = exported()
    device = knowing(program, *WORKLOAD)
    prices = as_run(program, OnnxBackend(program.sample), device, program.graph)
    real = decode_phase.decoder

    def decoder(program, backend, graph, phase, said=""):
        if graph is prices.run:
            raise InputError("No attention was found.")
        return real(program, backend, graph, phase, said)

    monkeypatch.setattr("szilard.rewriter.as_run.decoder", decoder)
    prefill, decode = (prices.prediction(phase) for phase in workload_for(program, WORKLOAD).phases)
    assert (prefill.total.label, prefill.notes) == ("table", ())
    assert decode.total.label == "roofline"
    assert decode.notes[0].endswith("No attention was found.")


def test_serve_limits_say_what_an_estimate_says(profile):
    place = profile(knowing(exported(), "4x1@40"))
    row = serve_limits(exported(), target=place, asked=Asked(40, memory=1e6))["batches"][2]
    found = estimate(exported(), target=place, workload=["4x1@40"])["total"]
    assert (row["batch"], found["label"]) == (4, "table")
    assert row["seconds_per_token"] == pytest.approx(found["seconds"])
    assert 4 * row["joules_per_token"] == pytest.approx(found["joules"])


def planned(program: Program, device, workload=None):
    request = Request(
        device=device,
        workload=workload_for(program, workload),
        budget=Budget(error=0.0),
        calibration=None,
        exact=True,
        table=None,
        metric=None,
        plan=None,
    )
    return optimise(program, OnnxBackend(program.sample), request)


@pytest.mark.parametrize("known", [True, False])
def test_the_planner_says_what_an_estimate_says(profile, known):
    """Elsewhere and the sites left alone are the whole model; nothing is timed, as the processor is another one."""
    program = block()
    device = knowing(program) if known else CPU
    found = planned(program, device)
    assert len(found.choices) > 1
    total = estimate(block_model(), target=profile(device) if known else "cpu")["total"]
    assert total["label"] == ("table" if known else "roofline")
    seconds = found.elsewhere[1] + sum(choice.options[0].seconds for choice in found.choices)
    joules = found.elsewhere[0] + sum(choice.options[0].joules for choice in found.choices)
    assert {choice.options[0].label for choice in found.choices} == {total["label"]}
    assert seconds == pytest.approx(total["seconds"], rel=0.02)
    assert joules == pytest.approx(total["joules"], rel=0.02)


def test_attention_that_reads_a_cache_has_the_price_of_its_phase():
    program = exported()
    device = knowing(program, WORKLOAD[1])
    found = planned(program, device, WORKLOAD[1:])
    attention = [choice.options[0] for choice in found.choices if choice.kind == "attention"]
    assert len(attention) == 2
    assert {option.label for option in attention} == {"table"}
    # Two products, a softmax and what is between them, each with a call of its own.
    assert all(2e-5 < option.seconds < 2e-4 for option in attention)


def test_measure_prices_by_the_roofline_what_onnxruntime_does_not_show(tmp_path, profile, monkeypatch):
    path = str(tmp_path / "m.onnx")
    ir.save(block_model(), path)
    place = profile(knowing(block()))
    assert {run["seconds"]["from_profile"]["label"] for run in measure(path, target=place, rounds=3)["runs"]} == {"table"}
    monkeypatch.setattr(onnx_as_run, "as_onnxruntime_runs", refuse)
    found = measure(path, target=place, rounds=3)
    assert {run["seconds"]["from_profile"]["label"] for run in found["runs"]} == {"roofline"}
    assert {run["seconds"]["from_profile"]["table_share"] for run in found["runs"]} == {0.0}
    assert any(note.endswith("It does not load.") and "seconds of the roofline" in note for note in found["notes"])


def test_what_ops_became_is_found_by_name_and_by_what_they_write():
    shape = (2, 3)
    net = net_of(dict.fromkeys("xabcd", shape), [("neg", "x", "a"), ("neg", "a", "b"), ("neg", "b", "c"), ("neg", "c", "d")])
    run = net_of(dict.fromkeys("xbcd", shape), [("mul", "x", "b"), ("neg", "b", "c"), ("neg", "c", "d")])
    ops = dict(zip(("fused", "op2", "d_nchwc"), run.ops.values(), strict=True))
    ops = {name: replace(op, id=name) for name, op in ops.items()}
    ops["d_nchwc"] = replace(ops["d_nchwc"], outputs=("blocked",))
    run = replace(run, ops=ops)
    assert became(run, net, ["op0"]) == []
    assert became(run, net, ["op1"]) == ["fused"]
    assert became(run, net, ["op1", "op2"]) == ["fused", "op2"]
    assert became(run, net, ["op3"]) == ["d_nchwc"]


def test_a_convolution_that_took_in_its_activation_is_found():
    text = (
        "(float[N,8,14,14] x) => (float[N,32,14,14] y) { a = Conv<pads=[1,1,1,1],kernel_shape=[3,3]>(x,w) b = Relu(a) "
        "c = Conv<kernel_shape=[1,1]>(b,v) y = Sigmoid(c) }"
    )
    graph = model(text, {"w": normal(0, 16, 8, 3, 3), "v": normal(1, 32, 16, 1, 1)})
    net, run = (OnnxBackend().view(each, {"x": (1, 8, 14, 14)}) for each in (graph, onnx_as_run.as_onnxruntime_runs(graph)))
    found = [became(run, net, [op.id]) for op in net.ops.values() if op.kind == "conv"]
    assert [[run.ops[op].kind for op in each if run.ops[op].kind == "conv"] for each in found] == [["conv"], ["conv"]]
    assert len(set(map(tuple, found))) == 2


def test_a_long_window_that_was_not_looked_for_is_said(monkeypatch):
    program = exported()
    monkeypatch.setitem(decode_phase.LONGEST_MASK, "onnxruntime", 30)
    near, far = (estimate(program, workload=[f"1x1@{context}"])["notes"] for context in (29, 30))
    (said,) = set(far) - set(near)
    assert said.startswith("Masks were looked at up to 30 positions: a longer window of attention ")
    assert said in serve_limits(program, target="h100", asked=Asked(30, memory=1e6))["notes"]
