"""Phases that decode, from traces of real spellings to estimates, plans and refusals. Covers causal.py too."""

import json
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from szilard.cost_model.counts import count
from szilard.cost_model.decode import cache_bytes
from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.price import price_net
from szilard.cost_model.sites import LinearSite
from szilard.passes.find import find
from szilard.rewriter.backend_onnx import OnnxBackend
from szilard.rewriter.backend_torch import TorchBackend
from szilard.rewriter.decode_phase import decoder, phase_net
from szilard.rewriter.estimate import estimate
from szilard.rewriter.export_onnx import export_onnx
from szilard.rewriter.load import load
from szilard.rewriter.rewrite import rewrite
from szilard.rewriter.trace_torch import trace_module
from szilard.rewriter.whole import phase_feeds
from szilard.rewriter.workload import workload_for

from . import tiny_decoder

AXES = {0: "batch", 1: "sequence"}


def phase_of(program, text):
    return workload_for(program, [text]).phases[0]


def decodes(program, text):
    """(caches, net) of one phase."""
    backend = TorchBackend(program) if program.runtime == "torch" else OnnxBackend(program.sample)
    phase = phase_of(program, text)
    made = decoder(program, backend, program.graph, phase)
    return made.caches, made.net(phase.shapes)


def product_flops(net) -> float:
    counts = (count(op, net) for op in net.ops.values())
    return sum(flops for each in counts for dtype, flops in each.flops.items() if dtype.endswith(".tensor"))


@cache
def exported(spelling: str):
    return export_onnx(tiny_decoder.traced(spelling))


@pytest.mark.parametrize(
    ("runtime", "spelling"),
    [
        ("torch", "sdpa_mask"),
        ("torch", "by_hand"),
        ("onnxruntime", "sdpa_mask"),
        pytest.param("onnxruntime", "by_hand", marks=pytest.mark.long),
    ],
)
def test_one_phase_on_both_runtimes_has_the_work_of_a_real_step(spelling, runtime):
    program = tiny_decoder.traced(spelling) if runtime == "torch" else exported(spelling)
    flops, held = tiny_decoder.counted_step(5, 33)
    caches, net = decodes(program, "5x1@33")
    assert product_flops(net) == flops
    assert 5 * cache_bytes(caches) == held


def test_a_window_reads_no_more_than_it_sees():
    """Its mask says so: the work is that of a cache as long as the window."""
    program = tiny_decoder.traced("window")
    flops, held = tiny_decoder.counted_step(5, tiny_decoder.WINDOW - 1)
    for context in (tiny_decoder.WINDOW - 1, 33, 4000):
        caches, net = decodes(program, f"5x1@{context}")
        assert (product_flops(net), 5 * cache_bytes(caches)) == (flops, held)
    shorter, _ = decodes(program, "5x1@3")
    assert {each.positions for each in shorter} == {4}


def traced(module: nn.Module, **inputs: torch.Tensor):
    return trace_module(module.eval(), inputs, dict.fromkeys(inputs, AXES), "model")


