"""Measurements survive their CSV exactly, and a bad one is refused with its line and column."""

import csv
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.cost import Cost
from szilard.cost_model.errors import InputError
from szilard.cost_model.measurement import Measurement, read_measurements, split_hash, work_of, write_measurements

ROW = Measurement(
    config="bert int8 8x128",
    family="bert",
    scope="model",
    work={"flop.float32": 1e9, "byte.memory": 3e8, "launch": 12.0},
    seconds=0.011,
    seconds_low=0.0108,
    seconds_high=0.0113,
    joules=2.5,
    joules_low=2.45,
    joules_high=2.55,
    label="measured",
)

NAMES = st.text(min_size=1, max_size=12).filter(str.strip)
POSITIVE = st.floats(min_value=1e-12, max_value=1e12)
MAYBE = st.none() | POSITIVE


@st.composite
def measurements(draw):
    seconds = sorted(draw(st.lists(POSITIVE, min_size=3, max_size=3)))
    label = draw(st.sampled_from(["measured", "modelled", "replayed", "unavailable"]))
    joules = [None] * 3 if label == "unavailable" else sorted(draw(st.lists(POSITIVE, min_size=3, max_size=3)))
    keys = NAMES.filter(lambda key: key != "static")
    return Measurement(
        draw(NAMES),
        draw(NAMES),
        draw(st.sampled_from(["model", "class", "op"])),
        draw(st.dictionaries(keys, st.floats(min_value=0, max_value=1e20), max_size=4)),
        *(seconds[i] for i in (1, 0, 2)),
        *(joules[i] for i in (1, 0, 2)),
        label,
        draw(MAYBE),
        draw(MAYBE),
        draw(st.text(max_size=12)),
        draw(st.none() | st.floats(-50, 150)),
        draw(MAYBE),
        draw(MAYBE),
        *draw(st.tuples(*[st.text(max_size=12)] * 4)),
    )


