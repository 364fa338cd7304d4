"""Small ONNX graphs to be timed: the same operator several times in a row, so that what a session costs does not show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 20
_SMALL = 100_000
_NOISE = 1_000_003
DOMAINS = ("com.microsoft", "com.microsoft.nchwc")


@dataclass(frozen=True)
class Microbenchmark:
    """`model` repeats `kernel` (an operator's name, or the name of a group of shapes of it); `feeds` are its inputs, random, never zeros.
    `name` says the shapes."""

    kernel: str
    name: str
    model: onnx.ModelProto
    feeds: Mapping[str, np.ndarray]

    @property
    def key(self) -> str:
        """What it is called among all: the kernel and the shapes."""
        return f"{self.kernel}: {self.name}"


@dataclass
class Chain:
    """Builds a graph in which each node reads what the one before wrote. Inputs and weights are the same on every run."""

    drawn: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)

    def input(self, *shape: int, dtype: str = "float32", high: int = 100) -> str:
        """A graph input: normal floats, integers in [0, high), or booleans."""
        name = f"x{len(self.feeds)}"
        self.feeds[name] = self._draw(shape, dtype, high)
        return name

    def weight(self, *shape: int, dtype: str = "float32", scale: float = 0.05, high: int = 100) -> str:
        """A random constant."""
        array = self._draw(shape, dtype, high)
        scaled = (array * np.float32(scale)).astype(dtype, copy=False) if dtype.startswith("float") else array
        return self.constant(scaled)

    def constant(self, array: Any, dtype: str | None = None) -> str:
        """A constant of given values."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def _draw(self, shape: Sequence[int], dtype: str, high: int) -> np.ndarray:
        # Each draw starts elsewhere: onnxruntime packs equal weights once, and they would all be read from the cache.
        self.drawn += 1
        start, size = 7919 * self.drawn % _NOISE, math.prod(shape)
        whole = _integers(high) if dtype.startswith(("int", "uint")) else _noise()
        drawn = whole[start : start + size] if start + size <= _NOISE else np.resize(np.roll(whole, -start), size)
        drawn = drawn.reshape(shape)
        return drawn > 0 if dtype == "bool" else drawn.astype(dtype, copy=False)

    def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Appends a node; "domain::Operator" for one that is not standard. Returns the name of its output, or a list of names."""
        domain, _, name = operator.rpartition("::")
        index = len(self.nodes)
        names = [f"y{index}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(name, list(inputs), names, name=f"n{index}", domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def branch(self, condition: str, x: str) -> str:
        """An If whose branches each do one small op on `x`."""
        name = f"b{len(self.nodes)}"
        bodies = [
            helper.make_graph(
                [helper.make_node(operator, [x], [f"{name}_{operator}"], name=f"{name}_{operator}")],
                f"{name}_{operator}",
                [],
                [helper.make_empty_tensor_value_info(f"{name}_{operator}")],
            )
            for operator in ("Identity", "Neg")
        ]
        return str(self.node("If", condition, then_branch=bodies[0], else_branch=bodies[1]))

    def scan(self, x: str) -> str:
        """A Scan that does one small op on each slice of `x` along its first axis."""
        name = f"b{len(self.nodes)}"
        part = helper.make_tensor_value_info(f"{name}_part", onnx.TensorProto.FLOAT, None)
        body = helper.make_graph(
            [helper.make_node("Neg", [part.name], [f"{name}_out"], name=f"{name}_Neg")],
            f"{name}_body",
            [part],
            [helper.make_empty_tensor_value_info(f"{name}_out")],
        )
        return str(self.node("Scan", x, body=body, num_scan_inputs=1))

    def summed(self, values: Sequence[str]) -> str:
        """The sum of values of one shape, so that none of them is an output of the graph, which would be copied out."""
        total = values[0]
        for value in values[1:]:
            total = self.node("Add", total, value)
        return total

    def first_rows(self, values: Sequence[str]) -> str:
        """The sum of their first rows: adding up the whole of copied values would take longer than copying them."""
        begin, end, axis = (self.constant([bound], "int64") for bound in (0, 1, 0))
        return self.summed([self.node("Slice", value, begin, end, axis) for value in values])

    def done(self, kernel: str, name: str, output: str) -> Microbenchmark:
        """The finished graph. Of a large `output` only the first element leaves it: a tensor that leaves gets fresh memory on every run,
        whose pages the system must clear, which no op inside a model pays for."""
        if sum(array.nbytes for array in self.feeds.values()) > _SMALL:
            flat = self.node("Reshape", output, self.constant([-1], "int64"))
            output = self.node("Slice", flat, self.constant([0], "int64"), self.constant([1], "int64"))
        inputs = [helper.make_tensor_value_info(n, _element(a.dtype), a.shape) for n, a in self.feeds.items()]
        graph = helper.make_graph(
            self.nodes, "microbenchmark", inputs, [helper.make_empty_tensor_value_info(output)], self.weights
        )
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in DOMAINS)]
        return Microbenchmark(kernel, name, helper.make_model(graph, opset_imports=opsets, ir_version=10), self.feeds)


def repeats(work: float, budget: float, most: int) -> int:
    """How often to repeat something of `work` for about `budget` in all: at least once, at most `most` times."""
    return int(max(1, min(most, budget / max(work, 1.0))))


@cache
def _noise() -> np.ndarray:
    """A million normal numbers, repeated where more are needed: drawing each weight afresh took a third of a calibration's time."""
    return np.random.default_rng(0).standard_normal(_NOISE).astype(np.float32)


@cache
def _integers(high: int) -> np.ndarray:
    """As many integers in [0, high)."""
    return np.random.default_rng(1).integers(0, high, _NOISE, np.int32)


def _element(dtype: np.dtype) -> int:
    return helper.np_dtype_to_tensor_dtype(dtype)