class Odd(nn.Module):
    """One attention over embedded ids, and whatever `kind` makes it that a decode phase cannot have."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.embed, self.places = nn.Embedding(11, 12), nn.Embedding(16, 12)
        self.conv, self.head = nn.Conv1d(12, 12, 3, padding=1), nn.Linear(12, 5)

    def forward(self, ids, more=None):
        length = ids.shape[1]
        x = self.embed(ids)
        if self.kind == "places":
            x = x + self.places(torch.arange(length))
        if self.kind == "conv":
            x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        q = k = v = x.unflatten(-1, (3, 4)).transpose(1, 2)
        causal = torch.tril(torch.ones(length, length, dtype=torch.bool))
        if self.kind == "later":
            causal = causal | (torch.arange(length) == 2)
        if self.kind == "given":
            causal = more[:, None, None, :] > 0
        if self.kind == "learned":
            causal = torch.where(causal, 0.0, -1e9) + (x @ x.transpose(1, 2))[:, None]
        if self.kind == "softmax":
            return self.head(torch.softmax(torch.where(causal, x @ x.transpose(1, 2), -1e9), 1) @ x)
        mask = None if self.kind == "open" else causal
        x = nn.functional.scaled_dot_product_attention(torch.sin(q), k, torch.cos(v), attn_mask=mask)
        return self.head(x.transpose(1, 2).flatten(2))


IDS = torch.arange(18).reshape(2, 9) % 11


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("later", "lets a position see later ones; give a causal model"),
        ("open", "has no mask, so that every position sees the later ones too; give a causal model"),
        ("learned", "depends on what the layers compute"),
        ("conv", "mixes positions too, and keeps a state that is not known; give a model in which"),
        ("softmax", "softmax"),
        ("places", "its table of positions has 16 rows; give a context of at most 15."),
    ],
)
def test_what_cannot_decode_is_refused_in_one_sentence(kind, words):
    program = traced(Odd(kind), ids=IDS)
    with pytest.raises(InputError, match=r"^The phase 2x1@40 has a context of 40, which model cannot have: ") as caught:
        decodes(program, "2x1@40")
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


def test_the_same_model_without_its_fault_decodes():
    caches, _ = decodes(traced(Odd("places"), ids=IDS), "2x1@15")
    assert [(each.heads, each.kv_heads, each.positions) for each in caches] == [(3, 3, 16)]


def test_a_mask_from_an_input_is_judged_with_nothing_padded():
    """Padding alone hides nothing: such a model sees all positions."""
    program = traced(Odd("given"), ids=IDS, more=torch.ones(2, 9, dtype=torch.int64))
    with pytest.raises(InputError, match="lets a position see later ones"):
        decodes(program, "2x1@40")


def test_a_model_of_fixed_length_has_no_decode_phase():
    program = trace_module(Odd("none").eval(), {"ids": IDS}, {"ids": {0: "batch"}}, "model")
    with pytest.raises(InputError, match="axis 1 of input ids is fixed at 9"):
        decodes(program, "2x1@40")
    with pytest.raises(InputError, match="no input has a second axis, of positions, that may change"):
        decodes(program, "2x9@40")


def test_an_estimate_prices_each_phase_by_itself():
    """Phases: a prefill is priced as ever, a decode step as its net, and the total is their weighted mean."""
    program, device = tiny_decoder.traced("sdpa_mask"), load_device("h100")
    found = estimate(program, target="h100", workload=["1x30:1", "5x1@33:3"])
    prefill, decode = found["phases"]
    assert (prefill["context"], decode["context"], decode["weight"]) == (0, 33, 0.75)
    assert [entry.get("context") for entry in found["workload"]] == [None, 33]
    backend = TorchBackend(program)
    for phase, text in ((prefill, "1x30"), (decode, "5x1@33")):
        expected = price_net(phase_net(program, backend, program.graph, phase_of(program, text)), device)
        assert phase["total"]["joules"] == pytest.approx(expected.total.joules)
        assert {op["id"]: op["joules"] for op in phase["ops"]} == {name: cost.joules for name, cost in expected.ops.items()}
    for key in ("joules", "seconds", "flops", "bytes"):
        mean = 0.25 * prefill["total"][key] + 0.75 * decode["total"][key]
        assert found["total"][key] == pytest.approx(mean)
    json.dumps(found, allow_nan=False)


@pytest.mark.long
def test_a_rewrite_prices_linear_sites_at_their_rows_and_attention_with_its_cache():
    sample = {"input_ids": torch.arange(22).reshape(2, 11) % tiny_decoder.VOCABULARY}
    model = tiny_decoder.TinyDecoder("by_hand").eval()
    short, long = (
        rewrite(model, sample, target="h100", workload=[f"5x1@{context}"], calibration=[sample]) for context in (33, 4000)
    )
    for result in (short, long):
        attention = [choice for choice in result.plan.choices if choice.kind == "attention"]
        assert attention
        for choice in attention:
            assert choice.action == "leave"
            refusals = [option.reason for option in choice.options if option.action != "leave"]
            assert refusals
            assert all(reason.startswith("in the decode phase 5x1@") for reason in refusals)
    joules = {
        kind: [
            sum(choice.before.joules for choice in each.plan.choices if choice.kind == kind and choice.runtime == "torch")
            for each in (short, long)
        ]
        for kind in ("linear", "attention")
    }
    assert joules["linear"][0] == pytest.approx(joules["linear"][1])
    program = tiny_decoder.traced("by_hand")
    near, far = (estimate(program, target="h100", workload=[f"5x1@{context}"]) for context in (33, 4000))
    behind = {
        op
        for site in find(TorchBackend(program).view(program.graph, {"input_ids": (2, 11)})).sites
        if isinstance(site, LinearSite)
        for op in (*site.activation, site.residual)
    } - {""}
    # On CUDA the kernel of a linear may take in the activation and the residual behind it, so that they count with it.
    assert {row["kind"] for row in near["ops"] if row["id"] in behind} == {"relu", "add"}
    products = [row["joules"] for row in near["ops"] if row["target"].startswith("aten.linear") or row["id"] in behind]
    assert joules["linear"][0] == pytest.approx(sum(products), rel=0.01)
    longer = far["total"]["joules"] - near["total"]["joules"]
    assert joules["attention"][1] - joules["attention"][0] == pytest.approx(longer, rel=0.1)


def test_a_decode_phase_is_never_run():
    program = tiny_decoder.traced("sdpa_mask")
    with pytest.raises(
        InputError, match=r"^The phase 5x1@33 decodes with 33 positions in a cache that sdpa_mask was traced"
    ) as caught:
        phase_feeds(program, phase_of(program, "5x1@33"))
    assert "can be priced (szilard estimate) but not run" in str(caught.value)
    assert phase_feeds(program, phase_of(program, "5x1"))["input_ids"].shape == (5, 1)


def families(kind: str, attention: str):
    """(module that takes ids and a mask, a configured transformers model) with random weights."""
    import transformers

    from szilard.models.wrappers import Text

    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = {
        "llama": lambda: transformers.LlamaConfig(**sizes, num_key_value_heads=2),
        "mistral": lambda: transformers.MistralConfig(**sizes, num_key_value_heads=1, sliding_window=8),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    }[kind]()
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    return Text(model, "logits").eval(), model


@pytest.mark.long
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_transformers_models_cost_what_their_own_cached_step_does(kind, attention):
    """The cache that transformers itself keeps, and the products of its own step, spelled eagerly so that all are counted."""
    module, _ = families(kind, attention)
    ids = torch.arange(40).reshape(2, 20) % 61
    program = traced(module, input_ids=ids, attention_mask=torch.ones_like(ids))
    context = 30
    caches, net = decodes(program, f"3x1@{context}")
    _, model = families(kind, "eager")
    model.config.use_cache = True
    past = torch.arange(3 * context).reshape(3, context) % 61
    with torch.no_grad():
        kept = model(past).past_key_values
        with FlopCounterMode(display=False) as counter:
            kept = model(past[:, :1], past_key_values=kept).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in kept.layers)
    if kind == "mistral":
        # transformers drops the oldest position before the next step: seven stay of the eight that this one read.
        assert {each.positions for each in caches} == {8}
        held = held * 8 / kept.layers[0].keys.shape[2]
    assert 3 * cache_bytes(caches) == held
    assert product_flops(net) == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.long
@pytest.mark.parametrize("name", ["bert", "t5", "whisper"])
def test_transformers_that_are_no_decoders_are_refused(name):
    program = load(f"szilard.models.tiny_transformers:{name}").program
    first = next(name for name in program.inputs if 1 in program.dynamic.get(name, {}))
    with pytest.raises(InputError, match=r"cannot have: Attention .* (lets a position see later ones|has no mask)"):
        decodes(program, f"{first}=2x1@20")