@given(st.lists(measurements(), min_size=1, max_size=4, unique_by=lambda row: row.config))
@settings(max_examples=150, deadline=None)
def test_csv_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "measurements.csv"
    write_measurements(path, rows)
    assert read_measurements(path) == tuple(rows)
    assert [child.name for child in path.parent.iterdir()] == ["measurements.csv"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "measurements.csv"
    write_measurements(path, [ROW])
    with pytest.raises(UnicodeEncodeError):
        write_measurements(path, [replace(ROW, throttle="\ud800")])
    assert read_measurements(path) == (ROW,)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_hash_is_of_what_was_run_only():
    assert len(ROW.hash) == 16
    assert replace(ROW, seconds=0.0111, driver="570").hash == ROW.hash
    assert replace(ROW, work=dict(reversed(ROW.work.items()))).hash == ROW.hash
    others = [replace(ROW, config="x"), replace(ROW, family="x"), replace(ROW, work={**ROW.work, "launch": 13.0})]
    assert len({ROW.hash, *(row.hash for row in others)}) == 4


def test_the_design_of_a_row_has_its_seconds_as_static():
    assert ROW.design == {**ROW.work, "static": 0.011}


def test_the_split_hash_is_of_two_sets():
    assert split_hash(["a", "b"], ["c"]) == split_hash(["b", "a", "a"], ["c"])
    assert len({split_hash(["a", "b"], ["c"]), split_hash(["a"], ["b", "c"]), split_hash(["a", "b"], ["d"])}) == 3


def test_the_work_of_a_cost():
    cost = Cost(
        *(3.0, 7.0, 2, 1.0, 1.0, {}, "table", 0.0, 0.0, 0.0),
        flops_by_dtype={"float32": 2.0, "int8": 1.0},
        bytes_by_level={"memory": 4.0, "cache": 0.0, "link": 3.0},
    )
    assert work_of(cost) == {"flop.float32": 2.0, "flop.int8": 1.0, "byte.memory": 4.0, "link": 3.0, "launch": 2.0}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"config": " "}, "config is empty"),
        ({"scope": "layer"}, "scope is 'layer' and must be one of model, class, op"),
        ({"label": "guessed"}, "label is 'guessed'"),
        ({"work": {"static": 1.0}}, "static work is the seconds"),
        ({"work": {"launch": -1.0}}, "work:launch is -1.0"),
        ({"seconds": 0.0, "seconds_low": 0.0}, "seconds is 0.0 and must be finite and above zero"),
        ({"temperature": float("nan")}, "temperature is nan and must be finite"),
        ({"seconds_low": 0.02}, "outside seconds_low 0.02"),
        ({"joules_high": 1.0}, "outside joules_low 2.45 to joules_high 1.0"),
        ({"joules": None}, "label is 'measured' with joules None"),
        ({"label": "unavailable"}, "label is 'unavailable' with joules 2.5"),
    ],
)
def test_a_measurement_that_means_nothing_is_a_programming_error(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(ROW, **change)


def written(tmp_path, header, *lines):
    path = tmp_path / "mine.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def test_a_csv_written_by_hand_may_leave_columns_out(tmp_path):
    path = written(tmp_path, ["config", "family", "scope", "seconds", "work:launch"], ["a", "bert", "model", "0.5", "3"])
    (row,) = read_measurements(path)
    assert row == Measurement("a", "bert", "model", {"launch": 3.0}, 0.5, 0.5, 0.5, None, None, None, "unavailable")


HEADER = ["config", "family", "scope", "seconds", "joules", "label", "work:launch"]
GOOD = ["a", "bert", "model", "0.5", "2.0", "measured", "3"]


@pytest.mark.parametrize(
    ("header", "lines", "sentence"),
    [
        (HEADER, [], "hold no rows"),
        ([], [], "Line 1 of .* lacks the column 'config'"),
        (HEADER[1:], [GOOD[1:]], "Line 1 of .* lacks the column 'config'"),
        ([*HEADER, "note"], [[*GOOD, ""]], "Line 1 of .* unknown column 'note'"),
        ([*HEADER, "label"], [[*GOOD, ""]], "Line 1 of .* column 'label' twice"),
        (HEADER, [GOOD, GOOD[:-1]], "Line 3 of .* has 6 cells and the header 7"),
        (HEADER, [GOOD, [*GOOD[:3], "fast", *GOOD[4:]]], "Line 3 of .*, column seconds: 'fast' is not a number"),
        (HEADER, [[*GOOD[:3], "", *GOOD[4:]]], "Line 2 of .*, column seconds: there is no number"),
        (HEADER, [[*GOOD[:6], "many"]], "Line 2 of .*, column work:launch: 'many' is not a number"),
        (HEADER, [["", *GOOD[1:]]], "Line 2 of .*: config is empty"),
        (HEADER, [[*GOOD[:5], "", "3"]], "Line 2 of .*: label is '' and must be one of"),
        (HEADER, [GOOD, [*GOOD[:6], "4"]], "Line 3 of .*: config 'a' is there before with other work"),
        ([*HEADER, "hash"], [[*GOOD, "0" * 16]], "Line 2 of .*, column hash: 0000000000000000 is not that of"),
    ],
)
def test_a_bad_csv_is_refused_with_its_line_and_column(tmp_path, header, lines, sentence):
    path = written(tmp_path, header, *lines)
    with pytest.raises(InputError, match=sentence) as caught:
        read_measurements(path)
    assert "mine.csv" in str(caught.value)
    assert str(caught.value).endswith(".")


def test_files_that_are_no_csv(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv cannot be read: No such file"):
        read_measurements(tmp_path / "none.csv")
    for content in (b"\xff\xfe\x00", b'config,"family\n'):
        (tmp_path / "bytes.csv").write_bytes(content)
        with pytest.raises(InputError, match="are not CSV in UTF-8"):
            read_measurements(tmp_path / "bytes.csv")


def test_repeats_of_a_config_are_kept(tmp_path):
    path = tmp_path / "measurements.csv"
    rows = (ROW, replace(ROW, seconds=0.0109))
    write_measurements(path, rows)
    assert read_measurements(path) == rows
