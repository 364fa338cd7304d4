"""The benchmark of convolutional networks: the peer's file runs and is close, agreement counts equal classes, the table shows them."""

import io

import numpy as np
import onnx_ir as ir
import pytest
from rich.console import Console

from szilard.benchmarks import convnets
from szilard.benchmarks.interleaved import open_session

from .onnx_graphs import graph
from .test_onnx_quantize_conv import TEXT, weights


@pytest.mark.parametrize("opset", [11, 18])
def test_the_peer_quantises_files_of_old_operator_sets_too(tmp_path, opset):
    ir.save(graph(TEXT, weights(), opset=opset), tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    samples = [{"x": random.standard_normal((2, 3, 9, 7)).astype(np.float32)} for _ in range(4)]
    convnets.quantized(tmp_path / "model.onnx", tmp_path / "quantised.onnx", samples)
    before, after = (open_session(tmp_path / f"{name}.onnx", 1).run(None, samples[0])[0] for name in ("model", "quantised"))
    assert 0 < np.sum((after - before) ** 2) < 0.05 * np.sum(before**2)


def test_agreement_counts_equal_classes(monkeypatch):
    monkeypatch.setattr(convnets.photographs, "crops", lambda count, names: np.arange(8, dtype=np.float32).reshape(8, 1))
    monkeypatch.setattr(convnets, "open_session", lambda path, threads: Sums(path))
    found = convnets.agreement({convnets.FP32: 0, "other": 6}, 1)
    assert found == {convnets.FP32: {"agreement": 1.0}, "other": {"agreement": 0.75}}


class Sums:
    """A classifier that says 1 for images of at least `least`; fp32 says 0 for all."""

    def __init__(self, least):
        self.least = least

    def run(self, _, feeds):
        return [np.array([0.5, float(self.least > 0 and feeds["image"].sum() >= self.least)])]


def test_the_table_shows_each_file():
    ratio = {"median": 0.5, "low": 0.4, "high": 0.6}
    result = {
        "machine": {"threads": 2}, "budget": 0.003, "error": 0.001, "convolutions": {"int8_conv": 40, "leave": 9},
        "quality": {convnets.FP32: {"agreement": 1.0}, "szilard": {"agreement": 0.995}},
        "ratio_to_fp32": dict.fromkeys((convnets.FP32, "szilard"), ratio),
        "seconds": {name: {"median": 0.002} for name in (convnets.FP32, "szilard")},
    }  # fmt: skip
    printed = Console(file=io.StringIO(), width=120)
    convnets.show("efficientnet", result, printed)
    text = printed.file.getvalue()
    for part in ("szilard", "2.00", "0.500 (0.400-0.600)", "0.9950", "40 int8_conv, 9 leave"):
        assert part in text
