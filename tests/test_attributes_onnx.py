"""Native nodes get the same kind, operands and attributes in every opset. Covers kinds_onnx.py and node_facts.py."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from szilard.cost_model.node_facts import back, front
from szilard.cost_model.view_onnx import view_onnx

X = "float[2,3,4,5] x"


def op_of(body: str, inputs: str = X, weights=None, opset: int = 18, shapes=None):
    """The op that `body` ("y = Relu(x)") becomes."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> g ({inputs}) => (y) {{ {body} }}'
    proto = onnx.parser.parse_model(text.replace("float[", "float ["))
    proto.graph.node[-1].name = "site"
    for index, node in enumerate(proto.graph.node[:-1]):
        node.name = f"before_{index}"
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items())
    net = view_onnx(ir.from_proto(proto), shapes or {})
    return net.ops["site"]


@pytest.mark.parametrize(
    ("body", "opset", "weights", "expected"),
    [
        ("y = ReduceMean<axes=[1,-1], keepdims=0>(x)", 13, {}, {"axes": [-3, -1], "keepdims": False}),
        ("y = ReduceMean(x, a)", 18, {"a": [1, -1]}, {"axes": [-3, -1], "keepdims": True}),
        ("y = ReduceSum(x, a)", 13, {"a": [2]}, {"axes": [-2], "keepdims": True}),
        ("y = ReduceSum(x)", 13, {}, {"axes": [-4, -3, -2, -1], "keepdims": True}),
        ("y = ReduceSum<noop_with_empty_axes=1>(x)", 13, {}, {"axes": [], "keepdims": True}),
        ("y = ArgMax<axis=1>(x)", 13, {}, {"axes": [-3], "keepdims": True}),
        ("y = Softmax<axis=3>(x)", 11, {}, {"axis": -1}),
        ("y = Softmax(x)", 11, {}, {"axis": -3, "flattened": True}),
        ("y = Softmax(x)", 13, {}, {"axis": -1}),
        ("y = LogSoftmax<axis=1>(x)", 13, {}, {"axis": -3}),
        ("y = Clip<min=-1.0, max=2.0>(x)", 6, {}, {"min": -1.0, "max": 2.0}),
        ("y = Clip(x, , b)", 11, {"b": np.float32(2)}, {"max": 2.0}),
        ("y = Transpose(x)", 13, {}, {"perm": [3, 2, 1, 0]}),
        ("y = Transpose<perm=[0,2,1,3]>(x)", 13, {}, {"perm": [0, 2, 1, 3]}),
        ("y = Squeeze<axes=[-4]>(x)", 11, {}, {"axes": [0]}),
        ("y = Unsqueeze<axes=[0,-1]>(x)", 11, {}, {"axes": [0, 5]}),
        ("y = Unsqueeze(x, a)", 13, {"a": [-1]}, {"axes": [4]}),
        ("y = Concat<axis=-1>(x, x)", 13, {}, {"axis": 3}),
        ("y = Gather<axis=-1>(x, i)", 13, {"i": [0, 1]}, {"axis": 3}),
        ("y = Flatten<axis=2>(x)", 13, {}, {"shape": (6, 20)}),
        ("y = Reshape(x, s)", 13, {"s": [0, -1]}, {"shape": (2, 60)}),
        ("y = Gelu<approximate=\"tanh\">(x)", 20, {}, {"approximate": "tanh"}),
        ("y = com.microsoft.FastGelu(x)", 18, {}, {"approximate": "tanh"}),
        ("y = com.microsoft.QuickGelu(x)", 18, {}, {"alpha": 1.702}),
        ("y = LayerNormalization<axis=2>(x, w, w)", 17, {"w": np.ones((4, 5), np.float32)}, {"axis": -2, "epsilon": 1e-5}),
        ("y = Cast<to=7>(x)", 13, {}, {"to": "int64"}),
    ],
)  # fmt: skip
def test_attributes_are_canonical(body, opset, weights, expected):
    found = op_of(body, weights=weights, opset=opset).attributes
    assert {name: pytest.approx(value) if isinstance(value, float) else value for name, value in expected.items()} == found


