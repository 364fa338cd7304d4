"""Each operator's plain form is the same call: values, dtypes and shapes to the last bit, on arguments of every kind it takes."""

import math
import operator

import pytest
import torch
import torch.nn.functional as F

from szilard.cost_model.errors import InputError
from szilard.rewriter.print_ops import FIRST_OF_SEVERAL, OPERATORS, literal, written

aten = torch.ops.aten


def tensor(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def size(*shape):
    return torch.tensor(shape)


A, B, POSITIVE, BITS = tensor(3, 4, 5), tensor(3, 4, 5, seed=1), tensor(3, 4, 5).abs() + 0.1, tensor(3, 4, 5) > 0
IMAGE, ROWS = tensor(2, 6, 9, 7), tensor(6, 8)
WORDS = torch.tensor([[1, 0, 3], [2, 2, 1]])

SIGNS = ["add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge"]
NAMES = "abs cos sin exp sigmoid tanh erf floor ceil isnan isinf logical_not relu silu hardswish hardsigmoid neg clone"
UNARY = [getattr(aten, name).default for name in NAMES.split(" ")]

CASES = [
    *((getattr(aten, name).Tensor, (A, B), {}) for name in SIGNS),
    *((getattr(aten, name).Tensor, (A, 2.5), {}) for name in ("add", "mul", "sub", "div")),
    *((getattr(aten, name).Scalar, (A, -1), {}) for name in SIGNS),
    (aten.add.Tensor, (A, B), {"alpha": 2}),
    *((target, (A,), {}) for target in UNARY),
    *((getattr(aten, name).default, (POSITIVE,), {}) for name in ("log", "sqrt", "rsqrt", "reciprocal")),
    *((getattr(aten, name).default, (A, B), {}) for name in ("maximum", "minimum", "logical_and", "logical_or")),
    *((getattr(aten, name).Tensor, (BITS, ~BITS), {}) for name in ("bitwise_and", "bitwise_or", "bitwise_xor")),
    (aten.bitwise_not.default, (BITS,), {}),
    (aten.gelu.default, (A,), {}),
    (aten.gelu.default, (A,), {"approximate": "tanh"}),
    (aten.leaky_relu.default, (A, 0.3), {}),
    (aten.pow.Tensor_Scalar, (POSITIVE, -1.5), {}),
    (aten.where.self, (BITS, A, B), {}),
    (aten.clamp.default, (A, None, 0.5), {}),
    (aten.clamp.default, (A, -1, 1), {}),
    (aten.mm.default, (A[0], B[0].t()), {}),
    (aten.bmm.default, (A, B.transpose(1, 2)), {}),
    (aten.matmul.default, (A, B.transpose(1, 2)), {}),
    (aten.linear.default, (A, ROWS[:, :5], ROWS[:, 0]), {}),
    (aten.addmm.default, (B[0, :, 0], A[0], B[0].t()), {}),
    (aten.addmm.default, (B[0, :, 0], A[0], B[0].t()), {"beta": 0.5, "alpha": 2}),
    (aten.baddbmm.default, (A[:, :, :4], A, B.transpose(1, 2)), {}),
    (aten.cat.default, ([A, B], 1), {}),
    (aten.stack.default, ([A, B], -1), {}),
    (aten.gather.default, (A, 2, WORDS[:, :, None].expand(2, 3, 2)), {}),
    (aten.cumsum.default, (A, 1), {}),
    (aten.clone.default, (A.transpose(0, 1),), {"memory_format": torch.contiguous_format}),
    (aten.reshape.default, (A, [3, -1]), {}),
    (aten.view.default, (A, [60]), {}),
    (aten.permute.default, (A, [2, 0, 1]), {}),
    (aten.expand.default, (A[:, :1], [3, 4, -1]), {}),
    (aten.transpose.int, (A, -1, 0), {}),
    (aten.unsqueeze.default, (A, -2), {}),
    (aten.squeeze.dim, (A[:, :1], 1), {}),
    (aten.squeeze.dims, (A[:, :1, :1], [1, 2]), {}),
    (aten.select.int, (A, 1, -1), {}),
    (aten.slice.Tensor, (A, 2, 1, 4), {}),
    (aten.slice.Tensor, (A, 1, 0, 2**63 - 1, 2), {}),
    (aten.slice.Tensor, (A, -1, -2, 2**63 - 1), {}),
    (aten.slice.Tensor, (A, -2, 1, 3), {}),
    (aten.slice.Tensor, (A, 0), {}),
    (aten.repeat.default, (A, [2, 1, 1, 3]), {}),
    (aten.constant_pad_nd.default, (A, [1, 0, 2, 3], -2.5), {}),
    (aten.constant_pad_nd.default, (A, [-1, 1]), {}),
    (aten.full_like.default, (A, 3), {"dtype": torch.int64}),
    (aten.hardtanh.default, (A,), {}),
    (aten.hardtanh.default, (A, 0.0, 0.6), {}),
    (aten.slice.Tensor, (A, 0, None, -1), {}),
    (aten.index.Tensor, (A, [None, WORDS[0]]), {}),
    (aten.index.Tensor, (A, [WORDS[0][:2], None, WORDS[1][:2]]), {}),
    (aten.mean.dim, (A, [-1], True), {}),
    (aten.mean.dim, (A, [0, 2]), {"dtype": torch.float64}),
    (aten._to_copy.default, (A,), {"dtype": torch.int32}),
    (aten._to_copy.default, (A,), {"dtype": torch.float16, "memory_format": torch.contiguous_format}),
    (aten.embedding.default, (ROWS, WORDS), {}),
    (aten.embedding.default, (ROWS, WORDS, 0), {}),
    (aten.convolution.default, (IMAGE, tensor(4, 3, 3, 2), tensor(4), [2, 1], [1, 0], [1, 2], False, [0, 0], 2), {}),
    (aten.convolution.default, (IMAGE[:, :, 0], tensor(4, 6, 3), None, [1], [1], [1], False, [0], 1), {}),
    (aten.convolution.default, (IMAGE, tensor(6, 2, 3, 3), tensor(4), [2, 2], [1, 1], [1, 1], True, [1, 0], 2), {}),
    (aten._softmax.default, (A, 1, False), {}),
    (aten._softmax.default, (A.half(), 1, False), {}),
    (aten._log_softmax.default, (A, -1, False), {}),
    (aten.native_layer_norm.default, (A, [4, 5], tensor(4, 5), tensor(4, 5), 1e-3), {}),
    (aten.native_group_norm.default, (IMAGE, tensor(6), tensor(6), 2, 6, 63, 3, 1e-5), {}),
    (
        aten._native_batch_norm_legit_no_training.default,
        (IMAGE, tensor(6), tensor(6), tensor(6), tensor(6).abs(), 0.1, 1e-3),
        {},
    ),
    (aten.max_pool2d_with_indices.default, (IMAGE, [3, 2], [2, 2], [1, 1], [1, 1], True), {}),
    (aten.scaled_dot_product_attention.default, (IMAGE, IMAGE, IMAGE), {"scale": 0.3}),
    (aten.scaled_dot_product_attention.default, (IMAGE, IMAGE, IMAGE, tensor(9, 9), 0.0, False), {}),
    (aten.scaled_dot_product_attention.default, (IMAGE, IMAGE, IMAGE, None, 0.0, True), {}),
    (aten.scaled_dot_product_attention.default, (IMAGE, IMAGE[:, :2], IMAGE[:, :2]), {"enable_gqa": True}),
    (aten.arange.start_step, (0, 7), {}),
    (aten.arange.start_step, (2, 9, 3), {"dtype": torch.float32}),
    (aten.full.default, ([2, 3], -math.inf), {"dtype": torch.float64}),
    (aten.full.default, ([], True), {}),
    (aten.scalar_tensor.default, (-3.5,), {"dtype": torch.float32}),
    (aten.split_with_sizes.default, (A, [2, 3], -1), {}),
    (aten.split.Tensor, (A, 2, 2), {}),
    (aten.topk.default, (A, 2, 1), {}),
    (aten.sym_size.int, (A, 1), {}),
    (operator.floordiv, (7, 2), {}),
    (operator.neg, (7,), {}),
]


def text(value, names):
    """A value as it stands in printed code: tensors by name."""
    if isinstance(value, torch.Tensor):
        names[f"t{len(names)}"] = value
        return f"t{len(names) - 1}"
    if isinstance(value, list):
        return f"[{', '.join(text(each, names) for each in value)}]"
    return literal(value)


@pytest.mark.parametrize(("target", "arguments", "keywords"), CASES, ids=lambda value: str(value) if callable(value) else "")
def test_the_plain_form_is_the_same_call(target, arguments, keywords):
    names: dict = {}
    shown = written(
        target, [text(each, names) for each in arguments], {key: text(each, names) for key, each in keywords.items()}
    )
    found = eval(shown, {"torch": torch, "F": F, "aten": aten, "math": math, "operator": operator, **names})
    wanted = target(*arguments, **keywords)
    if target in FIRST_OF_SEVERAL:
        wanted = wanted[0]
    pairs = zip(found, wanted, strict=True) if isinstance(wanted, (tuple, list)) else [(found, wanted)]
    for a, b in pairs:
        if isinstance(b, torch.Tensor):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), shown
            assert torch.equal(a.nan_to_num(), b.nan_to_num()) if b.is_floating_point() else torch.equal(a, b), shown
        else:
            assert a == b, shown


