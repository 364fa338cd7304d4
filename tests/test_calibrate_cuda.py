"""A card is calibrated from end to end on a simulated one: its intervals hold the hidden coefficients, it is resumable, refused where the
design cannot tell coefficients apart, done in five minutes, and nowhere called measured."""

import json
import statistics

import numpy as np
import pytest

from szilard.benchmarks.gpu_simulated import SimulatedBench
from szilard.cost_model.device import device_names, load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.joule_design import joule_points
from szilard.cost_model.measurement import read_measurements, split_hash
from szilard.cost_model.meter import Meter
from szilard.rewriter.calibrate_cuda import HELD_OUT, calibrate_cuda, calibrate_on, profile_of

PRIOR = load_device("h200")
CARDS = [name for name in device_names() if load_device(name).kind == "cuda"]
MOST_SECONDS = 240.0
"""On a simulated card, where opening a case takes no time: a minute is left for that."""


class Counted(SimulatedBench):
    """Counts what is opened, and stops at `stops` cases."""

    opened, stops = 0, 10**6

    def open(self, case):
        if self.opened == self.stops:
            raise KeyboardInterrupt
        self.opened += 1
        return super().open(case)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """(bench, sentences, result, folder) of a whole calibration."""
    bench, said = Counted(PRIOR, 3), []
    folder = tmp_path_factory.mktemp("card")
    return bench, said, calibrate_on(bench, PRIOR, folder / "my-card.json", progress=said.append), folder


def recovery(bench, result, device):
    """Key -> (whether its interval holds the hidden coefficient as this counter shows it, its relative half-width; None at the prior)."""
    traits, found = bench.card.traits, {}
    # Static power is that at the mean temperature of the rows; below 35 degrees the card does not leak.
    rows = read_measurements(result["measurements"])
    warm = statistics.fmean(row.temperature for row in rows) - 35.0
    for key, one in result["fits"]["joules"]["coefficients"].items():
        hidden = bench.truth.value(key) * (1.0 + traits.leakage * warm if key == "static" else 1.0)
        held = one["low"] <= hidden * traits.gain <= one["high"]
        found[key] = (held, None if one["at_prior"] else (one["high"] - one["low"]) / 2 / one["value"])
        assert device.value(key) == one["value"]
    return found


def test_the_profile_is_nearer_to_the_card_than_the_prior(calibrated):
    bench, _, result, folder = calibrated
    device = load_device(folder / "my-card.json")
    found = recovery(bench, result, device)
    assert len(found) == 11
    assert all(width is not None for _, width in found.values())

    def error(profile):
        return statistics.median(abs(profile.value(key) / bench.truth.value(key) / bench.card.traits.gain - 1) for key in found)

    assert error(device) < 0.25 * error(PRIOR)
    assert result["condition"] < 10
    assert device.name == "my_card"
    assert device.value("power_limit") == 700.0


@pytest.mark.long
@pytest.mark.parametrize("card", CARDS)
def test_nine_in_ten_intervals_of_every_card_hold_its_hidden_coefficients(card, tmp_path):
    prior, held, widths, read = load_device(card), {}, [], []
    for seed in range(12):
        bench = SimulatedBench(prior, seed)
        result = calibrate_on(bench, prior, tmp_path / "card.json", progress=lambda _: None)
        assert bench.card.now() == result["measuring_seconds"] < MOST_SECONDS
        for key, (one, width) in recovery(bench, result, load_device(tmp_path / "card.json")).items():
            held.setdefault(key, []).append(one)
            widths += [] if width is None else [width]
        rows = read_measurements(result["measurements"])
        read += [(row.joules_high - row.joules_low) / 2 / row.joules for row in rows]
    assert {"static", "launch", "byte.memory", "byte.cache", "flop.float32", "flop.float16.tensor"} < set(held)
    assert np.mean([one for found in held.values() for one in found]) >= 0.9
    # A key that is right nine times in ten is right in fewer than 8 of 12 seeds once in 230.
    assert min(sum(found) for found in held.values()) >= 8, held
    assert statistics.median(widths) < 0.1
    assert statistics.median(read) < 0.02


def test_static_power_is_that_at_a_temperature_and_says_so(calibrated):
    _, _, result, folder = calibrated
    source = load_device(folder / "my-card.json").coefficients["static"].source
    rows = read_measurements(result["measurements"])
    assert f"At {statistics.fmean(row.temperature for row in rows):.0f} deg C" in source
    assert "each kelvin more draws 0." in source


def test_seconds_are_kept_and_leave_a_minute_of_five(calibrated):
    bench, _, result, folder = calibrated
    spent = load_device(folder / "my-card.json").calibration["measuring_seconds"]
    assert spent == result["measuring_seconds"] == bench.card.now()
    assert 60.0 < spent < MOST_SECONDS


