"""Spectral sparse attention through the whole path: refused when short, taken when long and cheap, with its measured error."""

import numpy as np
import onnxruntime
import torch

import szilard

from .tiny_models import set_clock

LENGTH = 8192


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


def test_long_ones_are_rewritten_on_both_runtimes(monkeypatch, tmp_path):
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
