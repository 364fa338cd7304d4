"""Which kernel runs a linear layer, with which tiles: the first line of a table that fits, of the GPU's own table or the default one.

A table is a JSON file, named after its GPU, with lines such as
{"kernel": "int4", "rows": 16, "K": 4096, "N": 4096, "group": 128, "dtype": "bfloat16", "way": "tiled", "BLOCK_M": 16, ...}.
`rows` is the most rows that a line serves (none: any number), and a line without K, N, group or dtype serves all of them. What is left are
the tiles: `way` is "gemv" (one row, no tensor cores) or "tiled"; SPLIT_K is the number of programs that share the sums of a tile, or FILL
how many programs there should be for each multiprocessor, which are then shared out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent / "tuning"
DEFAULT = "default"
KEYS = ("kernel", "rows", "K", "N", "group", "dtype")
BUCKETS = (1, 4, 16, 64, 256, 1024, 4096)
"""Numbers of rows that tables have lines for; what has more rows is served as the last."""
LEAST_PART = 512
"""Rows of the weight that a program takes at least where tables say FILL: fewer do not pay for the kernel that adds up the parts."""
SPLIT_ROWS = 64
"""Up to so many rows a product over two parts of K or more is taken to be split, and so to be two kernels, in prices."""


@dataclass(frozen=True)
class Dispatch:
    """The kernel of a call and all that it is compiled for. `split` programs share the sums of each tile, each over `steps` times BLOCK_K
    rows of the weight; `table` is the file that says so."""

    way: str
    tiles: Mapping[str, int]
    split: int
    steps: int
    table: str

    def __str__(self) -> str:
        tiles = ", ".join(f"{name}={value}" for name, value in self.tiles.items())
        return f"{self.way} kernel, K in {self.split} parts of {self.steps} steps, {tiles} (table {self.table})"


@lru_cache(maxsize=4096)
def dispatch(
    kernel: str, rows: int, features: int, columns: int, group: int, dtype: str, gpu: str = DEFAULT, processors: int = 100
) -> Dispatch:
    """How `kernel` ("int8", "int4", "fp8" or "fp8 rows") multiplies [rows, features] by [features, columns] on the GPU of that name with so
    many multiprocessors; `group` is 0 for one scale a column, `dtype` that of the inputs."""
    asked = {"kernel": kernel, "rows": rows, "K": features, "N": columns, "group": group, "dtype": dtype}
    table, line = next((name, line) for name in (file_name(gpu), DEFAULT) for line in lines(name) if fits(line, asked))
    return launched(line, asked, processors, table)


def launched(line: Mapping, asked: Mapping, processors: int, table: str) -> Dispatch:
    """The launch that a line of `table` gives for what is asked: a value for each of `KEYS`."""
    kernel, rows, features, columns, group = (asked[key] for key in KEYS[:5])
    tiles = {name: value for name, value in line.items() if name not in (*KEYS, "way", "SPLIT_K", "FILL")}
    # A tile of weights lies in one group, so that one row of scales serves it; 4-bit kernels see to that themselves.
    if group and kernel != "int4":
        tiles["BLOCK_K"] = min(tiles["BLOCK_K"], group)
    steps = -(-features // tiles["BLOCK_K"])
    programs = -(-columns // tiles["BLOCK_N"]) * -(-rows // tiles.get("BLOCK_M", 1))
    wanted = line["SPLIT_K"] if "SPLIT_K" in line else min(line["FILL"] * processors // programs, features // LEAST_PART)
    each = -(-steps // max(1, min(wanted, steps)))
    return Dispatch(line["way"], tiles, -(-steps // each), each, table)


def fits(line: Mapping, asked: Mapping) -> bool:
    """Whether a line of a table serves what is asked for."""
    most = line.get("rows")
    if line["way"] == "gemv" and asked["rows"] != 1:
        return False
    return (most is None or asked["rows"] <= most) and all(
        line.get(key, asked[key]) == asked[key] for key in KEYS if key != "rows"
    )


@lru_cache(maxsize=16)
def lines(name: str) -> tuple[Mapping, ...]:
    """The lines of a table, fewest rows first; none where there is no such table."""
    path = FOLDER / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8"))["lines"] if path.exists() else []
    return tuple(sorted(found, key=lambda line: line.get("rows") or float("inf")))


def file_name(gpu: str) -> str:
    """The name of a GPU's table: "NVIDIA H100 80GB HBM3" is in nvidia-h100-80gb-hbm3.json."""
    return "-".join("".join(c if c.isalnum() else " " for c in gpu.lower()).split())


def split_rows(features: int) -> int:
    """Rows up to which a product over so many rows of the weight is priced as two kernels; 0 for none."""
    return SPLIT_ROWS if features >= 2 * LEAST_PART else 0


def most_rows(table: str = DEFAULT) -> int:
    """Rows that a tile holds at most: each tile of rows reads every weight and turns it into a float once."""
    return max(line.get("BLOCK_M", 1) for line in lines(table))