def test_the_split_is_said_before_anything_is_measured(calibrated):
    _, said, result, folder = calibrated
    families = {point.family for point in joule_points(PRIOR)}
    assert said[0].startswith(f"split {split_hash(families, HELD_OUT)}: ")
    assert result["split_hash"] == split_hash(families, HELD_OUT)
    quiet, nothing = Counted(PRIOR, 3), []
    quiet.stops = 0
    with pytest.raises(KeyboardInterrupt):
        calibrate_on(quiet, PRIOR, folder / "other.json", progress=nothing.append)
    assert nothing == said[:1]
    assert quiet.card.now() == 0.0


def test_nothing_simulated_is_called_measured(calibrated):
    _, _, result, folder = calibrated
    device = load_device(folder / "my-card.json")
    assert {one.provenance for one in device.coefficients.values()} == {"modelled", "prior", "datasheet"}
    assert all(one.source.startswith("Modelled") for one in device.coefficients.values() if one.provenance == "modelled")
    assert {row.label for row in read_measurements(folder / "my-card.measurements.csv")} == {"modelled"}
    assert result["label"] == "modelled"
    assert result["joules"].startswith("modelled")
    said = json.dumps([device.notes, result["joules"], device.calibration])
    assert "measured" not in said.replace("nothing is measured", "")


def test_a_stopped_calibration_goes_on_where_it_was(tmp_path):
    out = tmp_path / "card.json"
    points = joule_points(PRIOR)[::3]
    first, second = Counted(PRIOR, 1), Counted(PRIOR, 1)
    first.stops = 9
    with pytest.raises(KeyboardInterrupt):
        calibrate_on(first, PRIOR, out, points=points, progress=lambda _: None)
    assert not out.exists()
    assert len(json.loads((tmp_path / "card.json.part").read_text())["rows"]) == 8
    calibrate_on(second, PRIOR, out, points=points, progress=lambda _: None)
    assert second.opened == len(points) - 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "card.measurements.csv"]


def test_a_collinear_design_is_refused_and_no_profile_is_written(tmp_path):
    points = [point for point in joule_points(PRIOR) if point.family == "copy" and not point.pause]
    with pytest.raises(InputError, match="cannot tell the costs of these apart"):
        calibrate_on(Counted(PRIOR, 2), PRIOR, tmp_path / "card.json", points=points, progress=lambda _: None)
    assert not (tmp_path / "card.json").exists()


def test_without_a_counter_seconds_are_fitted_and_joules_stay_priors(tmp_path):
    bench = Counted(PRIOR, 5)
    bench.meter = Meter("unavailable", "No energy counter: zeus is not installed; joules are modelled.", None, bench.card)
    points = joule_points(PRIOR)[:14]
    result = calibrate_on(bench, PRIOR, tmp_path / "card.json", points=points, progress=lambda _: None)
    device = load_device(tmp_path / "card.json")
    assert result["joules"] == bench.meter.reason
    assert result["condition"] is None
    assert device.coefficients["static"] == PRIOR.coefficients["static"]
    assert device.value("bandwidth.memory") == pytest.approx(bench.truth.value("bandwidth.memory"), rel=0.3)
    assert device.coefficients["bandwidth.memory"].provenance == "measured"
    assert "no energy counter" in device.notes


def test_a_card_is_known_by_its_name():
    assert profile_of("NVIDIA H200").name == "h200"
    assert profile_of("NVIDIA A100-SXM4-80GB").name == "a100"
    assert profile_of("NVIDIA L4").name == "l4"
    with pytest.raises(InputError, match="NVIDIA L40S"):
        profile_of("NVIDIA L40S")


def test_a_machine_without_a_card_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA card"):
        calibrate_cuda("cuda:0", tmp_path / "card.json")


def test_rows_are_kept_where_the_profile_cannot_be_written(tmp_path):
    out, points = tmp_path / "card.json", joule_points(PRIOR)[::3]
    first, second = Counted(PRIOR, 1), Counted(PRIOR, 1)
    out.mkdir()
    with pytest.raises(InputError, match=r"card\.json cannot be written"):
        calibrate_on(first, PRIOR, out, points=points, progress=lambda _: None)
    assert len(read_measurements(tmp_path / "card.measurements.csv")) == len(points)
    out.rmdir()
    calibrate_on(second, PRIOR, out, points=points, progress=lambda _: None)
    assert second.opened == 0
    assert load_device(out).calibration["rows"] == len(points)


def test_a_folder_that_takes_no_file_is_refused_before_anything_is_measured(tmp_path):
    bench = Counted(PRIOR, 1)
    with pytest.raises(InputError, match=r"card\.json\.part cannot be written: No such file"):
        calibrate_on(bench, PRIOR, tmp_path / "none" / "card.json", progress=lambda _: None)
    assert bench.opened == 0
    assert bench.card.now() == 0.0
