"""Tests of device_text.py and coefficients.py: every number of a profile is explained on lines that fit a page."""

from dataclasses import replace

import pytest

from szilard.cost_model.coefficients import FAMILIES, by_family, provenance_counts
from szilard.cost_model.device import UNITS, device_names, load_device
from szilard.rewriter.device_text import WIDTH, counted, device_text, devices_text
from szilard.rewriter.quantity import quantity

DEVICES = [load_device(name) for name in device_names()]


def joined(text):
    return " ".join(text.split())


def test_every_family_of_the_schema_has_a_meaning():
    assert set(FAMILIES) == {*UNITS, "time"}


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name)
def test_every_coefficient_has_a_row_with_its_source_below_it(device):
    text = device_text(device)
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH
    for key, coefficient in device.coefficients.items():
        (place,) = [number for number, line in enumerate(lines) if line.startswith(f"  {key} ")]
        assert coefficient.provenance in lines[place]
        if coefficient.unit != "1":
            assert quantity(coefficient.value, coefficient.unit) in lines[place]
            assert ("exact" in lines[place]) == (coefficient.low == coefficient.high)
        below = joined("\n".join(lines[place + 1 :]))
        assert below.startswith(joined(coefficient.source)), key
    for family in by_family(device.coefficients):
        assert joined(FAMILIES[family]) in joined(text)


def test_an_interval_shows_both_ends():
    (line,) = [line for line in device_text(load_device("h100")).splitlines() if line.startswith("  byte.memory ")]
    assert joined(line) == "byte.memory 100 pJ/B prior 50.0 pJ/B to 200 pJ/B"
    (line,) = [line for line in device_text(load_device("cpu")).splitlines() if line.startswith("  utilisation.matmul ")]
    assert joined(line) == "utilisation.matmul 0.85 prior 0.4 to 1"


def test_profiles_say_how_many_of_their_numbers_are_priors():
    for device in DEVICES:
        assert sum(provenance_counts(device).values()) == len(device.coefficients)
        assert counted(device) in device_text(device)
        assert counted(device) in devices_text(DEVICES)
    cpu = load_device("cpu")
    assert provenance_counts(cpu) == {"prior": len(cpu.coefficients)}
    table = {**cpu.coefficients, "static": replace(cpu.coefficients["static"], provenance="measured")}
    some = replace(cpu, coefficients=table)
    assert counted(some) == f"{len(table) - 1} prior, 1 measured"
    assert "A prior is believed" in device_text(some)
    none = replace(cpu, coefficients={key: replace(c, provenance="measured") for key, c in table.items()})
    assert "A prior is believed" not in device_text(none)


def test_a_family_that_has_no_meaning_yet_is_shown_behind_the_others():
    cpu = load_device("cpu")
    odd = replace(cpu, coefficients={"zeal.odd": cpu.coefficients["launch"], **cpu.coefficients})
    assert list(by_family(odd.coefficients))[-1] == "zeal"
    assert device_text(odd).index("zeal.odd") > device_text(odd).index("utilisation.recurrent")


def test_a_calibrated_profile_says_on_what():
    record = {"rows": 40, "condition": 12.3456, "date": "2031-05-01", "families": ["copy", "matmul"]}
    text = device_text(replace(load_device("cpu"), calibration=record))
    assert "Calibrated 2031-05-01 on 40 rows of copy, matmul; condition 12.3." in text
    assert "Calibrated" not in device_text(load_device("cpu"))
    few = device_text(replace(load_device("cpu"), calibration={"families": ["copy"]}))
    assert "Calibrated on rows of copy; condition unknown." in few
    none = device_text(replace(load_device("cpu"), calibration={"date": "2031-05-01"}))
    assert "Calibrated 2031-05-01 on rows of families that are not recorded; condition unknown." in none


def test_a_long_key_widens_its_own_family_only():
    cpu = load_device("cpu")
    key = "time.onnxruntime.matmul_nbits.4bits.level4.cached_weight_byte"
    found = replace(cpu, coefficients={**cpu.coefficients, key: replace(cpu.coefficients["launch"], unit="s/B")})
    rows = device_text(found).splitlines()
    assert max(map(len, rows)) <= WIDTH + 5
    assert [row for row in rows if row.startswith("  launch ")] == [
        row for row in device_text(cpu).splitlines() if row.startswith("  launch ")
    ]


def test_lists_fit_the_page():
    assert max(map(len, devices_text(DEVICES).splitlines())) <= WIDTH
