"""The Triton kernels of spectral attention, compiled ahead of time for GPUs that are not here, in each configuration that is shipped."""

import zlib
from itertools import product

import pytest
import torch

pytest.importorskip("triton")

from szilard.kernels.spectral_attention import (
    triton_attend,
    triton_attend_backward,
    triton_causal_attend,
    triton_causal_backward,
    triton_causal_scores,
    triton_causal_tiles,
    triton_order,
    triton_scores,
    triton_tiles,
)
from szilard.kernels.spectral_attention.causal import LAYOUT, POWER_STEPS
from szilard.kernels.spectral_attention.reference import FLOOR, NEVER
from szilard.kernels.spectral_attention.triton_options import LOG2E
from szilard.kernels.spectral_attention.widths import MOST_WIDTH

from .ahead_of_time import MOST_SHARED, inspector, taken
from .conftest import commit_of

NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
WIDTHS = 16, 32, 64, 128, 256
NUMBERS = {
    "NEVER": NEVER,
    "LOG2E": LOG2E,
    "FLOOR": FLOOR,
    "TINY": triton_scores.TINY,
    "STORED": triton_scores.STORED,
    "WIDE": False,
}
WHOLE = ["leaf", "rank", "histogram", "ends", "order", "totals", "chosen", "budgets", "readers", "counts", "halved"]
PLAIN = [
    "codebook", "means", "variances", "mass", "logsum", "far", "delta", "d_queries", "d_mass", "d_keys", "d_values", "along", "spreads",
    "d_variances", "row_mass",
    "mean_queries", "scores",
]  # fmt: skip
OWN = [
    "x", "query", "key", "value", "queries", "gradients", "keys", "values", "key_means", "value_means", "slopes", "centres",
    "first_order", "share", "output",
]  # fmt: skip
KEYS = triton_attend_backward.keys_options
SORTED = triton_order.order_options
CAUSAL = triton_causal_scores.sizes_of(LAYOUT)
HALVED = {"STEPS": POWER_STEPS, "OTHERS": triton_causal_tiles.OTHERS, "SEGMENT": LAYOUT.segment}
KERNELS = {
    "assign": (triton_order.assign_kernel, lambda w, v, t, s, d: SORTED(w, d) | {"HAS_MASK": True}),
    "assign, no mask": (triton_order.assign_kernel, lambda w, v, t, s, d: SORTED(w, d) | {"HAS_MASK": False}),
    "tiles": (triton_tiles.key_tiles_kernel, lambda w, v, t, s, d: triton_tiles.tiles_options(w, v, s, d)),
    "centres": (triton_tiles.centres_kernel, lambda w, v, t, s, d: triton_tiles.centres_options(w, t) | {"ORDERED": True}),
    "moments": (triton_scores.moments_kernel, lambda w, v, t, s, d: triton_scores.moments_options(w, s, d)),
    "attend": (triton_attend.attend_kernel, lambda *a: triton_attend.attend_options(*a) | {"WHOLE": False}),
    "attend, whole": (triton_attend.attend_kernel, lambda *a: triton_attend.attend_options(*a) | {"WHOLE": True}),
    "queries": (triton_attend_backward.queries_kernel, triton_attend_backward.queries_options),
    "keys": (triton_attend_backward.keys_kernel, lambda *a: KEYS(*a) | {"FAR": False, "RANGED": False}),
    "means": (triton_attend_backward.keys_kernel, lambda *a: KEYS(*a) | {"FAR": True, "RANGED": False}),
    "keys, causal": (
        triton_attend_backward.keys_kernel, lambda w, v, t, s, d: KEYS(w, v, 64, LAYOUT.key_tile, d) | {"FAR": False, "RANGED": False}
    ),
    "means, causal": (triton_attend_backward.keys_kernel, lambda *a: KEYS(*a) | {"FAR": True, "RANGED": True}),
    "queries, causal": (
        triton_causal_backward.queries_causal_kernel,
        lambda w, v, t, s, d: CAUSAL | triton_causal_backward.queries_causal_options(w, v, 64, d),
    ),
    "centres as they stand": (
        triton_tiles.centres_kernel, lambda w, v, t, s, d: triton_tiles.centres_options(w, t) | {"ORDERED": False}
    ),
    "segments": (
        triton_causal_tiles.halve_kernel, lambda w, v, t, s, d: HALVED | triton_causal_tiles.halve_options(w, LAYOUT.segment)
    ),
    "last halves": (
        triton_causal_tiles.halve_kernel, lambda w, v, t, s, d: HALVED | triton_causal_tiles.halve_options(w, 2 * LAYOUT.key_tile)
    ),
    "causal tables": (
        triton_causal_tiles.tables_kernel,
        lambda w, v, t, s, d: triton_causal_tiles.tables_options(w, v, 64, d) | {"PIECE": 64, "KEY_TILE": 16},
    ),
    "causal scores": (
        triton_causal_scores.scores_kernel,
        lambda w, v, t, s, d: CAUSAL | triton_causal_scores.scores_options(d) | {"LOG_TILE": 4.0},
    ),
    "attend, causal": (
        triton_causal_attend.attend_causal_kernel,
        lambda w, v, t, s, d: CAUSAL | triton_causal_attend.attend_causal_options(w, v, 64, d),
    ),
}  # fmt: skip
needs_inspector = pytest.mark.skipif(not inspector(), reason="this build of triton brings no cuobjdump: spills cannot be read")


