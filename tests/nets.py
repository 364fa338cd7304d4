"""`NetBuilder`: nets written by hand, one call an op, with shapes worked out for the few kinds the finders read."""

import math

import numpy as np

from szilard.cost_model.net import Net, Op, Value


class NetBuilder:
    """Each method adds one op and gives the name of its output; `net(...)` closes the graph."""

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = dtype
        self.ops: dict[str, Op] = {}
        self.values: dict[str, Value] = {}
        self.inputs: list[str] = []
        self.random = np.random.default_rng(0)

    def input(self, name: str, *shape: int, dtype: str | None = None) -> str:
        self.values[name] = Value(name, shape, dtype or self.dtype)
        self.inputs.append(name)
        return name

    def constant(self, name: str, array) -> str:
        array = np.asarray(array)
        self.values[name] = Value(name, array.shape, str(array.dtype), lambda: array)
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, self.random.standard_normal(shape).astype(self.dtype))

    def number(self, value: float) -> str:
        return self.constant(f"number_{len(self.values)}", np.asarray(value, self.dtype))

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.values[name].shape
        assert shape is not None
        return shape

    def op(
        self,
        kind: str,
        *inputs: str,
        shape=None,
        id: str = "",
        origin: str = "",
        dtype: str = "",
        outputs=1,
        branches=(),
        **attributes,
    ):
        """Any op; `shape` defaults to the broadcast of the operands."""
        if shape is None:
            shape = np.broadcast_shapes(*(self.shape(name) for name in inputs if name))
        name = id or f"{kind}_{len(self.ops)}"
        names = (name, *(f"{name}.{index}" for index in range(1, outputs)))
        dtype = dtype or next(
            (self.values[i].dtype for i in reversed(inputs) if i and self.values[i].dtype != "bool"), self.dtype
        )
        for output in names:
            self.values[output] = Value(output, tuple(shape), dtype)
        self.ops[name] = Op(name, kind, f"test.{kind}", inputs, names, attributes, origin, branches)
        return name

    def matmul(self, a: str, b: str, bias: str = "", transpose_b: bool = False, **more):
        left, right = self.shape(a), self.shape(b)
        right = (*right[:-2], right[-1], right[-2]) if transpose_b else right
        shape = (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])
        names = (a, b, bias) if bias else (a, b)
        return self.op(
            "matmul", *names, shape=shape, transpose_a=False, transpose_b=transpose_b, **{"alpha": 1.0, "beta": 1.0, **more}
        )

    def reshape(self, x: str, *shape: int, **more):
        if -1 in shape:
            rest = math.prod(self.shape(x)) // -math.prod(shape)
            shape = tuple(rest if size == -1 else size for size in shape)
        return self.op("reshape", x, shape=shape, **more)

    def transpose(self, x: str, *perm: int, **more):
        return self.op("transpose", x, shape=[self.shape(x)[axis] for axis in perm], perm=list(perm), **more)

    def expand(self, x: str, *shape: int):
        return self.op("expand", x, shape=shape)

    def softmax(self, x: str, axis: int = -1, **more):
        return self.op("softmax", x, axis=axis, **more)

    def layer_norm(self, x: str, weight: str, bias: str = "", axis: int = -1, **more):
        names = (x, weight, bias) if bias else (x, weight)
        return self.op("layer_norm", *names, shape=self.shape(x), axis=axis, epsilon=1e-5, **more)

    def net(self, *outputs: str) -> Net:
        return Net(self.ops, self.values, tuple(self.inputs), outputs)
