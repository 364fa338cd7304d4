"""Nodes put in the place of others: names, readers, order, and what goes with the old ones."""

import numpy as np
import pytest

from szilard.cost_model.errors import InputError
from szilard.cost_model.sites import Region
from szilard.passes.onnx_pass import Surgeon, operation

from .onnx_graphs import assert_same, graph, kinds, run

TEXT = """(float[N,4] x) => (float[N,4] s, float[N,4] y) {
    h = Relu(v)
    p = Mul(x, h)
    s = Add(p, x)
    t = Tanh(s)
    y = Sub(s, t)
}"""
SITE = Region("site", "residual_norm", ("n1", "n2"), ("x", "h"), ("s",), "float32")


def model():
    return graph(TEXT, {"v": np.linspace(-1, 1, 4, dtype=np.float32)})


def test_replace_takes_over_name_readers_and_order():
    before, after = model(), model()
    surgeon = Surgeon(after)
    two = surgeon.constant("v", np.float32([1, 1, 1, 1]))
    assert two.name == "v.1"
    late = operation("Add", [surgeon.value("h"), two], "late")
    product = operation("Mul", [surgeon.value("x"), late.outputs[0]], "product")
    surgeon.replace([SITE], [product, late], {"s": product.outputs[0]})
    surgeon.close()
    assert kinds(after) == ["Add", "Mul", "Relu", "Sub", "Tanh"]
    assert [value.name for value in after.graph.outputs] == ["s", "y"]
    assert_same(before, after, {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)})
    assert not Surgeon(after).pending(SITE)


def test_what_nothing_reads_goes():
    after = model()
    surgeon = Surgeon(after)
    double = operation("Sum", [surgeon.value("x"), surgeon.value("x")], "double")
    surgeon.replace([SITE], [double], {"s": double.outputs[0]})
    surgeon.close()
    assert kinds(after) == ["Sub", "Sum", "Tanh"]
    assert not after.graph.initializers
    x = np.float32([[1, 2, 3, 4]])
    np.testing.assert_array_equal(run(after, {"x": x})[0], 2 * x)


def test_names_that_are_not_there():
    surgeon = Surgeon(model())
    with pytest.raises(InputError, match="no value 'z'"):
        surgeon.value("z")
    with pytest.raises(InputError, match="'h' is not a constant"):
        surgeon.array("h")
    stranger = Region("other", "residual_norm", ("n1", "n9"), (), ("s",), "float32")
    with pytest.raises(InputError, match="'n9', which the model does not have"):
        surgeon.pending(stranger)


def test_constants():
    surgeon = Surgeon(model())
    assert surgeon.scalar("v") is None
    assert surgeon.shared(np.float32([2]), "two") is surgeon.shared(np.float32([2]), "two")
    assert surgeon.scalar("szilard.two") == 2
    np.testing.assert_array_equal(surgeon.array("v"), np.linspace(-1, 1, 4, dtype=np.float32))
