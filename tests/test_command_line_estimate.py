"""The text of an estimate, and the device profiles as users see them."""

import json

from typer.testing import CliRunner

from szilard.cost_model.device import device_names, load_device
from szilard.rewriter.command_line import app
from szilard.rewriter.command_line_estimate import estimate_text


def estimate(count: int, unpriced: int = 0) -> dict:
    ops = [
        {"id": f"op_{i}", "kind": "matmul" if i % 2 else "add", "joules": float(i), "seconds": 0.1, "share": 0.1}
        for i in range(count)
    ]
    total = {"joules": float(sum(range(count))), "seconds": 0.1 * count, "flops": 2e9, "bytes": 3e6, "label": "roofline"}
    names = [f"odd_{i}" for i in range(unpriced)]
    return {
        "model": "m",
        "target": "h200",
        "ops": ops,
        "total": total,
        "at_least": bool(unpriced),
        "unpriced": names,
        "notes": ["Fixed."],
    }


def test_the_dearest_ops_come_first_and_few():
    text = estimate_text(estimate(40))
    assert "m on h200: 780 J and 4.00 s per call (modelled, seconds from roofline)" in text
    assert text.index("op_39") < text.index("op_38")
    assert "op_5 " not in text
    assert "matmul 20 400 J 51.3 %" in " ".join(text.split())
    assert "at least" not in text
    assert "floors (modelled), which decide nothing" in text
    assert text.endswith("note: Fixed.")


def test_it_says_on_what_the_joules_rest_and_what_each_level_moves():
    result = estimate(3)
    result["provenance"] = {"prior": 0.83, "measured": 0.17}
    result["total"] |= {"memory_bytes": 1e6, "cache_bytes": 5e6}
    text = estimate_text(result)
    assert "\njoules: modelled; 83 % of them rest on prior coefficients, 17 % on measured ones\n" in text
    assert "3.00 MB moved (1.00 MB past the last cache, 5.00 MB to and from cores)" in text
    assert "rest on" not in estimate_text(estimate(3))


def test_ops_without_a_price_are_named():
    text = estimate_text(estimate(3, unpriced=20))
    assert "at least 3.00 J" in text
    assert "odd_0, odd_1" in text
    assert "and 8 more" in text


def test_every_profile_is_listed_and_shown_with_its_sources():
    listed = json.loads(CliRunner().invoke(app, ["devices", "--json"]).stdout)["devices"]
    assert [device["name"] for device in listed] == list(device_names())
    for name in device_names():
        coefficients = load_device(name).coefficients
        provenances = next(device["provenances"] for device in listed if device["name"] == name)
        assert sum(provenances.values()) == len(coefficients)
        shown = CliRunner().invoke(app, ["devices", "show", name])
        assert shown.exit_code == 0
        text = " ".join(shown.stdout.split())
        for key, coefficient in coefficients.items():
            (line,) = [line for line in shown.stdout.splitlines() if line.startswith(f"  {key} ")]
            assert coefficient.unit in line or coefficient.unit == "1"
            assert coefficient.provenance in line
            assert coefficient.source.strip() in text
        data = json.loads(CliRunner().invoke(app, ["devices", "show", name, "--json"]).stdout)
        assert data == load_device(name).to_json()
