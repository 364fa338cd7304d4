"""Models without weights cost what those with weights do, take no memory, and keep what is tied tied. Covers the decode task too."""

import json

import pytest
import torch
from torch import nn

from szilard.cost_model.errors import InputError
from szilard.cost_model.view_fx import as_numpy
from szilard.models.hollow import hollow_language_model
from szilard.models.tasks import DECODE, recipe
from szilard.models.wrappers import Text
from szilard.rewriter.check_trace import check_finite, hollow
from szilard.rewriter.load import load
from szilard.rewriter.serve_limits import Asked, serve_limits
from szilard.rewriter.trace_torch import trace_module

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
ASKED = Asked(40, memory=4e6)


def configuration(kind: str = "llama", **more):
    torch.manual_seed(0)
    if kind == "gpt2":
        return transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64, **more)
    if kind == "bert":
        return transformers.BertConfig(**SIZES, **more)
    if kind == "t5":
        return transformers.T5Config(vocab_size=61, d_model=32, d_ff=48, num_layers=2, num_heads=4, d_kv=8, **more)
    return transformers.LlamaConfig(**SIZES, num_key_value_heads=2, **more)


def saved(folder, kind: str = "llama", dtype: str = "bfloat16", **more):
    """A folder with a configuration and nothing else."""
    text = configuration(kind, **more).to_dict() | {"dtype": dtype}
    (folder / "config.json").write_text(json.dumps(text, default=str))
    return folder


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("llama", True), ("gpt2", True)])
def test_shapes_dtypes_and_ties_are_those_of_the_real_model(kind, tied):
    settings = configuration(kind, tie_word_embeddings=tied)
    real = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16)
    made = hollow_language_model(settings, torch.bfloat16)
    assert {n: (p.shape, p.dtype) for n, p in made.named_parameters()} == {
        n: (p.shape, p.dtype) for n, p in real.named_parameters()
    }
    assert (made.get_input_embeddings().weight is made.get_output_embeddings().weight) == tied
    assert all(p.untyped_storage().nbytes() == 2 for p in made.parameters())
    assert len({p.data_ptr() for p in made.parameters()}) == len(list(made.parameters()))
    for (name, buffer), (_, other) in zip(made.named_buffers(), real.named_buffers(), strict=True):
        assert torch.equal(buffer, other), name


def test_modules_are_as_before_even_after_a_fault():
    register = nn.Module.register_parameter
    with pytest.raises(ValueError, match="T5"):
        hollow_language_model(configuration("t5"), torch.float32)
    assert nn.Module.register_parameter is register
    assert not nn.Linear(2, 3).weight.is_meta


def test_an_array_of_one_number_takes_no_memory():
    weight = torch.zeros((), dtype=torch.bfloat16).expand(1 << 20, 1 << 20)
    assert hollow(weight)
    array = as_numpy(weight)
    assert array.shape == weight.shape
    assert array.strides == (0, 0)
    assert not hollow(torch.zeros(1))
    assert not hollow(torch.zeros(3, 1).expand(3, 4))
    check_finite({"w": weight}, {}, "huge")
    with pytest.raises(InputError, match="Weight 'w' of huge holds NaN"):
        check_finite({"w": torch.full((), float("nan")).expand(1 << 20, 1 << 20)}, {}, "huge")


def test_only_a_module_that_is_hollow_throughout_is_not_held_to_its_numbers():
    class Noisy(nn.Module):
        def __init__(self, second):
            super().__init__()
            self.first, self.second = nn.Parameter(torch.zeros(()).expand(3, 3)), nn.Parameter(second)

        def forward(self, x):
            return x @ self.first @ self.second + torch.rand(3)

    x = {"x": torch.ones(2, 3)}
    trace_module(Noisy(torch.zeros(()).expand(3, 3)), x)
    with pytest.raises(InputError, match="computes other numbers"):
        trace_module(Noisy(torch.zeros(3, 3)), x)


@pytest.mark.parametrize(
    ("kind", "tied"),
    [("llama", True), pytest.param("llama", False, marks=pytest.mark.long), pytest.param("gpt2", True, marks=pytest.mark.long)],
)
def test_a_folder_with_a_configuration_alone_is_served_as_the_model_is(tmp_path, kind, tied):
    folder = saved(tmp_path, kind, tie_word_embeddings=tied)
    found = serve_limits(f"hf:{folder}", target="h100", asked=ASKED)
    model = transformers.AutoModelForCausalLM.from_config(configuration(kind, tie_word_embeddings=tied), dtype=torch.bfloat16)
    ids = torch.arange(22).reshape(2, 11)
    sample = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    axes = {name: {0: "batch", 1: "sequence"} for name in sample}
    program = trace_module(Text(model, "logits").eval(), sample, axes, source=f"hf:{folder}")
    real = serve_limits(program, target="h100", asked=ASKED)
    assert found["notes"][0] == f"Only the configuration of {folder} was read: the weights are priced as bfloat16."
    assert found | {"notes": found["notes"][1:]} == real
    assert found["decoder"]["dtype"] == "bfloat16"


def test_a_decode_recipe_needs_no_tokenizer_and_no_weights(tmp_path):
    found = recipe(DECODE, saved(tmp_path))
    assert (found.inputs, found.output, found.metric, found.calibration) == (
        ("input_ids", "attention_mask"),
        "logits",
        None,
        [],
    )
    assert int(found.sample["input_ids"].max()) < 61
    assert {p.dtype for p in found.build().parameters()} == {torch.bfloat16}


def test_a_quantised_checkpoint_is_said(tmp_path):
    found = recipe(DECODE, saved(tmp_path, quantization_config={"quant_method": "awq", "bits": 4}))
    assert found.notes[1] == "Its checkpoint is quantised (awq), which this price does not know: real weights take fewer bytes."


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("t5", r"\(t5\) is no causal language model, and no other decodes; name one that is"),
        ("", "is not a transformers folder: it has no config.json"),
    ],
)
def test_what_is_no_language_model_is_a_sentence(tmp_path, kind, words):
    folder = saved(tmp_path, kind) if kind else tmp_path
    with pytest.raises(InputError, match=words):
        load(f"hf:{folder}", task=DECODE)
