"""What serve-limits answers for a traced decoder, against every batch priced one by one; and what it refuses."""

import json
import math
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from szilard.cost_model.continuous_batching import printed_request_energy
from szilard.cost_model.decode import cache_bytes
from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.price import price_net
from szilard.cost_model.serving import OperatingPoint
from szilard.rewriter.backend_torch import TorchBackend
from szilard.rewriter.decode_phase import decoder
from szilard.rewriter.estimate import estimate
from szilard.rewriter.serve_limits import Asked, serve_limits
from szilard.rewriter.trace_torch import trace_module
from szilard.rewriter.workload import workload_for

from . import tiny_decoder
from .batching_simulation import simulate

CONTEXT = 50
MEMORY = 1.5e6
"""Room for 75 sequences beside the weights."""


@cache
def answer(**more):
    return serve_limits(tiny_decoder.traced("sdpa_mask"), target="h100", asked=Asked(CONTEXT, memory=MEMORY, **more))


@cache
def step(batch: int):
    """One step priced by itself."""
    program = tiny_decoder.traced("sdpa_mask")
    (phase,) = workload_for(program, [f"{batch}x1@{CONTEXT}"]).phases
    made = decoder(program, TorchBackend(program), program.graph, phase)
    return price_net(made.net(phase.shapes), load_device("h100")).total


def test_as_many_fit_as_memory_holds_and_the_cheapest_is_that_of_all():
    found = answer()
    _, one = tiny_decoder.counted_step(1, CONTEXT)
    memory = found["memory"]
    assert memory["cache_per_sequence"] == one
    assert memory["overhead"] == pytest.approx(0.1 * MEMORY)
    fits = memory["largest_batch"]
    assert fits * one <= MEMORY - memory["weights"] - memory["overhead"] < (fits + 1) * one
    brute = {batch: step(batch).joules / batch for batch in range(1, fits + 1)}
    best = found["points"]["fewest_joules"]
    assert best["joules_per_token"] == pytest.approx(min(brute.values()))
    assert best["batch"] == min(brute, key=lambda batch: brute[batch])
    assert [row["batch"] for row in found["batches"]] == sorted({1, 2, 4, 8, 16, 32, 64, fits, best["batch"]})


def test_every_row_is_the_price_of_its_step():
    for row in answer()["batches"]:
        cost, batch = step(row["batch"]), row["batch"]
        assert row["seconds_per_token"] == cost.seconds
        assert row["joules_per_token"] * batch == pytest.approx(cost.joules)
        assert row["static_joules_per_token"] * batch == pytest.approx(cost.terms["static"])
        assert row["tokens_per_second"] == pytest.approx(batch / cost.seconds)
        assert row["trilemma"] == pytest.approx(cost.seconds**2 * cost.joules / batch**2)
        assert row["trilemma"] > row["trilemma_floor"] > 0


def test_a_step_is_what_an_estimate_of_the_same_phase_says():
    row = answer()["batches"][2]
    found = estimate(tiny_decoder.traced("sdpa_mask"), target="h100", workload=[f"4x1@{CONTEXT}"])
    assert found["total"]["joules"] == pytest.approx(4 * row["joules_per_token"])
    assert found["total"]["seconds"] == pytest.approx(row["seconds_per_token"])


def test_a_latency_bounds_the_batch():
    latency = (step(9).seconds + step(10).seconds) / 2
    found = answer(latency=latency)
    able = [batch for batch in range(1, found["memory"]["largest_batch"] + 1) if step(batch).seconds <= latency]
    assert found["limits"] == {"latency": latency, "largest_batch": max(able)}
    assert found["points"]["fewest_joules"]["batch"] in able
    assert all(point["seconds_per_token"] <= latency for point in found["points"].values())


def test_the_heuristic_is_shown_and_is_not_the_cheapest():
    paper = answer()["paper"]
    shape = answer()["decoder"]
    assert paper["heuristic_batch"] == pytest.approx(math.sqrt(shape["parameters"] / (CONTEXT * 10)))
    assert paper["heuristic_point"]["batch"] == math.floor(paper["heuristic_batch"])
    assert paper["heuristic_point"]["joules_per_token"] > answer()["points"]["fewest_joules"]["joules_per_token"]
    ratio = paper["heuristic_point"]["joules_per_token"] / answer()["points"]["fewest_joules"]["joules_per_token"]
    assert paper["heuristic_over_fewest"] == pytest.approx(ratio)
    assert set(paper["inference"]["corrected"]) == {"weights", "arithmetic", "attention", "cache"}
    assert set(paper["training"]) == {"corrected", "printed"}


