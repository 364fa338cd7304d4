"""The fastest tiles of each low-bit linear kernel on a GPU, found by changing one of them at a time, as a tuning table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..cost_model.whole_file import write_whole
from ..kernels.linear_fp8.triton_kernel import linear_fp8_triton
from ..kernels.linear_int4.triton_kernel import linear_int4_triton
from ..kernels.linear_int8.triton_kernel import linear_int8_triton
from ..kernels.linear_parts.triton_parts import card
from ..kernels.linear_parts.tuning import BUCKETS, DEFAULT, KEYS, Dispatch, dispatch, fits, launched, lines
from .gpu_attention_ways import seconds
from .gpu_linear_ways import COLD_BYTES, Operands, forms

Line = dict[str, Any]
Asked = Mapping[str, Any]
CHANGES: Mapping[str, Sequence[tuple[str, Sequence[int]]]] = {
    "gemv": (
        ("SPLIT_K", (1, 2, 4, 8, 16, 32)), ("BLOCK_N", (8, 16, 32, 64, 128, 256)), ("num_warps", (1, 2, 4, 8)),
        ("BLOCK_K", (16, 32, 64, 128, 256, 512)), ("STAGES", (1, 2, 4, 6)), ("SPLIT_K", (1, 2, 4, 8, 16, 32)),
    ),
    "tiled": (
        ("BLOCK_M", (16, 32, 64, 128)), ("BLOCK_N", (32, 64, 128, 256)), ("SPLIT_K", (1, 2, 4, 8, 16)), ("BLOCK_K", (32, 64, 128)),
        ("num_warps", (4, 8)), ("num_stages", (2, 3, 4, 5)), ("GROUP_M", (1, 4, 8)), ("SPLIT_K", (1, 2, 4, 8, 16)),
    ),
}  # fmt: skip
"""What is changed, in this order, and to what. Tiles of 4-bit weights are 64 rows high."""
CALLS: Mapping[str, Callable[..., torch.Tensor]] = {
    "int8": linear_int8_triton,
    "int4": linear_int4_triton,
    "fp8": linear_fp8_triton,
    "fp8 rows": partial(linear_fp8_triton, rows_in_fp8=True),
}
LEAST_GAIN = 0.98
"""A change is kept if a call takes at most this share of the time: less is within what two timings differ by."""


def tune(
    path: Path,
    device: str,
    minutes: float,
    widths: Sequence[int],
    timer: Callable[[Operands, Asked, Line], float] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Writes the table of this GPU as `path`, a line as soon as it is found; lines that are there stay. Returns a sentence about it."""
    name = card(torch.device(device))[0]
    kept = json.loads(path.read_text(encoding="utf-8"))["lines"] if path.exists() else []
    end, before = clock() + 60 * minutes, len(kept)
    held: Operands | None = None
    for width, (kernel, group), rows in product(widths, _kernels(), BUCKETS):
        asked = {"kernel": kernel, "rows": rows, "K": width, "N": width, "group": group, "dtype": "bfloat16"}
        most = {} if rows == BUCKETS[-1] else {"rows": rows}
        wanted = {**{key: value for key, value in asked.items() if key != "rows"}, **most}
        if any({key: line[key] for key in KEYS if key in line} == wanted for line in kept):
            continue
        if clock() > end:
            return f"{minutes:g} minutes are over, {len(kept) - before} new lines; the next run begins with {kernel}, {rows} x {width}."
        if held is None or held.width != width:
            held = None  # frees the memory of the last width before the next one's is taken
            held = Operands(width, device, "bfloat16", only=_ours(), cold_bytes=1.0 if device == "cpu" else COLD_BYTES)
        kept.append({**wanted, **best(held, asked, timer or seconds_of)})
        head = {"gpu": name, "label": f"measured on {name}: the fastest of those that the tuner tried"}
        body = ",\n".join("  " + json.dumps(line) for line in kept)
        text = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
        write_whole(path, f'{{\n{text} "lines": [\n{body}\n ]\n}}\n')
    lines.cache_clear()
    dispatch.cache_clear()
    return f"{len(kept) - before} new lines, {len(kept)} in all."


def best(operands: Operands, asked: Asked, timer: Callable[[Operands, Asked, Line], float]) -> Line:
    """The fastest line found from those of the default table that fit, one change at a time."""
    found: tuple[float, Line] | None = None
    for start in starts(asked):
        line, least = start, timer(operands, asked, start)
        for key, values in CHANGES[start["way"]]:
            for value in values:
                if line.get(key) == value or (key == "BLOCK_K" and asked["kernel"] == "int4"):
                    continue
                changed = {**line, key: value} | ({"num_stages": value} if key == "STAGES" else {})
                if (took := timer(operands, asked, changed)) < LEAST_GAIN * least:
                    line, least = changed, took
        if found is None or least < found[0]:
            found = least, line
    assert found is not None
    return found[1]


def starts(asked: Asked) -> Iterator[Line]:
    """The tiles of the line of the default table that serves what is asked; for one row also of that which serves two, on tensor cores."""
    for rows in {asked["rows"], max(2, asked["rows"])}:
        line = next(line for line in lines(DEFAULT) if fits(line, {**asked, "rows": rows}))
        tiles = {key: value for key, value in line.items() if key not in (*KEYS, "FILL")}
        yield {**tiles, "SPLIT_K": launched(line, asked, 100, DEFAULT).split}


def seconds_of(operands: Operands, asked: Asked, line: Line) -> float:
    """Seconds of a call with the tiles of a line; infinite where the GPU refuses them."""
    x, device = operands.input(asked["rows"]), torch.device(operands.device)
    held = operands.made[_ours()[asked["kernel"]]]
    chosen = launched(line, asked, card(device)[1], "tuned")
    samples, _ = seconds({"call": partial(_each, asked, x, held, chosen)}, operands.device, rounds=3, target=0.01)
    return median(samples["call"]) / len(held) if samples else float("inf")


def _each(asked: Asked, x: torch.Tensor, held: Sequence[tuple[torch.Tensor, ...]], chosen: Dispatch) -> torch.Tensor:
    options = {"group": asked["group"]} if asked["group"] else {}
    y = x
    for operands in held:
        y = CALLS[asked["kernel"]](x, *operands, chosen=chosen, **options)
    return y


def _ours() -> dict[str, str]:
    """Kernel -> the name of its way."""
    return {form.kernel: name for name, form in forms().items() if form.kernel}


def _kernels() -> list[tuple[str, int]]:
    return [(form.kernel, form.group) for form in forms().values() if form.kernel]