def test_every_writer_is_tried():
    tried = {target for target, _, _ in CASES}
    plain = {operator.add, operator.sub, operator.mul, operator.truediv, operator.mod, operator.getitem}
    assert set(OPERATORS) - tried - plain == set()


def test_what_has_no_plain_form_is_called_by_its_aten_name():
    assert written(aten.add.Tensor, ["a", "b"], {"alpha": "2"}) == "aten.add.Tensor(a, b, alpha=2)"
    assert written(aten.slice.Tensor, ["a", "-2", "1"], {}) == "aten.slice.Tensor(a, -2, 1)"
    assert written(aten._softmax.default, ["a", "1", "True"], {}) == "aten._softmax.default(a, 1, True)"
    assert written(torch.sym_max, ["a", "b"], {}) == "torch.sym_max(a, b)"
    assert written(math.ceil, ["a"], {}) == "math.ceil(a)"
    with pytest.raises(InputError, match="no name in plain PyTorch"):
        written(text, ["a"], {})


def test_sums_of_sizes_keep_their_brackets():
    inner = written(operator.add, ["a", "b"], {})
    assert written(operator.mul, [inner, "c"], {}) == "(a + b) * c"


def test_literals_are_read_back_as_they_were():
    for value in (
        1e-45,
        -0.0,
        math.inf,
        -math.inf,
        torch.bfloat16,
        torch.strided,
        torch.device("cpu"),
        "tanh",
        None,
        True,
        2**63 - 1,
    ):
        back = eval(literal(value), {"torch": torch, "math": math})
        assert repr(back) == repr(value)
    assert math.isnan(eval(literal(math.nan), {"math": math}))
