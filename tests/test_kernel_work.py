"""Which kernel an op runs as, and what its time is linear in; microbenchmarks (of microbenchmarks_dense.py, microbenchmarks_conv.py and
microbenchmarks_elementwise.py) must run the kernel that they are named for."""

import onnx_ir as ir
import pytest

from szilard.cost_model.device import TIME_UNITS, load_device
from szilard.cost_model.kernel_work import RUN, kernel_name, net_work, total_work
from szilard.cost_model.view_onnx import view_onnx
from szilard.rewriter.microbenchmark_graph import Chain, Microbenchmark
from szilard.rewriter.microbenchmarks import counted, microbenchmarks

CACHES = (1e6, 8e6)
MS, BLOCKED = "com.microsoft::", "com.microsoft.nchwc::"


def work(benchmark: Microbenchmark, caches: tuple[float, float] = CACHES) -> dict[str, tuple[str, dict[str, float]]]:
    shapes = {name: tuple(array.shape) for name, array in benchmark.feeds.items()}
    return net_work(view_onnx(ir.from_proto(benchmark.model), shapes, dict(benchmark.feeds)), caches)


def only(benchmark: Microbenchmark, caches: tuple[float, float] = CACHES) -> tuple[str, dict[str, float]]:
    return work(benchmark, caches)["n0"]


def product(rows: int = 4, inside: int = 8, outputs: int = 16, constant: bool = True) -> Microbenchmark:
    chain = Chain()
    other = chain.weight(inside, outputs) if constant else None
    x = chain.input(rows, inside)
    return chain.done("matmul", "", chain.node("MatMul", x, other or chain.input(inside, outputs)))


def test_a_product_by_weights_counts_flops_activations_and_weights():
    kernel, found = only(product())
    assert kernel == "matmul"
    assert found == {"call": 1, "flop": 2 * 4 * 8 * 16, "near_byte": 4 * (4 * 8 + 4 * 16), "cached_weight_byte": 4 * 8 * 16}


def test_a_product_of_activations_is_another_kernel_without_weights():
    kernel, found = only(product(constant=False))
    assert kernel == "matmul.activations"
    assert found["near_byte"] == 4 * (4 * 8 + 8 * 16 + 4 * 16)
    assert not any("weight" in feature for feature in found)


@pytest.mark.parametrize(
    ("caches", "level", "weights"),
    [
        ((1e6, 8e6), "near_byte", "cached_weight_byte"),
        ((100, 8e6), "cached_byte", "cached_weight_byte"),
        ((100, 300), "memory_byte", "memory_weight_byte"),
    ],
)
def test_bytes_go_where_they_fit(caches, level, weights):
    _, found = only(product(), caches)
    assert set(found) == {"call", "flop", level, weights}