@pytest.mark.parametrize(
    ("body", "opset", "weights"),
    [
        ("y = Slice<axes=[-1], starts=[1], ends=[4]>(x)", 9, {}),
        ("y = Slice(x, s, e, a)", 10, {"s": [1], "e": [4], "a": [-1]}),
    ],
)
def test_a_slice_of_one_axis_names_it(body, opset, weights):
    found = op_of(body, weights=weights, opset=opset).attributes
    assert (found["axis"], found["start"], found["end"], found["step"]) == (3, 1, 4, 1)


def test_a_slice_with_computed_bounds_says_so():
    op = op_of("s = Shape(x) t = Gather(s, i) u = Unsqueeze(t, z) y = Slice(x, z, u, a)", weights={"i": 1, "z": [0], "a": [2]})
    assert op.attributes["start"] == 0
    assert op.attributes["end"] is None


@pytest.mark.parametrize(
    ("opset", "weights", "body"), [(11, {}, "<axis=1, split=[1,2]>(x)"), (13, {"s": [1, 2]}, "<axis=1>(x, s)")]
)
def test_split_sizes(opset, weights, body):
    assert op_of(f"z, y = Split{body}", weights=weights, opset=opset).attributes == {"axis": 1, "sizes": [1, 2]}


def test_split_into_equal_parts_reads_its_sizes_off_the_outputs():
    assert op_of("z, y = Split<axis=2>(x)", opset=13).attributes["sizes"] == [2, 2]


@pytest.mark.parametrize(
    ("mode", "pads"),
    [("SAME_UPPER", [0, 1, 1, 1]), ("SAME_LOWER", [1, 1, 0, 1]), ("VALID", [0, 0, 0, 0]), ("NOTSET", [0, 0, 0, 0])],
)
def test_automatic_padding_is_worked_out(mode, pads):
    body = f'y = Conv<auto_pad="{mode}", strides=[2,1]>(x, w)'
    op = op_of(body, weights={"w": np.ones((6, 3, 3, 3), np.float32)})
    assert op.attributes["pads"] == pads
    assert op.attributes["groups"] == 1
    assert not op.attributes["transposed"]


def test_gemm_and_matmul_are_one_kind():
    two = "float[2,3] x"
    gemm = op_of("y = Gemm<transB=1, alpha=0.5>(x, w, b)", two, {"w": np.ones((7, 3), np.float32), "b": np.ones(7, np.float32)})
    matmul = op_of("y = MatMul(x, w)", two, {"w": np.ones((3, 7), np.float32)})
    assert gemm.kind == matmul.kind == "matmul"
    assert gemm.inputs == ("x", "w", "b")
    assert gemm.attributes == {"transpose_a": False, "transpose_b": True, "alpha": 0.5, "beta": 1.0}
    assert matmul.attributes == {"transpose_a": False, "transpose_b": False, "alpha": 1.0, "beta": 1.0}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("y = Sum(x)", "identity"),
        ("y = Sum(x, x)", "add"),
        ("y = Trilu<upper=0>(x)", "tril"),
        ("y = Trilu(x)", "triu"),
        ("y = Mish(x)", "other:Mish"),
        ("y = com.microsoft.BiasGelu(x, x)", "gelu"),
        ("y = com.microsoft.Unheard(x)", "other:com.microsoft::Unheard"),
        ("y = ConstantOfShape(s)", "constant_of_shape"),
    ],
)
def test_kinds(body, kind):
    assert op_of(body, weights={"s": [2, 3]} if "(s)" in body else None).kind == kind


def test_rows_of_a_constant_table_are_an_embedding():
    table = {"w": np.ones((9, 4), np.float32)}
    assert op_of("y = Gather(w, i)", "int64[2,3] i".replace("[", " ["), table).kind == "embedding"
    assert op_of("y = Gather<axis=1>(w, i)", "int64 [2] i", table).kind == "gather"
    assert op_of("y = Gather(x, i)", "float[9,4] x, int64 [2] i").kind == "gather"


def test_axes_can_be_counted_from_either_end():
    assert (front(-1, 4), front(2, 4), front(-1, None)) == (3, 2, -1)
    assert (back(3, 4), back(-2, 4), back(3, None)) == (-1, -2, 3)
