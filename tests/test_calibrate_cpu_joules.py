"""Joules of a processor with a counter: fitted where readings tell coefficients apart, else left as priors with the reason.

A simulated card stands for the counter, and its loads for the kernels.
"""

from dataclasses import replace

import numpy as np
import pytest

from szilard.cost_model.device import load_device
from szilard.cost_model.energy_reading import EnergyReading
from szilard.cost_model.fit import Estimate, Fit
from szilard.cost_model.joule_fit import fit_joules
from szilard.cost_model.measurement import Measurement
from szilard.cost_model.simulated_card import CardTraits, SimulatedCard
from szilard.cost_model.simulated_meter import SimulatedMeter
from szilard.rewriter import calibrate_cpu_joules
from szilard.rewriter.calibrate_cpu import calibrate_cpu
from szilard.rewriter.calibrate_cpu_joules import EFFORT, READING_SECONDS
from szilard.rewriter.microbenchmarks import counted, microbenchmarks

from .few_microbenchmarks import KERNELS, use

READINGS = 11
FOUND = Fit({"static": Estimate(120.0, 118.0, 122.0)}, 2.0, 0.01, READINGS)


class Sometimes(SimulatedMeter):
    """Refuses the readings whose number is in `refuses`, and is interrupted at the number `stops`."""

    def __init__(self, traits=None, refuses=(), stops=None):
        super().__init__(SimulatedCard(traits or CardTraits(seed=1)))
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "plan", (refuses, stops))

    def energy(self, run, *, name, **effort):
        refuses, stops = self.plan
        if len(self.asked) == stops:
            raise KeyboardInterrupt
        self.asked.append(name)
        if len(self.asked) - 1 in refuses:
            return EnergyReading("unavailable", f"reading {len(self.asked) - 1} was too hot")
        return super().energy(run, name=name, **effort)


@pytest.fixture
def few(monkeypatch):
    """Twelve microbenchmarks timed by a law, of which eleven are read; a call takes 1 ms and 50 W above 120 W."""
    monkeypatch.setattr(calibrate_cpu_joules, "KERNELS", KERNELS)
    monkeypatch.setattr(
        calibrate_cpu_joules, "_call", lambda session, benchmark: METER[0].clock.load(benchmark.key, [(1e-3, 50.0)])
    )
    return use(monkeypatch)


METER: list[SimulatedMeter] = []


def run(out, meter):
    METER[:] = [meter]
    return calibrate_cpu(out, meter, passes=1, progress=lambda _: None)


def test_joules_that_the_readings_cannot_tell_apart_stay_priors_and_seconds_are_kept(few, tmp_path):
    result = run(tmp_path / "mine.json", Sometimes())
    assert "left as priors" in result["joules"]
    assert "cannot tell" in result["joules"]
    device = load_device(tmp_path / "mine.json")
    assert device.coefficients["static"].provenance == "prior"
    assert device.coefficients["time.onnxruntime.neg.call"].provenance == "measured"


def test_readings_that_are_all_refused_are_never_called_read(few, tmp_path):
    hot = replace(CardTraits().sensors, throttle=("thermal slowdown",))
    result = run(tmp_path / "mine.json", Sometimes(CardTraits(sensors=hot)))
    assert result["joules"].startswith(
        "left as priors: No energy counter: that of a simulated card belongs to a device that is slowed"
    )
    device = load_device(tmp_path / "mine.json")
    assert device.coefficients["static"].provenance == "prior"
    assert "generic cpu profile" in device.notes


def test_what_was_fitted_says_how_many_readings_were_refused_and_why(few, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(calibrate_cpu_joules, "fit_joules", lambda rows, base: seen.append(rows) or FOUND)
    result = run(tmp_path / "mine.json", Sometimes(refuses=(2, 5)))
    assert len(seen[0]) == READINGS - 2
    assert f"fitted on {READINGS - 2} readings" in result["joules"]
    assert result["joules"].endswith("2 readings were refused, the first: reading 2 was too hot")


def test_a_package_that_draws_more_than_the_generic_limit_raises_it(few, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate_cpu_joules, "fit_joules", lambda rows, base: FOUND)
    assert load_device("cpu").value("power_limit") < 120
    result = run(tmp_path / "mine.json", Sometimes())
    device = load_device(tmp_path / "mine.json")
    assert "fitted on" in result["joules"]
    assert device.value("static") == 120.0
    assert device.value("power_limit") == pytest.approx(170.0, rel=0.05)
    assert device.coefficients["power_limit"].source.startswith("Modelled")


def test_readings_that_were_made_are_not_made_again(few, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate_cpu_joules, "fit_joules", lambda rows, base: FOUND)
    out, first, second = tmp_path / "mine.json", Sometimes(stops=4), Sometimes()
    with pytest.raises(KeyboardInterrupt):
        run(out, first)
    assert not out.exists()
    timed = list(few)
    result = run(out, second)
    assert few == timed
    assert len(first.asked) == 4
    assert len(second.asked) == READINGS - 4
    assert not set(first.asked) & set(second.asked)
    assert f"fitted on {READINGS} readings" in result["joules"]


@pytest.mark.parametrize("tick", [0.001, 0.02])
def test_a_reading_takes_no_longer_than_is_set_aside_for_it(tick):
    spent = []
    for seed, seconds in enumerate((2e-5, 1e-3, 2e-2, 0.15)):
        meter = SimulatedMeter(SimulatedCard(CardTraits(seed=seed, tick=tick, tick_jitter=tick / 100)))
        began = meter.clock.now()
        reading = meter.energy(meter.clock.load("a", [(seconds, 50.0)]), **EFFORT)
        assert reading.joules
        spent.append(meter.clock.now() - began)
    assert sum(spent) / len(spent) < READING_SECONDS
    assert max(spent) < 1.5 * READING_SECONDS


@pytest.mark.long
def test_the_shipped_readings_tell_joules_apart():
    """On a card that draws what hidden coefficients say, in seconds of the roofline at varied occupancy."""
    base, random = load_device("cpu"), np.random.default_rng(5)
    hidden = {key: value * random.uniform(0.6, 1.6) for key, value in base.values.items()}
    names = [f"{b.kernel}: {b.name}" for b in microbenchmarks() if b.kernel in calibrate_cpu_joules.KERNELS]
    chosen, rows = set(calibrate_cpu_joules._spread(names)), []
    for benchmark in microbenchmarks():
        if (name := f"{benchmark.kernel}: {benchmark.name}") in chosen:
            work = counted(benchmark, base, [8e6])["work"]
            busy = work.get("launch", 0) * 2e-6 + sum(amount for key, amount in work.items() if key != "launch") / 2e11
            seconds = random.uniform(1, 2) * (1e-5 + busy)
            truth = hidden["static"] * seconds + sum(hidden[key] * amount for key, amount in work.items())
            joules = truth * (1 + 0.01 * random.standard_normal())
            rows.append(
                Measurement(name, benchmark.kernel, "op", work, seconds, seconds, seconds, joules, joules, joules, "modelled")
            )
    found = fit_joules(rows, base)
    assert len(rows) == len(chosen) == 28
    assert found.condition < 30
    for key in ("flop.float32", "byte.memory", "static"):
        assert found.coefficients[key].low <= hidden[key] <= found.coefficients[key].high, key
