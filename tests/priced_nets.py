"""`net_of`: a small net from one line an op, for tests of counts and prices."""

from collections.abc import Mapping, Sequence

import numpy as np

from szilard.cost_model.net import Net, Op, Value

Line = tuple[str, Sequence[str], Sequence[str]] | tuple[str, Sequence[str], Sequence[str], Mapping]


def net_of(
    shapes: Mapping[str, tuple[int, ...] | None],
    lines: Sequence[Line],
    constants: Sequence[str] = (),
    outputs: Sequence[str] | None = None,
    dtypes: Mapping[str, str | None] | None = None,
    branches: Mapping[str, tuple[Net, ...]] | None = None,
) -> Net:
    """Ops "op0", "op1", ... of (kind, inputs, outputs[, attributes]); values are float32 unless `dtypes` says otherwise. What no op
    writes and is no constant is an input; outputs default to what nobody reads."""
    values = {}
    for name, shape in shapes.items():
        load = (lambda shape=shape: np.ones(shape, np.float32)) if name in constants else None
        values[name] = Value(name, shape, (dtypes or {}).get(name, "float32"), load)
    ops = {}
    for number, (kind, inputs, written, *attributes) in enumerate(lines):
        name = f"op{number}"
        inner = (branches or {}).get(name, ())
        ops[name] = Op(name, kind, kind, tuple(inputs), tuple(written), attributes[0] if attributes else {}, branches=inner)
    made = {name for op in ops.values() for name in op.outputs}
    read = {name for op in ops.values() for name in op.inputs}
    inputs = tuple(name for name in shapes if name not in made and name not in constants)
    left = tuple(name for name in shapes if name in made and name not in read)
    return Net(ops, values, inputs, tuple(outputs) if outputs is not None else left)
