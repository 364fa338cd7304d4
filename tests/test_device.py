"""Device profiles: complete, honest about where numbers come from, and readable errors for a user's own file."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest

from szilard.cost_model.counts import Counts
from szilard.cost_model.device import REQUIRED, UNITS, device_from_json, device_names, load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.price import price_counts

DTYPES = ("float64", "float32", "float16", "bfloat16", "float8", "int8", "int32")


def test_the_shipped_profiles():
    assert device_names() == ("a100", "cpu", "h100", "h200", "l4")
    assert {load_device(name).kind for name in device_names()} == {"cpu", "cuda"}


@pytest.mark.parametrize("name", device_names())
def test_every_coefficient_says_where_it_comes_from(name):
    device = load_device(name)
    assert device.name == name
    for key, coefficient in device.coefficients.items():
        assert coefficient.low <= coefficient.value <= coefficient.high, key
        assert coefficient.unit == UNITS[key.partition(".")[0]], key
        assert coefficient.source.endswith("."), key
        assert len(coefficient.source.split()) >= 4, key
        assert coefficient.source.startswith({"prior": "Prior:", "datasheet": "Datasheet:"}[coefficient.provenance]), key
        if coefficient.provenance == "prior" and key.startswith(("flop", "byte")):
            assert coefficient.high / coefficient.low >= 3.9, key  # believed within a factor of two either way


@pytest.mark.parametrize("name", device_names())
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_a_price_and_a_rate(name, dtype):
    device = load_device(name)
    for wanted in (dtype, f"{dtype}.tensor"):
        assert device.value(f"flop.{device.resolve(wanted)}") > 0
        assert device.value(f"rate.{device.resolve(wanted)}") > 0


@pytest.mark.parametrize("name", device_names())
def test_narrow_formats_are_never_dearer(name):
    device = load_device(name)
    prices = [device.value(f"flop.{device.resolve(d)}") for d in ("int8.tensor", "float16.tensor", "float32.tensor", "float64")]
    assert prices == sorted(prices)
    assert device.value("byte.cache") < device.value("byte.memory")
    # No profile may promise more arithmetic than its power limit pays for by more than a factor of three.
    for dtype in ("int8.tensor", "float16.tensor", "float32"):
        kind = device.resolve(dtype)
        assert device.value(f"flop.{kind}") * device.value(f"rate.{kind}") < 3 * device.value("power_limit")


def test_a_dtype_without_a_unit_runs_in_the_next_wider_one():
    a100, h100, cpu = load_device("a100"), load_device("h100"), load_device("cpu")
    assert a100.resolve("float8.tensor") == "float16.tensor"
    assert h100.resolve("float8.tensor") == "float8.tensor"
    assert cpu.resolve("float16.tensor") == "float16"
    assert cpu.resolve("int8.tensor") == "int8"
    with pytest.raises(InputError, match=r"flop\.float128"):
        cpu.resolve("float128")


@pytest.mark.parametrize("name", device_names())
def test_json_round_trip(name, tmp_path):
    device = load_device(name)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(device.to_json()))
    assert load_device(path) == device
    assert load_device(str(path)) == device


def test_a_profile_remembers_what_it_was_fitted_on():
    device = load_device("cpu")
    assert device.calibration == {}
    assert "calibration" not in device.to_json()
    fitted = replace(device, calibration={"families": ["copy", "matmul"], "rows": 40})
    assert device_from_json(json.loads(json.dumps(fitted.to_json())), "mine.json") == fitted
    assert fitted.with_values({"static": 1.0}).calibration["families"] == ["copy", "matmul"]


def test_a_digest_tells_profiles_apart():
    device = load_device("cpu")
    assert device.digest == load_device("cpu").digest != load_device("l4").digest
    assert device.with_values({"static": 1.0}).digest != device.digest


def test_with_values_scales_the_uncertainty_and_leaves_the_original():
    device = load_device("cpu")
    other = device.with_values({"static": 2 * device.value("static")})
    assert other.value("static") == other.values["static"] == 2 * device.value("static")
    assert other.coefficients["static"].high == pytest.approx(2 * device.coefficients["static"].high)
    assert other.coefficients["static"].low == pytest.approx(2 * device.coefficients["static"].low)
    assert other.coefficients["launch"] == device.coefficients["launch"]
    assert device == load_device("cpu")
    assert device.with_values({"static": 0.0}).coefficients["static"].high == 0
    with pytest.raises(InputError, match="statik"):
        device.with_values({"statik": 1.0})


GOOD = load_device("cpu").to_json()


def bad(change):
    data = deepcopy(GOOD)
    change(data)
    return data


CASES = {
    "a JSON object": list,
    "format": lambda: bad(lambda d: d.update(format=9)),
    "'notes'": lambda: bad(lambda d: d.pop("notes")),
    "kind 'tpu'": lambda: bad(lambda d: d.update(kind="tpu")),
    "'coefficients'": lambda: bad(lambda d: d.update(coefficients=3)),
    "flip.float32 .* not known": lambda: bad(lambda d: d["coefficients"].update({"flip.float32": d["coefficients"]["static"]})),
    "static .* exactly the fields": lambda: bad(lambda d: d["coefficients"]["static"].pop("source")),
    "static .* number under 'low'": lambda: bad(lambda d: d["coefficients"]["static"].update(low="1")),
    "static .* number under 'value'": lambda: bad(lambda d: d["coefficients"]["static"].update(value=True)),
    "static .* low <= value <= high": lambda: bad(lambda d: d["coefficients"]["static"].update(low=1e9)),
    "launch .* low <= value <= high": lambda: bad(lambda d: d["coefficients"]["launch"].update(high=float("nan"))),
    "rate.float32 .* greater than zero": lambda: bad(lambda d: d["coefficients"]["rate.float32"].update(low=0)),
    "static .* unit 'mW'": lambda: bad(lambda d: d["coefficients"]["static"].update(unit="mW")),
    "static .* provenance 'guess'": lambda: bad(lambda d: d["coefficients"]["static"].update(provenance="guess")),
    "static .* 'source'": lambda: bad(lambda d: d["coefficients"]["static"].update(source=" ")),
    "lacks the coefficient rate.int8": lambda: bad(lambda d: d["coefficients"].pop("rate.int8")),
    "'families' of 'calibration'": lambda: bad(lambda d: d.update(calibration={"families": "matmul"})),
    "an object under 'calibration', not a list": lambda: bad(lambda d: d.update(calibration=["matmul"])),
    "launch .* all finite": lambda: bad(lambda d: d["coefficients"]["launch"].update(high=10**400)),
    "cal .* time.<runtime>.<kernel> and one of call": lambda: bad(
        lambda d: d["coefficients"].update({"time.onnxruntime.neg.cal": d["coefficients"]["launch"]})
    ),
    "power_limit that static power": lambda: bad(lambda d: d["coefficients"]["static"].update(value=99, high=99)),
}


@pytest.mark.parametrize("sentence", CASES)
def test_a_bad_profile_is_refused_with_a_sentence_that_names_the_key(sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        device_from_json(CASES[sentence](), "mine.json")
    assert "mine.json" in str(caught.value)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(key):
    with pytest.raises(InputError, match=f"lacks the coefficient {key};"):
        device_from_json(bad(lambda d: d["coefficients"].pop(key)), "mine.json")


def test_unknown_names_and_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="choose one of a100, cpu, h100, h200, l4"):
        load_device("b300")
    with pytest.raises(InputError, match="There is no device"):
        load_device("b" * 300)
    path = tmp_path / "broken.json"
    for content in (b"{", b"\xff\xfe\x00", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as JSON"):
            load_device(path)


@pytest.mark.parametrize("name", ["a100", "h100", "h200", "l4"])
def test_onnxruntime_multiplies_float32_as_tf32_on_a_gpu(name):
    device = load_device(name)
    used = device.used_by("onnxruntime")
    assert used.unit("float32.tensor") == ("float16.tensor", 2.0)
    assert device.used_by("torch").unit("float32.tensor") == ("float32", 1.0)
    assert used.unit("float32") == ("float32", 1.0)
    assert used.unit("float16.tensor") == ("float16.tensor", 1.0)
    counts = Counts({"float32.tensor": 1e12})
    slow, fast = (price_counts(counts, each, "matmul") for each in (device, used))
    assert fast.terms["arithmetic"] == pytest.approx(2e12 * device.value("flop.float16.tensor"))
    bound = fast.seconds_by_bound["rate.float16.tensor utilisation.matmul"]
    assert bound == pytest.approx(2e12 / device.value("rate.float16.tensor") / device.value("utilisation.matmul"))
    assert fast.joules < slow.joules
    assert used.to_json() == device.to_json()
    own = {key.replace("float16.tensor", "float32.tensor"): each for key, each in device.coefficients.items()}
    assert replace(device, coefficients={**device.coefficients, **own}).used_by("onnxruntime").unit("float32.tensor")[1] == 1.0


def test_a_processor_is_used_as_it_is():
    cpu = load_device("cpu")
    assert cpu.used_by("onnxruntime") is cpu
