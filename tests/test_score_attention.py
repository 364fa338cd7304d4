"""Spectral sparse attention through the whole path: refused when short, taken when long and cheap, with its measured error."""

import numpy as np
import onnxruntime
import pytest
import torch

import szilard
from szilard.kernels.spectral_attention import crossover
from szilard.rewriter import score_attention
from szilard.rewriter.trace_torch import trace_module

from .tiny_models import set_clock

LENGTH = 2048


class Attention(torch.nn.Module):
    """Two heads of 16 over x [1, N, 32]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = x.reshape(x.shape[0], x.shape[1], 2, 16).transpose(1, 2)
        mixed = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        return mixed.transpose(1, 2).reshape(x.shape) + x


def clustered(length: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((8, 32)) * 2
    return (centres[draw.integers(0, 8, length)] + 0.3 * draw.standard_normal((length, 32)))[None].astype(np.float32)


def test_short_sequences_are_refused_with_length_and_crossover(monkeypatch):
    set_clock(monkeypatch, {"leave": 1.0, "spectral_sparse": 0.1})
    data = [{"x": clustered(128, seed)} for seed in range(2)]
    result = szilard.rewrite(Attention(), {"x": torch.from_numpy(data[0]["x"])}, calibration=data)
    sentences = [miss.reason for miss in result.plan.misses if "Spectral sparse attention" in miss.reason]
    assert sentences
    assert "128 tokens" in sentences[0]
    assert "crossover of about" in sentences[0]
    assert {c.action for c in result.plan.choices if c.kind == "attention"} <= {"leave", "fused_attention"}


@pytest.mark.long
def test_long_ones_are_rewritten_on_both_runtimes(monkeypatch, tmp_path):
    monkeypatch.setattr(crossover, "crossover", lambda *_, **__: LENGTH)
    set_clock(monkeypatch, {"leave": 1.0, "spectral_sparse": 0.1}, default=2.0)
    data = [{"x": clustered(LENGTH, 0)} for _ in range(2)]
    result = szilard.rewrite(Attention(), {"x": torch.from_numpy(data[0]["x"])}, calibration=data, out=tmp_path / "out")
    taken = {(c.runtime, c.action) for c in result.plan.choices if c.kind == "attention"}
    assert taken == {("torch", "spectral_sparse"), ("onnxruntime", "spectral_sparse")}
    assert 0 < result.report["error"]["measured"] < 0.02
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    x = data[0]["x"]
    with torch.no_grad():
        expected = Attention()(torch.from_numpy(x)).numpy()
    got = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert 0 < np.sum((got - expected) ** 2) / np.sum(expected**2) < 0.02


class Causal(torch.nn.Module):
    """Four heads of 8 over two key heads, x [1, N, 32]; no position sees a later one, by the operator's flag or by a mask of positions."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.masked = masked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = x.reshape(x.shape[0], x.shape[1], 4, 8).transpose(1, 2)
        shared = heads[:, :2].repeat_interleave(2, dim=1)
        places = torch.arange(x.shape[1], device=x.device)
        mask = places[:, None] >= places if self.masked else None
        mixed = torch.nn.functional.scaled_dot_product_attention(
            heads, shared, shared, attn_mask=mask, is_causal=not self.masked
        )
        return mixed.transpose(1, 2).reshape(x.shape) + x


@pytest.mark.long
@pytest.mark.parametrize("masked", [False, True])
def test_causal_attention_is_rewritten_on_both_runtimes_and_stays_causal(monkeypatch, tmp_path, masked):
    monkeypatch.setattr(crossover, "costs", lambda *_, **__: (2.0, 1.0))
    set_clock(monkeypatch, {"leave": 1.0, "spectral_sparse": 0.1}, default=2.0)
    data = [{"x": clustered(640, seed)} for seed in range(2)]
    x = data[0]["x"]
    result = szilard.rewrite(Causal(masked), {"x": torch.from_numpy(x)}, calibration=data, out=tmp_path / "out")
    taken = {(c.runtime, c.action) for c in result.plan.choices if c.kind == "attention"}
    assert taken == {("torch", "spectral_sparse"), ("onnxruntime", "spectral_sparse")}
    with torch.no_grad():
        expected = Causal(masked)(torch.from_numpy(x)).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    changed = x.copy()
    changed[:, 600:] += 1.0
    got, after = (session.run(None, {session.get_inputs()[0].name: each})[0] for each in (x, changed))
    assert 0 < np.sum((got - expected) ** 2) / np.sum(expected**2) < 0.02
    assert np.array_equal(got[:, :576], after[:, :576])
    assert not np.allclose(got[:, 600:], after[:, 600:])


