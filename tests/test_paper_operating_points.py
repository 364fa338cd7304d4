"""The first row of the paper's Table 4 on the model that it names, traced without weights: printed, simulated, and from serve-limits.

Cases of serving.py, transformer.py and serve_limits.py.
"""

import json
import sys

import pytest

from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.serving import largest_batch
from szilard.rewriter.serve_limits import Asked, serve_limits

transformers = pytest.importorskip("transformers")

WIDTH, HIDDEN, VOCABULARY, LAYERS = 4096, 11008, 32000, 32
MEMORY, OVERHEAD = 80e9, 8e9
BYTE, FLOP = 20e-12, 0.4e-12
"""Table 4's e_mem [J/B] and Table 5's e_flop of fp16 [J/flop]."""

PRINTED = {2048: 42, 32768: 10}
"""B* of LLaMA-7B by context, as printed."""
PRINTED_JOULES = 1.2e-3


def simulated(layers: int, batch: int, context: int) -> float:
    """Joules a token of one step, matrix by matrix and sequence by sequence: weights are read once, caches by their own sequence."""
    joules = 0.0
    for _ in range(layers):
        for rows, columns in [(WIDTH, WIDTH)] * 4 + [(WIDTH, HIDDEN)] * 3:
            joules += BYTE * 2 * rows * columns
            joules += sum(FLOP * 2 * rows * columns for _ in range(batch))
        for _ in range(batch):
            for _kept in ("keys", "values"):
                joules += BYTE * 2 * WIDTH * (context + 1) + FLOP * 2 * WIDTH * (context + 1)
    joules += BYTE * 2 * WIDTH * VOCABULARY + sum(FLOP * 2 * WIDTH * VOCABULARY for _ in range(batch))
    return joules / batch


def filled(layers: int, context: int) -> int:
    """Sequences put into memory one by one, layer by layer, until the next has no room."""
    used = OVERHEAD + 2.0 * (layers * (4 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN) + 2 * WIDTH * VOCABULARY)
    count = 0
    while used + sum(2 * 2 * WIDTH * (context + 1) for _ in range(layers)) <= MEMORY:
        used += sum(2 * 2 * WIDTH * (context + 1) for _ in range(layers))
        count += 1
    return count


@pytest.fixture
def served(tmp_path, monkeypatch):
    """serve_limits of LLaMA-7B, or of its first layers, at the constants of the table: nothing but bytes and flops costs joules."""
    free = dict.fromkeys(("static", "launch", "byte.cache", "link"), 0.0)
    device = load_device("h100")
    device = device.with_values({**free, "byte.memory": BYTE, f"flop.{device.resolve('bfloat16.tensor')}": FLOP})
    monkeypatch.setattr(sys.modules[serve_limits.__module__], "load_device", lambda target: device)

    def run(layers: int, context: int):
        sizes = {"hidden_size": WIDTH, "intermediate_size": HIDDEN, "vocab_size": VOCABULARY, "num_attention_heads": 32}
        settings = transformers.LlamaConfig(**sizes, num_hidden_layers=layers).to_dict() | {"dtype": "bfloat16"}
        (tmp_path / "config.json").write_text(json.dumps(settings, default=str))
        return serve_limits(f"hf:{tmp_path}", target="h100", asked=Asked(context, memory=MEMORY, overhead=OVERHEAD))

    return run


@pytest.mark.parametrize(
    ("layers", "context"), [(1, 32768), *(pytest.param(LAYERS, context, marks=pytest.mark.long) for context in PRINTED)]
)
def test_llama_7b_is_served_as_the_simulation_says_and_not_as_printed(served, layers, context):
    """Why the three differ: the printed B* is sqrt(p / 4e6) whatever d is, no joules are least there, and the printed joules leave out
    that each weight has two bytes and each sequence its own cache; at 32K its ten sequences would not even fit."""
    found = served(layers, context)
    fits = filled(layers, context)
    assert found["memory"]["largest_batch"] == fits
    for row in found["batches"]:
        # Norms, rotations, softmax and what a step writes come on top.
        assert 1.0 <= row["joules_per_token"] / simulated(layers, row["batch"], context) < 1.1
    best = found["points"]["fewest_joules"]["batch"]
    assert best == min(range(1, fits + 1), key=lambda batch: simulated(layers, batch, context))
    if layers == LAYERS:
        assert fits == {2048: 54, 32768: 3}[context]
        assert found["points"]["fewest_joules"]["joules_per_token"] > 20 * PRINTED_JOULES
        assert found["paper"]["heuristic_batch"] == pytest.approx({2048: 160, 32768: 40}[context], rel=0.01)
        assert PRINTED[context] < fits or context == 32768


@pytest.mark.parametrize("parameters", [70e9, 175e9, 1.8e12])
def test_the_other_models_of_table_4_do_not_fit_the_device_that_it_names(parameters):
    """In two bytes a parameter; printed for them are batches of 132, 209 and 671."""
    with pytest.raises(InputError, match=r"^Weights of .*GB and an overhead of 8 GB do not fit in 80 GB of memory"):
        largest_batch(MEMORY, 2 * parameters, OVERHEAD, 1.0)
