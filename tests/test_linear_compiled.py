"""The kernels of low-bit linear layers, compiled ahead of time for GPUs that are not here, in every configuration of the shipped tables."""

import re
import zlib

import pytest

pytest.importorskip("triton")

from . import linear_compiled
from .ahead_of_time import MOST_SHARED, compiled, inspector, taken
from .conftest import commit_of

CONFIGURATIONS = linear_compiled.configurations()
NAMES = ["{} {}, group {}, {}, ".format(*each[:2], *each[3:]) + "x".join(map(str, each[2].values())) for each in CONFIGURATIONS]
needs_inspector = pytest.mark.skipif(not inspector(), reason="this build of triton brings no cuobjdump: spills cannot be read")


def check(found, architecture):
    assert found.stack == 0, f"registers spill: {found}"
    assert found.shared <= MOST_SHARED[architecture] * 1024, found


@pytest.fixture
def sampled(request):
    """All of what it is given where all long tests run, else one that the commit chooses."""
    everything = request.config.getoption("all_long")
    seed = zlib.crc32(f"{commit_of(request.config.rootpath)} {request.node.name}".encode())
    return lambda items: items if everything else [items[seed % len(items)]]


@needs_inspector
@pytest.mark.long(share=0.05)
@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=NAMES)
def test_every_shipped_configuration_compiles_without_spills(configuration, sampled):
    for architecture in sampled(list(MOST_SHARED)):
        check(linear_compiled.spent(*configuration, architecture), architecture)


@needs_inspector
@pytest.mark.long(share=0.01)
@pytest.mark.parametrize(
    "changes", [{"split": True}, {"split": True, "atomic": True}, {"shift": False}, {"activation": "silu"}]
)
@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=NAMES)
def test_other_epilogues_do_not_spill_either(configuration, changes, sampled):
    for architecture in sampled(list(MOST_SHARED)):
        check(linear_compiled.spent(*configuration, architecture, **changes), architecture)


@needs_inspector
@pytest.mark.long
@pytest.mark.parametrize("dtype", linear_compiled.NAMES)
def test_the_sum_of_parts_and_the_rounding_of_rows_compile(dtype):
    for architecture in MOST_SHARED:
        check(taken(*linear_compiled.finish(dtype, architecture)), architecture)
        if architecture >= linear_compiled.FIRST_WITH_FP8:
            check(taken(*linear_compiled.rows(dtype, architecture)), architecture)


@needs_inspector
def test_a_configuration_that_spills_is_seen():
    tiles = {"BLOCK_N": 256, "BLOCK_K": 64, "STAGES": 1, "num_warps": 1, "num_stages": 1}
    assert linear_compiled.spent("int8", "gemv", tiles, 0, "float32", 90).stack > 0


def test_the_tables_have_all_ways_of_all_kernels():
    found = {each[:2] for each in CONFIGURATIONS}
    assert found == {(name, way) for name in linear_compiled.KERNELS for way in ("gemv", "tiled")}


FEW = {"BLOCK_N": 64, "BLOCK_K": 64, "STAGES": 2, "num_warps": 4, "num_stages": 2}


def test_the_deterministic_kernel_adds_nothing_to_memory_and_the_other_does():
    for atomic in (False, True):
        text = linear_compiled.assembly("int8", "gemv", FEW, 0, "float16", 90, split=True, atomic=atomic)
        assert bool(re.search(r"\b(atom|red)\.", text)) == atomic


def test_a_weight_of_four_bits_is_one_multiply_add_and_another_with_its_input():
    text = linear_compiled.assembly("int4", "gemv", FEW, 64, "float16", 90, activation="none")
    weights = len(re.findall(r"cvt\.rn\.f32\.[us]\d+", text))
    assert weights == 64 * 64 // (4 * 32)
    assert 2 * weights <= len(re.findall(r"fma\.rn\.f32", text)) <= 2 * weights + 4
    assert len(re.findall(r"mul\.(rn\.)?f32", text)) < weights


@pytest.mark.long
def test_hopper_multiplies_rows_and_weights_in_fp8():
    tiles = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64, "GROUP_M": 4, "num_warps": 4, "num_stages": 3}
    assert re.search(r"wgmma\S*e4m3\.e4m3", linear_compiled.assembly("fp8 rows", "tiled", tiles, 0, "bfloat16", 90))
    assert "e4m3" not in linear_compiled.assembly("fp8 rows", "tiled", tiles, 0, "bfloat16", 80)


def test_rounding_to_fp8_keeps_what_is_no_number():
    text = compiled(*linear_compiled.rows("float32", 90)).asm["ptx"]
    for bound in ("max", "min"):
        assert re.search(rf"\b{bound}\.NaN\.\S*f32", text)


SIZES = ("rows", "columns", "features", "steps")


def test_the_parts_of_one_row_are_added_too():
    for size in ("rows", "columns"):
        assert compiled(*linear_compiled.finish("float16", 90, **{size: 1})).asm["ptx"]


@pytest.mark.long(share=0.2)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "way"), [(kernel, way) for kernel in linear_compiled.KERNELS for way in ("gemv", "tiled")])
def test_kernels_take_a_size_of_one(kernel, way, size):
    tiles = next(each[2] for each in CONFIGURATIONS if each[:2] == (kernel, way))
    group = linear_compiled.GROUPS[kernel][-1]
    found, pointers, constants, architecture = linear_compiled.compilation(kernel, way, tiles, group, "float16", 90)
    assert compiled(found, pointers, {**constants, size: 1}, architecture).asm["ptx"]
