"""`szilard serve-limits` as a user types it: its text, its JSON, and one sentence with exit code 2 for what it cannot do."""

import json
import sys

import pytest
from typer.testing import CliRunner

from szilard.rewriter.command_line import app
from szilard.rewriter.command_line_serve import serve_limits_text
from szilard.rewriter.serve_limits import Asked, serve_limits

from . import tiny_decoder

HERE = """
import torch
from szilard.tests import tiny_decoder

def decoder():
    return tiny_decoder.TinyDecoder("sdpa_mask"), {"input_ids": torch.arange(22).reshape(2, 11)}

def encoder():
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return torch.nn.Sequential(torch.nn.Embedding(30, 8), layer), {"input": torch.arange(22).reshape(2, 11)}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command in a folder with a file of factories."""
    (tmp_path / "serve_factories.py").write_text(HERE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda *words: CliRunner().invoke(app, ["serve-limits", *words])
    sys.modules.pop("serve_factories", None)


def text(**more) -> str:
    asked = Asked(50, memory=1.5e6, **more)
    return serve_limits_text(serve_limits(tiny_decoder.traced("sdpa_mask"), target="h100", asked=asked))


def test_the_text_says_what_is_modelled_and_from_what():
    lines = text().splitlines()
    assert lines[0].startswith(
        "sdpa_mask on h100, decoding at a context of 50 (float32): modelled, seconds from roofline; of the joules, "
    )
    assert "prior coefficients" in lines[0]
    assert lines[1].startswith("2 layers, 6 query heads over 2 key/value heads, ")
    assert "overhead holds 75 caches of 16.3 kB" in lines[2]
    assert lines[4].split() == [
        "batch", "latency", "modelled", "J/token", "of", "it", "static", "tokens/s", "latency", "x", "J", "/", "throughput", "its", "floor",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[5:13]] == ["1", "2", "4", "8", "16", "32", "64", "75"]
    whole = "\n".join(lines)
    assert "paper's B* (Theorem 4.2, a heuristic): 7.68; batch 7, " in whole
    assert "fewest joules: batch 75, " in whole
    assert "eq. 11, decode, dynamic joules a token (modelled): corrected weights " in whole
    assert "; printed weights " in whole
    assert " times the fewest joules" in whole
    assert "requests/s" not in whole
    assert "note: Decode steps only" in whole


def test_the_text_with_a_latency_and_arrivals():
    whole = text(latency=0.5, arrivals=3.0, tokens=80)
    assert "fewest joules within 500 ms a token: batch 75" in whole
    assert "3 requests/s of 80 tokens, continuous batching (modelled; at most " in whole
    assert " a request, static watts included, of which " in whole
    assert "the paper's eq. 20 gathers 75 requests before it serves them, and its eq. 21 has no least batch" in whole
    result = serve_limits(tiny_decoder.traced("sdpa_mask"), target="h100", asked=Asked(50, 0.5, 3.0, memory=1.5e6))
    given = serve_limits_text({**result, "arrivals": {**result["arrivals"], "eq_21_batch": 12.34}})
    assert "and its eq. 21 is least at 12.3" in given


def test_a_lower_limit_and_what_has_no_price_are_said():
    result = serve_limits(tiny_decoder.traced("sdpa_mask"), target="h100", asked=Asked(50, memory=1.5e6))
    shown = serve_limits_text({**result, "at_least": True, "unpriced": ["odd_1"]})
    assert "at least " in shown
    assert "without a price, in at their bytes alone: odd_1" in shown
    assert "at least" not in serve_limits_text(result)


@pytest.mark.long
def test_one_document_with_json_and_nothing_else_on_stdout(run):
    found = run("serve_factories:decoder", "--target", "h100", "--context", "50", "--memory", "1.5e6", "--json")
    assert found.exit_code == 0
    data = json.loads(found.stdout)
    assert data["memory"]["largest_batch"] == 75
    assert data["model"] == "serve_factories:decoder"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve_factories:decoder", "--context", "0"], "--context 0 is no context"),
        (["serve_factories:decoder", "--context", "9", "--latency", "-1"], "--latency -1 is no limit"),
        (["serve_factories:decoder", "--context", "9", "--target", "h900"], "There is no device 'h900'"),
        (["none.onnx", "--context", "9"], "The model file none.onnx does not exist."),
        (["hf:nowhere", "--context", "9"], "The folder nowhere does not exist"),
        pytest.param(["serve_factories:encoder", "--context", "9"], "sees the later ones too", marks=pytest.mark.long),
        pytest.param(
            ["serve_factories:decoder", "--context", "9", "--memory", "9000"],
            "do not fit in 9 kB of memory; take a larger device",
            marks=pytest.mark.long,
        ),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(run, words, said):
    found = run(*words)
    assert found.exit_code == 2
    (sentence,) = [line for line in found.stderr.splitlines() if line.startswith("szilard: ")]
    assert said in sentence
    assert found.stdout == ""


def test_help_names_the_options(run):
    found = run("--help")
    assert found.exit_code == 0
    for option in ("--context", "--target", "--latency", "--arrivals", "--tokens", "--memory", "--overhead", "--json"):
        assert option in found.stdout
