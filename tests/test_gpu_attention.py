"""Tests of benchmarks/gpu_attention.py and gpu_attention_ways.py: the script's logic on a CPU, its kernels under Triton's interpreter."""

import json

import pytest
import torch

pytest.importorskip("triton")

from szilard.benchmarks import gpu_attention, gpu_attention_ways

from .triton_interpreter import Interpreter


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What a tiny run with no time, and then one with time, wrote."""
    child, found = Interpreter(), []
    folder = tmp_path_factory.mktemp("gpu")
    for minutes in ("0", "5"):
        child("spectral_triton:benchmark", arguments=["--tiny", "--minutes", minutes, "--out", str(folder)])
        path = folder / "gpu-attention-tiny.json"
        found.append(json.loads(path.read_text()) if path.exists() else None)
    child.close()
    return found


@pytest.mark.long
def test_a_run_keeps_to_its_time_and_the_next_one_goes_on(done):
    assert done[0] is None
    assert [bool(row["gradients"]) for row in done[1]["rows"].values()] == [False, False, True]


@pytest.mark.long
def test_simulated_seconds_are_labelled_so(done):
    assert done[1]["label"].startswith("simulated")
    assert done[1]["device"] == "cpu, Triton's interpreter"


@pytest.mark.long
def test_ours_is_judged_against_float64_and_the_reference_and_timed_beside_a_peer(done):
    sparse, causal, gradients = done[1]["rows"].values()
    for row, ours in ((sparse, set(gpu_attention_ways.FORMS)), (causal, {gpu_attention_ways.OURS})):
        for name in ours:
            assert 1e-4 < row["errors"][name] < 0.9
            assert row["distance from the reference"][name] < 1e-5
            assert row["speeds"][name] == pytest.approx(row["seconds"]["math"] / row["seconds"][name])
        assert set(row["seconds"]) == ours | {"math"}
        assert row["fastest peer"] == "math"
    assert max(gradients[f"gradient of the {name}"] for name in ("query", "key", "value")) < 1e-5


@pytest.mark.long
def test_what_is_done_is_not_done_again(done, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_attention, "row_of", None)
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(done[1]))
    assert gpu_attention.run(path, "cpu", 5.0, True, None) == done[1]


def test_the_budget_of_a_causal_case_is_its_share_of_what_a_query_may_see():
    for length, share in gpu_attention.CAUSAL_SHARES.items():
        case = gpu_attention_ways.Case(length, 64, 16, 4, True, share)
        assert case.density <= share < case.causal_density(case.budget + 1)
    assert gpu_attention_ways.Case(4096, 64, 16, 4, False, 0.1).density == 7 * 64 / 4096


def test_a_way_that_fails_is_refused_with_its_reason():
    def fails():
        raise RuntimeError("no kernel of that")

    found, refused = gpu_attention_ways.seconds({"good": lambda: torch.ones(1), "bad": fails}, "cpu")
    assert list(found) == ["good"]
    assert refused == {"bad": "no kernel of that"}


def test_all_lengths_widths_and_kinds_are_among_the_cases():
    asked = [case for case, gradients in gpu_attention.cases(tiny=False) if not gradients]
    assert {(case.length, case.width) for case in asked} == {(1024 << at, width) for at in range(8) for width in (64, 128)}
    assert {(case.causal, case.kv_heads < case.heads) for case in asked} == {(False, False), (False, True), (True, True)}
    assert {case.dtype for case in asked} == {"bfloat16"}
    assert len({case.name for case in asked}) == len(asked)


def test_operands_have_the_structure_of_trained_heads():
    """A tenth of the keys, not all of them nor one, has most of the weight of a query."""
    case = gpu_attention_ways.Case(1024, 64, 2, 1, False, 0.1, dtype="float32")
    query, key, value = gpu_attention_ways.clustered(case, 0, "cpu")
    assert key.shape == value.shape == (1, 1, 1024, 64)
    weights = (query @ key.mT * case.scale).softmax(-1).sort(-1, descending=True).values
    most = float(weights[..., :102].sum(-1).mean())
    assert 0.5 < most < 0.999
    assert float(weights[..., 0].mean()) < 0.5


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu_attention.main([])