def test_a_mask_with_a_window_is_no_causal_one(monkeypatch):
    class Windowed(Causal):
        def forward(self, x):
            heads = x.reshape(x.shape[0], x.shape[1], 4, 8).transpose(1, 2)
            places = torch.arange(x.shape[1], device=x.device)
            mask = (places[:, None] >= places) & (places[:, None] - places < 100)
            mixed = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
            return mixed.transpose(1, 2).reshape(x.shape)

    monkeypatch.setattr(crossover, "costs", lambda *_, **__: (2.0, 1.0))
    set_clock(monkeypatch, {"leave": 1.0, "spectral_sparse": 0.1}, default=2.0)
    data = [{"x": clustered(640, seed)} for seed in range(2)]
    result = szilard.rewrite(Windowed(True), {"x": torch.from_numpy(data[0]["x"])}, calibration=data)
    reasons = [miss.reason for miss in result.plan.misses if "Spectral sparse attention" in miss.reason]
    assert reasons
    assert all("has a mask" in reason for reason in reasons)


def test_texts_far_shorter_than_the_workload_fit_no_budget(monkeypatch):
    """On few tokens every key is read exactly, so that any budget would seem to do."""
    monkeypatch.setattr(crossover, "costs", lambda *_, **__: (2.0, 1.0))
    set_clock(monkeypatch, {"leave": 1.0, "spectral_sparse": 0.1}, default=2.0)
    data = [{"x": clustered(300, seed)} for seed in range(2)]
    sample = {"x": torch.from_numpy(clustered(320, 3))}
    axes = {"x": {1: "sequence"}}
    program = trace_module(Causal(False), sample, axes)
    result = szilard.rewrite(program, calibration=data, workload=["x=1x1024x32"])
    (reason,) = {o.reason for c in result.plan.choices for o in c.options if o.action == "spectral_sparse"}
    assert reason == "its budgets would be fitted on 300 tokens, and the workload has 1,024: give longer calibration texts"


def test_short_rows_of_a_padded_batch_do_not_count():
    texts = [tuple(torch.zeros(1, 2, length, 4) for _ in range(3)) for length in (1024, 60, 800, 59)]
    assert [text[1].shape[2] for text in score_attention._long_enough(texts)] == [1024, 800]


class Padded(torch.nn.Module):
    """Four heads of 8 over two key heads, x [B, N, 32]; tokens that are not there [B, N] are hidden, and later ones if it is causal."""

    def __init__(self, causal: bool, additive: bool) -> None:
        super().__init__()
        self.causal, self.additive = causal, additive

    def forward(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        heads = x.reshape(x.shape[0], x.shape[1], 4, 8).transpose(1, 2)
        shared = heads[:, :2].repeat_interleave(2, dim=1)
        mask = there[:, None, None].bool()
        if self.causal:
            places = torch.arange(x.shape[1], device=x.device)
            mask = mask & (places[:, None] >= places)
        if self.additive:
            mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
        mixed = torch.nn.functional.scaled_dot_product_attention(heads, shared, shared, attn_mask=mask)
        return (mixed.transpose(1, 2).reshape(x.shape) + x) * there[..., None]


@pytest.mark.long
@pytest.mark.parametrize(("causal", "additive"), [(False, False), (True, True), (True, False)])
def test_padding_is_hidden_by_what_takes_the_place_of_attention(monkeypatch, tmp_path, causal, additive):
    """On both runtimes, wherever the padding stands, calibrated on texts with and without it."""
    monkeypatch.setattr(crossover, "costs", lambda *_, **__: (2.0, 1.0))
    monkeypatch.setattr(crossover, "crossover", lambda *_, **__: 1)
    set_clock(monkeypatch, {"leave": 1.0, "spectral_sparse": 0.1}, default=2.0)
    x = np.concatenate([clustered(640, seed) for seed in range(2)])
    there = np.ones((2, 640), np.int64)
    there[0, :100] = 0
    there[1, 500:] = 0
    data = [{"x": x, "there": there if number < 2 else np.ones_like(there)} for number in range(4)]
    inputs = {name: torch.from_numpy(array) for name, array in data[0].items()}
    result = szilard.rewrite(Padded(causal, additive), inputs, calibration=data, out=tmp_path / "out")
    taken = {(c.runtime, c.action) for c in result.plan.choices if c.kind == "attention"}
    assert taken == {("torch", "spectral_sparse"), ("onnxruntime", "spectral_sparse")}
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for shift in (0, 37):
        moved = np.roll(there, shift, axis=1)
        with torch.no_grad():
            expected = Padded(causal, additive)(torch.from_numpy(x), torch.from_numpy(moved)).numpy()
            module = result.module(torch.from_numpy(x), torch.from_numpy(moved))
        (got,) = session.run(None, {"x": x, "there": moved})
        for found in (got, module[0].numpy() if isinstance(module, tuple) else module.numpy()):
            assert 0 < np.sum((found - expected) ** 2) / np.sum(expected**2) < 0.02
        changed = np.where(moved[..., None] == 1, x, x + 3.0).astype(np.float32)
        (same,) = session.run(None, {"x": changed, "there": moved})
        # Which tiles are exact is chosen by the mean query of a tile, padding with it; nothing else of the padding is read.
        assert np.sum((same - expected) ** 2) / np.sum(expected**2) < 0.02