def spent(name, architecture, width, dtype, *, depth=None, tile=64, key_tile=None):
    """What a kernel takes in the configuration of a site."""
    kernel, options = KERNELS[name]
    chosen = options(width, depth or width, tile, key_tile or tile, dtype)
    return taken(kernel, pointers(kernel, dtype), constants(kernel, chosen), architecture)


def pointers(kernel, dtype):
    kinds = dict.fromkeys(OWN, NAMES[dtype]) | dict.fromkeys(PLAIN, "fp32") | dict.fromkeys(WHOLE, "i32") | {"mask": "i8"}
    return {name: kinds[name] for name in kernel.arg_names if name in kinds}


def constants(kernel, chosen):
    return {name: value for name, value in NUMBERS.items() if name in kernel.arg_names} | chosen


def check(found, architecture):
    assert found.stack == 0, f"registers spill: {found}"
    assert found.shared <= MOST_SHARED[architecture] * 1024, found


@needs_inspector
def test_the_attention_kernel_compiles_for_hopper_without_spills():
    check(spent("attend, whole", 90, 64, torch.bfloat16), 90)


@pytest.fixture
def sampled(request):
    """All of what it is given where all long tests run, else one that the commit chooses."""
    everything = request.config.getoption("all_long")
    seed = zlib.crc32(f"{commit_of(request.config.rootpath)} {request.node.name}".encode())
    return lambda items: items if everything else [items[seed % len(items)]]


@needs_inspector
@pytest.mark.long
@pytest.mark.parametrize("dtypes", [(torch.float16, torch.bfloat16), (torch.float32,)])
@pytest.mark.parametrize("name", KERNELS)
def test_every_configuration_compiles_without_spills(name, dtypes, sampled):
    widths = [width for width in WIDTHS if width <= MOST_WIDTH[dtypes[0]]]
    for width, dtype, architecture in sampled(list(product(widths, dtypes, MOST_SHARED))):
        check(spent(name, architecture, width, dtype), architecture)


@needs_inspector
@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("attend", {"width": 48, "depth": 80, "tile": 128, "dtype": torch.bfloat16}),
        ("attend", {"width": 64, "tile": 16, "dtype": torch.float16}),
        ("attend, whole", {"width": 64, "tile": 128, "key_tile": 32, "dtype": torch.bfloat16}),
        ("attend, whole", {"width": 128, "tile": 32, "dtype": torch.float32}),
        ("keys", {"width": 64, "tile": 32, "dtype": torch.bfloat16}),
        ("queries", {"width": 64, "depth": 128, "tile": 32, "dtype": torch.float16}),
        ("moments", {"width": 96, "tile": 16, "dtype": torch.float16}),
        ("tiles", {"width": 256, "depth": 64, "tile": 16, "dtype": torch.bfloat16}),
        ("attend, causal", {"width": 48, "depth": 80, "dtype": torch.float16}),
        ("attend, causal", {"width": 128, "depth": 64, "dtype": torch.float32}),
        ("queries, causal", {"width": 64, "depth": 128, "dtype": torch.bfloat16}),
        ("causal tables", {"width": 256, "depth": 64, "dtype": torch.bfloat16}),
    ],
)
def test_other_tiles_and_widths_do_not_spill_either(name, options, sampled):
    for architecture in sampled(list(MOST_SHARED)):
        check(spent(name, architecture, **options), architecture)


@needs_inspector
@pytest.mark.long
@pytest.mark.parametrize("tiles", [3, 256, 2048, 4096])
def test_the_choice_and_the_sort_take_few_registers(tiles):
    choose, place = triton_scores.choose_kernel, triton_order.place_kernel
    for architecture in MOST_SHARED:
        check(
            taken(
                choose, pointers(choose, torch.bfloat16), constants(choose, triton_scores.choose_options(tiles)), architecture
            ),
            architecture,
        )
        check(taken(place, pointers(place, torch.bfloat16), triton_order.place_options(), architecture), architecture)


@needs_inspector
@pytest.mark.long
@pytest.mark.parametrize("slots", [3, 256, 2048, 8192])
def test_the_causal_choice_takes_few_registers(slots):
    kernel, options = triton_causal_scores.choose_slots_kernel, triton_causal_scores.choose_slots_options(slots)
    for architecture in MOST_SHARED:
        found = taken(kernel, pointers(kernel, torch.bfloat16), constants(kernel, CAUSAL | options), architecture)
        check(found, architecture)


@needs_inspector
def test_a_configuration_that_spills_is_seen():
    kernel, options = KERNELS["centres"]
    chosen = options(256, 256, 64, 64, torch.float32) | {"num_warps": 1}
    assert taken(kernel, pointers(kernel, torch.float32), constants(kernel, chosen), 90).stack > 0
