"""Tests of kernels/linear_parts/tuning.py: which kernel runs a call, with which tiles, and what the shipped tables hold."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szilard.kernels.linear_parts import tuning
from szilard.kernels.linear_parts.tuning import BUCKETS, DEFAULT, KEYS, dispatch, file_name

OWN = [
    {"kernel": "int4", "rows": 16, "K": 256, "N": 512, "group": 64, "dtype": "float16", "way": "tiled", "BLOCK_M": 16, "BLOCK_N": 32,
     "BLOCK_K": 64, "GROUP_M": 2, "SPLIT_K": 2, "num_warps": 8, "num_stages": 2},
    {"kernel": "int4", "rows": 1, "K": 256, "N": 512, "group": 64, "dtype": "float16", "way": "gemv", "BLOCK_N": 64, "BLOCK_K": 64,
     "STAGES": 1, "SPLIT_K": 1, "num_warps": 1, "num_stages": 1},
]  # fmt: skip


@pytest.fixture
def own_table(tmp_path, monkeypatch):
    (tmp_path / "nvidia-toy-9.json").write_text(json.dumps({"gpu": "NVIDIA Toy 9", "label": "measured", "lines": OWN}))
    (tmp_path / f"{DEFAULT}.json").write_text((tuning.FOLDER / f"{DEFAULT}.json").read_text())
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    for cached in (tuning.lines, tuning.dispatch):
        cached.cache_clear()
    yield
    for cached in (tuning.lines, tuning.dispatch):
        cached.cache_clear()


def test_one_row_is_a_gemv_and_more_are_tiles_that_grow():
    for kernel in ("int8", "int4", "fp8", "fp8 rows"):
        group = 64 if kernel == "int4" else 0
        found = [dispatch(kernel, rows, 4096, 4096, group, "bfloat16", processors=132) for rows in BUCKETS]
        assert [each.way for each in found] == ["gemv"] + ["tiled"] * (len(BUCKETS) - 1)
        sizes = [each.tiles.get("BLOCK_M", 1) for each in found]
        assert sizes == sorted(sizes)
        assert sizes[2] == 16
        assert found[0].split > 1
        assert found[-1].split == 1


def test_a_gpus_own_line_comes_first_and_the_default_serves_the_rest(own_table):
    assert dispatch("int4", 9, 256, 512, 64, "float16", "NVIDIA Toy 9").tiles["BLOCK_N"] == 32
    assert dispatch("int4", 1, 256, 512, 64, "float16", "NVIDIA Toy 9").table == "nvidia-toy-9"
    for changed in (
        {"rows": 17},
        {"features": 320},
        {"columns": 500},
        {"group": 32},
        {"dtype": "bfloat16"},
        {"kernel": "int8"},
    ):
        asked = {"kernel": "int4", "rows": 9, "features": 256, "columns": 512, "group": 64, "dtype": "float16"} | changed
        assert dispatch(**asked, gpu="NVIDIA Toy 9").table == DEFAULT
    assert dispatch("int4", 9, 256, 512, 64, "float16", "NVIDIA Other").table == DEFAULT


def test_the_choice_says_itself():
    said = str(dispatch("int4", 1, 4096, 4096, 128, "float16", processors=100))
    assert said == (
        "gemv kernel, K in 8 parts of 8 steps, BLOCK_N=128, BLOCK_K=64, STAGES=4, num_warps=4, num_stages=4 (table default)"
    )


@given(
    st.sampled_from(["int8", "int4", "fp8", "fp8 rows"]),
    st.integers(1, 9000),
    st.integers(1, 20000),
    st.integers(1, 20000),
    st.sampled_from([32, 64, 128]),
    st.integers(1, 200),
)
def test_parts_cover_k_once_and_none_is_empty(kernel, rows, features, columns, group, processors):
    group = 0 if kernel.startswith("fp8") else group
    found = dispatch(kernel, rows, features, columns, group, "float16", processors=processors)
    step = found.tiles["BLOCK_K"]
    assert (found.split - 1) * found.steps * step < features <= found.split * found.steps * step
    if group and kernel != "int4":
        assert group % step == 0


def test_names_of_gpus_are_names_of_files():
    assert file_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert file_name(DEFAULT) == DEFAULT


def test_shipped_tables_say_what_they_are_and_every_line_is_whole():
    tables = sorted(tuning.FOLDER.glob("*.json"))
    assert [path.stem for path in tables if path.stem == DEFAULT] == [DEFAULT]
    for path in tables:
        table = json.loads(path.read_text())
        assert table["gpu"]
        assert ("unverified on CUDA" if path.stem == DEFAULT else "measured") in table["label"]
        for line in table["lines"]:
            tiles = {"BLOCK_N", "BLOCK_K", "num_warps", "num_stages"}
            tiles |= {"STAGES"} if line["way"] == "gemv" else {"BLOCK_M", "GROUP_M"}
            assert set(line) - set(KEYS) - {"way", "SPLIT_K", "FILL"} == tiles
            assert ("SPLIT_K" in line) != ("FILL" in line)


def test_tiles_of_the_default_table_are_the_rows_that_prices_know():
    assert tuning.most_rows() == 128
