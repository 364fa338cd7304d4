"""Calibration data that fits, that does not, and how it is split."""

import numpy as np
import pytest

from szilard.cost_model.errors import InputError
from szilard.cost_model.program import Program
from szilard.rewriter.calibration_data import read_calibration, relative_error


@pytest.fixture
def program() -> Program:
    sample = {"x": np.ones((1, 3), np.float32), "ids": np.ones((1, 5), np.int64)}
    return Program(None, "onnxruntime", sample, ("x", "ids"), ("y",), {"ids": {1: "length"}}, "test")


def draw(length: int = 5) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(length)
    return {"x": generator.standard_normal((1, 3)).astype(np.float32), "ids": generator.integers(0, 9, (1, length))}


def test_samples_of_different_lengths_are_split_in_turn(program):
    samples = [draw(n) for n in (5, 7, 9, 11, 13)]
    found = read_calibration(samples, program)
    assert [s["ids"].shape[1] for s in found.scoring] == [5, 9, 13]
    assert [s["ids"].shape[1] for s in found.held_out] == [7, 11]
    assert found.is_held_out


def test_an_archive_and_its_leading_axis(program, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.ones((4, 1, 3), np.float32), ids=np.ones((4, 1, 5), np.int32))
    found = read_calibration(tmp_path / "data.npz", program)
    assert len(found.scoring) == len(found.held_out) == 2
    assert found.scoring[0]["ids"].dtype == np.int64


def test_one_sample_is_used_for_both(program):
    found = read_calibration([draw()], program)
    assert found.scoring == found.held_out
    assert not found.is_held_out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": None}, "missing \\['x'\\]"),
        ({"z": np.ones(1)}, "unknown \\['z'\\]"),
        ({"x": np.ones((1, 4), np.float32)}, "input x has shape 1x4"),
        ({"ids": np.ones((1, 5))}, "dtype float64"),
        ({"x": np.full((1, 3), np.nan, np.float32)}, "NaN"),
        ({"ids": np.ones((2, 5), np.int64)}, "input ids has shape 2x5, the model reads 1xlength"),
    ],
)
def test_what_does_not_fit_is_said(program, change, words):
    sample = {name: array for name, array in {**draw(), **change}.items() if array is not None}
    with pytest.raises(InputError, match=words):
        read_calibration([sample], program)


def test_files_that_are_no_archives(program, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_calibration(tmp_path / "none.npz", program)
    (tmp_path / "bad.npz").write_bytes(b"not an archive")
    with pytest.raises(InputError, match="not a readable"):
        read_calibration(tmp_path / "bad.npz", program)
    np.savez_compressed(tmp_path / "whole.npz", **{name: np.stack([array] * 2) for name, array in draw().items()})
    whole = (tmp_path / "whole.npz").read_bytes()
    start = whole.index(b".npy") + 40
    for torn in (whole[:-30], whole[:start] + bytes(20) + whole[start + 20 :]):
        (tmp_path / "torn.npz").write_bytes(torn)
        with pytest.raises(InputError, match="not a readable"):
            read_calibration(tmp_path / "torn.npz", program)
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(InputError, match="single array"):
        read_calibration(tmp_path / "one.npy", program)


def test_relative_error_is_the_squared_ratio():
    reference = [{"y": np.array([3.0, 4.0])}]
    assert relative_error([{"y": np.array([3.0, 4.5])}], reference) == pytest.approx(0.25 / 25)
    assert relative_error([{"y": np.array([3.0, np.nan])}], reference) == np.inf
    assert relative_error([{"y": np.array([1, 2])}], [{"y": np.array([1, 3])}]) == 0.5
    infinite = np.array([-np.inf, 1.0])
    assert relative_error([{"y": infinite}], [{"y": infinite}]) == 0.0


def test_caches_do_not_drown_the_logits_beside_them():
    reference = [{"logits": np.ones(4), "present.0.key": np.full(1000, 9.0)}]
    wrong_logits = [{"logits": np.zeros(4), "present.0.key": np.full(1000, 9.0)}]
    wrong_cache = [{"logits": np.ones(4), "present.0.key": np.full(1000, 4.5)}]
    assert relative_error(wrong_logits, reference) == 1.0
    assert relative_error(wrong_cache, reference) == pytest.approx(0.25)
    assert relative_error(reference, reference) == 0.0
