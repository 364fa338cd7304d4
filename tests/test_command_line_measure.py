"""The texts of a measurement and of a comparison: every figure with what it is."""

from szilard.rewriter.command_line_measure import compare_text, measure_text

SECONDS = {"predicted": 0.2, "predicted_from": "roofline", "measured": 0.1, "low": 0.09, "high": 0.11}


def test_joules_without_a_counter_are_modelled():
    reason = "There is no counter, so joules are modelled."
    joules = {"predicted": 1.0, "modelled": 0.75, "measured": None, "low": None, "high": None, "unavailable": reason}
    text = measure_text({"runs": [{"workload": name, "seconds": SECONDS, "joules": joules} for name in ("1x128", "8x128")]})
    header, first, second, note = text.splitlines()
    assert header.split()[-3:] == ["joules", "modelled", "measured"]
    assert first.split()[1:4] == ["200", "ms", "roofline"]
    assert "90.0 ms to 110 ms" in first
    assert first.endswith("750 mJ  unavailable")
    assert second.startswith("8x128")
    assert note == f"joules unavailable: {reason}"


def test_ops_without_a_price_make_totals_a_lower_limit():
    joules = {"predicted": 1.0, "modelled": 0.75, "measured": 0.5, "at_least": True, "unpriced": ["fft_2"]}
    runs = [
        {"workload": "1x128", "seconds": SECONDS, "joules": joules},
        {"workload": "8x128", "seconds": {**SECONDS, "predicted_from": "rewrite"}, "joules": joules},
    ]
    _, first, second, note = measure_text({"runs": runs}).splitlines()
    assert "at least 200 ms  roofline" in first
    assert "at least 750 mJ    500 mJ" in first
    assert "at least 200 ms" not in second
    assert note == 'Without a price, so totals say "at least": fft_2.'


def test_measured_joules_stand_beside_the_modelled_ones():
    joules = {"predicted": 1.0, "modelled": 0.75, "measured": 0.5, "low": 0.4, "high": 0.6, "label": "measured"}
    text = measure_text({"runs": [{"workload": "1x128", "seconds": SECONDS, "joules": joules}]})
    assert text.splitlines()[1].endswith("750 mJ    500 mJ")
    assert "unavailable" not in text


def test_a_comparison_starts_with_the_ratio():
    ratio = {"a": 0.2, "b": 0.1, "ratio": 0.5, "low": 0.48, "high": 0.52}
    result = {"seconds": ratio, "joules": ratio, "error": {"relative_squared": 0.01, "cosine": 0.995}}
    lines = compare_text(result, "first.onnx", "second.onnx").splitlines()
    assert lines[0] == "B takes 0.500 of the time of A (interval 0.480 to 0.520, measured)"
    assert lines[1:3] == ["A  200 ms  first.onnx", "B  100 ms  second.onnx"]
    assert "ratio 0.500 (0.480 to 0.520, measured)" in lines[3]
    assert lines[4] == "error of B against A: 0.01 relative squared, mean cosine 0.995"


def test_what_is_unavailable_says_why():
    ratio = {"a": 0.2, "b": 0.1, "ratio": 0.5, "low": 0.48, "high": 0.52}
    text = compare_text(
        {"seconds": ratio, "joules": {"unavailable": "No counter."}, "error": {"unavailable": "Other shapes."}}, "a", "b"
    )
    assert "joules unavailable: No counter." in text
    assert "error: Other shapes." in text