def test_arrivals_are_served_as_in_the_simulation():
    """The simulation takes its steps from the prices of each batch, one by one."""
    static = load_device("h100").values["static"]
    rate = 0.7 * 16 / step(16).seconds / 80
    found = answer(arrivals=rate, tokens=80)["arrivals"]
    seen = simulate(
        lambda k: step(k).seconds,
        lambda k: step(k).joules,
        arrivals=rate,
        draw=lambda random: int(random.geometric(1 / 80)),
        limit=answer()["memory"]["largest_batch"],
        idle_watts=static,
        requests=7200,
        seed=5,
    )
    for name in ("batch", "joules", "request_seconds", "seconds_per_token"):
        low, high = getattr(seen, name)
        assert low <= found[name] <= high, name
    assert found["eq_20_batch"] is None
    assert answer()["arrivals"] is None


def test_the_batch_of_eq_20_is_given_where_there_is_a_latency():
    latency, rate = 2.2 * step(1).seconds, 30.0
    found = answer(arrivals=rate, latency=latency, tokens=80)
    limit = found["limits"]["largest_batch"]
    able = [b for b in range(1, limit + 1) if b <= rate * 80 * (latency - step(b).seconds)]
    assert found["arrivals"]["eq_20_batch"] == max(able, default=0)


def test_the_heuristic_is_kept_within_what_fits_and_the_latency():
    """Remark 4.1: min(B*, B_max)."""
    latency = (step(3).seconds + step(4).seconds) / 2
    paper = answer(latency=latency)["paper"]
    assert paper["heuristic_batch"] > 4
    assert paper["heuristic_point"]["batch"] == 3


def test_eq_21_is_least_nowhere_since_dynamic_joules_fall_with_the_batch():
    found = answer(arrivals=30.0, latency=2.2 * step(1).seconds, tokens=80)
    dynamic = [step(b).joules / b - step(b).terms["static"] / b for b in range(1, found["limits"]["largest_batch"] + 1)]
    assert dynamic == sorted(dynamic, reverse=True)
    assert found["arrivals"]["eq_21_batch"] is None


def test_eq_21_is_given_where_dynamic_joules_rise_with_the_batch(monkeypatch):
    """A price made so; the batch is where the printed form is least, by a search."""
    static, tokens, latency = load_device("h100").values["static"], 80, 1.0

    def made(batch, net, cost):
        seconds = 0.01 + 0.001 * batch
        return OperatingPoint(batch, seconds, static * seconds / batch + 2.0 + 0.5 * batch, static * seconds / batch, 1.0)

    monkeypatch.setattr(sys.modules[serve_limits.__module__], "operating_point", made)
    asked = Asked(CONTEXT, memory=MEMORY, arrivals=0.2, latency=latency, tokens=tokens)
    found = serve_limits(tiny_decoder.traced("sdpa_mask"), target="h100", asked=asked)["arrivals"]["eq_21_batch"]
    batches = np.linspace(1, 200, 20000)
    printed = [printed_request_energy(batch, static, latency * tokens, tokens * 2.0, tokens * 0.5) for batch in batches]
    assert found == pytest.approx(batches[int(np.argmin(printed))], rel=0.01)


def test_the_decompositions_of_windowed_layers_count_what_they_see():
    flops, _ = tiny_decoder.counted_step(1, tiny_decoder.WINDOW - 1)
    found = serve_limits(tiny_decoder.traced("window"), target="h100", asked=Asked(4000, memory=MEMORY))
    terms, per_flop = found["paper"]["inference"]["corrected"], load_device("h100").values["flop.float32"]
    assert (terms["arithmetic"] + terms["attention"]) / per_flop == pytest.approx(flops)
    training = found["paper"]["training"]["corrected"]
    assert training["attention"] / terms["attention"] == pytest.approx(3.0, rel=0.01)  # nearly all of 4000 see a whole window