def convolution(
    channels: int, out: int, groups: int = 1, kernel: int = 3, blocked: bool = True, stride: int = 1
) -> Microbenchmark:
    chain = Chain()
    x, weight = chain.input(2, channels, 16, 16), chain.weight(out, channels // groups, kernel, kernel)
    options = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": groups}
    return chain.done("conv", "", chain.node(f"{BLOCKED}Conv" if blocked else "Conv", x, weight, **options))


@pytest.mark.parametrize(
    ("benchmark", "kernel"),
    [
        (convolution(32, 32, groups=32), "conv.depthwise"),
        (convolution(32, 64, kernel=1), "conv.pointwise"),
        (convolution(32, 64, kernel=1, stride=2), "conv.direct"),
        (convolution(32, 64), "conv.direct"),
        (convolution(3, 16), "conv.image"),
        (convolution(32, 64, blocked=False), "conv.gemm"),
    ],
)
def test_each_convolution_has_a_kernel_of_its_own(benchmark, kernel):
    assert only(benchmark)[0] == kernel


def test_a_convolution_that_unfolds_its_input_starts_once_for_each_image_and_group():
    assert only(convolution(32, 64, groups=4, blocked=False))[1]["call"] == 2 * 4


def test_broadcast_operands_and_rows_that_stay_whole_have_laws_of_their_own():
    chain = Chain()
    x, row = chain.input(6, 8), chain.input(8)
    moved = chain.node("Transpose", chain.node("Add", x, row), perm=[1, 0])
    found = work(chain.done("", "", chain.node("Add", moved, moved)))
    assert [kernel for kernel, _ in found.values()] == ["add.broadcast", "transpose.elements", "add"]


def test_views_cost_a_call_and_branches_that_are_taken_are_counted():
    chain = Chain()
    x, yes = chain.input(4, 4), chain.input(1, dtype="bool")
    found = work(chain.done("", "", chain.branch(yes, chain.node("Reshape", x, chain.constant([16], "int64")))))
    assert found["n0"] == ("view", {"call": 1.0})
    assert [kernel for kernel, _ in found.values()].count("if") == 1
    assert len(found) == 3


def test_a_scan_and_its_body_are_called_once_for_each_slice():
    chain = Chain()
    found = list(work(chain.done("", "", chain.scan(chain.input(7, 10)))).values())
    assert found == [("scan", {"call": 7}), ("neg", {"call": 7, "near_byte": 7 * 80})]


def test_the_work_of_a_call_sums_ops_of_one_kernel_and_holds_one_run():
    chain = Chain()
    x = chain.input(100)
    total = total_work(work(chain.done("", "", chain.node("Neg", chain.node("Neg", x)))))
    own = {key: amount for key, amount in total.items() if key.startswith("neg.")}
    assert own == {"neg.call": 2, "neg.near_byte": 4 * 400}
    assert total[f"{RUN}.call"] == 1


def test_every_feature_has_a_unit():
    benchmarks = (product(), convolution(32, 64))
    assert all(feature in TIME_UNITS for each in benchmarks for _, found in work(each).values() for feature in found)


_SAME = (
    *("matmul", "matmul.activations", "attention", "lstm", "softmax", "layer_norm", "rms_norm", "gelu.bias"),
    *("conv.pointwise", "conv.direct", "conv.depthwise", "conv.image", "conv.gemm", "conv.transposed"),
    *("reorder", "embedding", "gather", "reduce"),
)
NAMED = {
    **{kernel: {kernel} for kernel in _SAME},
    "matmul_integer": {"matmul_integer"},
    "matmul_integer.static": {"matmul_integer_to_float.static"},
    "matmul_integer.dynamic": {"matmul_integer_to_float.dynamic"},
    "cast": {"cast"},
}
"""The kernels that benchmarks of these names must run."""


def check(benchmark: Microbenchmark) -> None:
    row = counted(benchmark, load_device("cpu"), [8e6])
    kernels = {key.rpartition(".")[0] for key in row["kernels"]["8000000.0"]}
    refined = {kernel.removesuffix(".signed").removesuffix(".unsigned") for kernel in kernels} | {
        k.partition(".")[0] for k in kernels
    }
    assert NAMED.get(benchmark.kernel, set()) <= refined, (benchmark.name, kernels)
    assert all(amount > 0 for amount in row["work"].values())
    assert not any(kernel.startswith("other:") for kernel in kernels), kernels


def test_small_microbenchmarks_run_the_kernel_that_they_are_named_for():
    seen: dict[str, Microbenchmark] = {}
    for benchmark in microbenchmarks():
        if benchmark.model.ByteSize() + sum(array.nbytes for array in benchmark.feeds.values()) < 300_000:
            seen.setdefault(benchmark.kernel, benchmark)
    assert len(seen) > 20
    for benchmark in list(seen.values())[::2]:
        check(benchmark)


@pytest.mark.long
def test_all_microbenchmarks_run_the_kernel_that_they_are_named_for():
    names = set()
    for benchmark in microbenchmarks():
        assert (benchmark.kernel, benchmark.name) not in names, "a name stands for two benchmarks"
        names.add((benchmark.kernel, benchmark.name))
        if benchmark.model.ByteSize() < 20e6:  # the largest differ in how often they repeat what smaller ones do
            check(benchmark)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_unsigned_weights_have_laws_of_their_own(dtype):
    chain = Chain()
    x, weight, zero = chain.input(3, 8, dtype="uint8", high=255), chain.weight(8, 4, dtype=dtype), chain.constant(128, "uint8")
    kernel, found = only(chain.done("", "", chain.node("MatMulInteger", x, weight, zero)))
    assert kernel == f"matmul_integer.{'unsigned' if dtype == 'uint8' else 'signed'}"
    assert found["flop"] == 2 * 3 * 8 * 4
    assert found["cached_weight_byte"] == 8 * 4 + 1, "the zero point is a constant too"


def test_a_cast_is_named_by_both_dtypes_in_either_direction():
    chain = Chain()
    x = chain.input(4)
    found = work(chain.done("", "", chain.node("Cast", chain.node("Cast", x, to=10), to=1)))
    assert [kernel for kernel, _ in found.values()] == ["cast.float16-float32"] * 2


def test_an_op_has_one_kernel_whatever_its_operands_are_called():
    net = view_onnx(ir.from_proto(product().model), {"x0": (4, 8)})
    assert [kernel_name(op, net) for op in net.ops.values()] == ["matmul"]