class Fixed(nn.Module):
    """What has no positions that may change: an image, or a batch whose length is written into the code."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner = nn.Conv2d(3, 4, 3) if kind == "image" else nn.Embedding(11, 4)

    def forward(self, x):
        y = self.inner(x)
        return y if self.kind == "image" else y.reshape(-1, 9, 2, 2) if self.kind == "length" else y.reshape(2, -1, 2, 2)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "image",
            r"^model cannot be served: none of its inputs \(x \[1, 3, 8, 8\]\) has a second axis, of positions, that may change; give",
        ),
        (
            "length",
            r"^model cannot be served: none of its inputs \(x \[2, 9\]\) has a second axis, .* \(.*sequence.*\); give a causal",
        ),
        (
            "batch",
            r"^model cannot be served at other batches: the first axis of its inputs is fixed .*; trace or export it with",
        ),
    ],
)
def test_a_model_without_free_axes_is_refused_by_name(kind, words):
    x = torch.zeros(1, 3, 8, 8) if kind == "image" else torch.arange(18).reshape(2, 9) % 11
    program = trace_module(Fixed(kind).eval(), {"x": x}, source="model")
    with pytest.raises(InputError, match=words):
        serve_limits(program, target="h100", asked=Asked(CONTEXT))


def test_what_does_not_decode_is_refused_by_its_own_name():
    open_ended = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    program = trace_module(
        nn.Sequential(nn.Embedding(11, 8), open_ended).eval(), {"input": torch.arange(18).reshape(2, 9) % 11}
    )
    with pytest.raises(
        InputError, match=r"^Sequential cannot decode with 50 positions in a cache: Attention .* give a causal model"
    ):
        serve_limits(program, target="h100", asked=Asked(CONTEXT))


def test_a_context_beyond_the_masks_that_were_looked_at_is_said():
    program = tiny_decoder.traced("sdpa_mask")
    near, far = (serve_limits(program, target="h100", asked=Asked(context))["notes"] for context in (4608, 4609))
    assert [note for note in far if note not in near] == [
        "Masks were looked at up to 4609 positions: a longer window of attention layers.0 and 1 more would be priced as the whole "
        "context."
    ]


def test_everything_is_labelled_and_goes_to_json():
    found = answer(arrivals=3.0)
    assert (found["label"], found["seconds_label"], found["at_least"], found["unpriced"]) == ("modelled", "roofline", False, [])
    assert found["rests_on"] == {"prior": pytest.approx(1.0)}
    assert found["decoder"] == {**found["decoder"], "layers": 2, "width": 40, "heads": 6, "kv_heads": 2, "vocabulary": 61}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"context": 0}, "--context 0 is no context; give the positions in the cache"),
        ({"context": 5, "latency": -1.0}, "--latency -1 is no limit; give seconds for a token, a number above zero"),
        ({"context": 5, "latency": math.nan}, "--latency nan is no limit"),
        ({"context": 5, "arrivals": 0.0}, "--arrivals 0 is no limit"),
        ({"context": 5, "tokens": 0}, "--tokens 0 is no limit"),
        ({"context": 5, "memory": math.inf}, "--memory inf is no limit"),
        ({"context": 5, "overhead": -2.0}, "--overhead -2 is no amount of memory"),
    ],
)
def test_numbers_that_mean_nothing_are_named(asked, words):
    with pytest.raises(InputError, match=words) as caught:
        Asked(**asked)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"memory": 5e4}, r"^Weights of 118 kB and an overhead of 5 kB do not fit in 50 kB of memory"),
        ({"memory": 1.4e5}, r"of memory are left beside the weights, and the cache of one sequence takes 16\.\d kB"),
        ({"latency": 1e-9}, r"^One sequence alone takes .* s a token on h100 \(modelled\), longer than --latency 1e-09"),
        ({"memory": MEMORY, "arrivals": 1e6}, r"the queue would grow without end; spread them over \d+ or more devices"),
    ],
)
def test_what_cannot_be_met_is_a_sentence(asked, words):
    with pytest.raises(InputError, match=words):
        serve_limits(tiny_decoder.traced("sdpa_mask"), target="h100", asked=Asked(CONTEXT, **asked))


def test_a_profile_without_memory_asks_for_it(tmp_path):
    data = load_device("h100").to_json()
    del data["coefficients"]["capacity.memory"]
    path = Path(tmp_path) / "mine.json"
    path.write_text(json.dumps(data))
    program = tiny_decoder.traced("sdpa_mask")
    with pytest.raises(InputError, match="does not say how much memory it has; give --memory BYTES"):
        serve_limits(program, target=path, asked=Asked(CONTEXT))
    found = serve_limits(program, target=path, asked=Asked(CONTEXT, memory=MEMORY))
    assert found["memory"] == answer()["memory"]


def test_caches_of_a_window_stop_growing():
    program = tiny_decoder.traced("window")
    near, far = (serve_limits(program, target="h100", asked=Asked(c, memory=MEMORY)) for c in (40, 4000))
    assert near["memory"]["cache_per_sequence"] == far["memory"]["cache_per_sequence"]
    assert near["batches"] == far["batches"]
    assert far["decoder"]["positions"] == [tiny_decoder.WINDOW] * 2
    (phase,) = workload_for(program, ["1x1@4000"]).phases
    assert far["memory"]["cache_per_sequence"] == cache_bytes(
        decoder(program, TorchBackend(program), program.graph, phase).caches
    )
